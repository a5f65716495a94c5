"""What a row of reports/summary.json says of its network, beyond its single fields."""

from collections.abc import Mapping
from typing import Any, Literal

Row = Mapping[str, Any]  # a variant at a level in a precision, as `report.summary_rows` makes it


def blocks_out(row: Row) -> list[str]:
    """Return the blocks that the network lacks, those that went while it trained first."""
    return [*row["removed_in_training"], *row["removed"]]


def blocks_out_told(row: Row) -> str:
    """Return them as a text that says which went in training; empty where none is out."""
    earlier = [f"{name} (in training)" for name in row["removed_in_training"]]
    return ", ".join([*earlier, *row["removed"]])


def engine_accuracy_pct(row: Row, backend: str | None, split: Literal["val", "test"]) -> float:
    """Return the accuracy of a row's engine; of its graph where that has not been run.

    Args:
        row: of reports/summary.json.
        backend: the engine's; None: of the graph.
        split: the images.
    """
    found: Mapping[str, float] | None = row["engine_accuracy_pct"].get(backend)
    accuracy: float = row[f"{split}_accuracy_pct"] if found is None else found[split]
    return accuracy
