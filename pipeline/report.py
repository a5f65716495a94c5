"""Bring the stages' metrics together: one row per variant, level and precision."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.artifacts import REPORTS
from pipeline.repairs import ACCURACIES, Level
from pipeline.rows import engine_accuracy_pct

Metrics = Mapping[str, Any]  # one variant's metrics file of one stage
Row = dict[str, Any]
Item = TypeVar("Item")
SUMMARY = REPORTS / "summary.json"
STAGES = ("heal", "collapse", "precision", "build", "verify", "benchmark")


def summary_rows(variant: str, metrics: Mapping[str, Metrics]) -> list[Row]:
    """Return one row per level and precision of a variant, but for graphs that failed the ladder.

    Accuracies are those of exactly the precision's ONNX bytes; under `engine_accuracy_pct` those of
    each engine that was run, since a backend may have an int8 graph of its own. Latencies are those
    at the largest batch size, in ms; a backend that was not timed is absent.

    Args:
        variant: its name.
        metrics: of `train` and the stages `STAGES`.
    """
    chosen, earlier = metrics["heal"]["chosen_level"], metrics["train"]["removed"]
    return [
        row
        for at in zip(*(metrics[stage]["levels"] for stage in STAGES), strict=True)
        for row in _level_rows(variant, dict(zip(STAGES, at, strict=True)), chosen, earlier)
    ]


def _level_rows(
    variant: str, at: Mapping[str, Metrics], chosen: int, earlier: Sequence[str]
) -> list[Row]:
    healed, level = at["heal"], at["heal"]["level"]
    rungs = {
        rung["precision"]: rung
        for rung in at["verify"]["rungs"]
        if rung["rung"] == "precision" and rung["backend"] is None
    }
    return [
        {
            "variant": variant,
            "level": level,
            "precision": precision,
            "removed": healed["removed"],
            "removed_in_training": earlier,
            "replacement": healed["replacement"],
            "shipped": healed["shipped"],
            "chosen": level == chosen,
            "val_accuracy_pct": rungs[precision]["val_accuracy_pct"],
            **(_repairs(healed) if precision == "fp32" else {}),
            "test_accuracy_pct": rungs[precision]["test_accuracy_pct"],
            "engine_accuracy_pct": _engine_accuracies(at["verify"]["rungs"], precision),
            "params": at["collapse"]["params"],
            "macs": at["collapse"]["macs"],
            "onnx_bytes": graph["bytes"],
            "engine_bytes": {
                name: engine["bytes"]
                for name, engine in at["build"]["engines"].get(precision, {}).items()
            },
            "engine_weight_bytes": {
                name: engine["evidence"]["weight_bytes"]
                for name, engine in at["build"]["engines"].get(precision, {}).items()
            },
            "latency_ms": {
                name: _at_largest_batch(by_batch)
                for name, by_batch in at["benchmark"]["latency_ms"].get(precision, {}).items()
            },
        }
        for precision, graph in at["precision"]["graphs"].items()
        if rungs[precision]["status"] == "passed"
    ]


def _engine_accuracies(
    rungs: Iterable[Mapping[str, Any]], precision: str
) -> dict[str, dict[str, float]]:
    """Return ``{backend: {"val": …, "test": …}}`` of the engines that passed."""
    return {
        rung["backend"]: {split: rung[f"{split}_accuracy_pct"] for split in ("val", "test")}
        for rung in rungs
        if (rung["rung"], rung["precision"], rung["status"]) == ("engine", precision, "passed")
    }


def _repairs(healed: Level) -> Row:
    """Return the accuracy of the PyTorch network without and with every repair, where measured."""
    accuracies = {key: healed[key] for key in ACCURACIES.values() if key in healed}
    if "healing" not in healed:
        return accuracies
    spent = {key: healed["healing"][key] for key in ("seconds", "images_seen", "macs_spent")}
    return accuracies | {"healing": spent}


def _at_largest_batch(by_batch: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    latency = by_batch[max(by_batch, key=int)]
    return {key: latency[key] for key in ("p50", "p90", "p99")}


def pareto_front(rows: Sequence[Row], backend: str) -> list[Row]:
    """Return the rows that no other row beats in both test accuracy and p50 latency."""
    timed = [row for row in rows if backend in row["latency_ms"]]
    return front_of(
        timed,
        lambda row: row["latency_ms"][backend]["p50"],
        lambda row: engine_accuracy_pct(row, backend, "test"),
    )


def front_of(
    items: Iterable[Item], cost: Callable[[Item], float], gain: Callable[[Item], float]
) -> list[Item]:
    """Return the items that no other beats in both, by rising cost; of equals the first."""
    front: list[Item] = []
    for item in sorted(items, key=lambda item: (cost(item), -gain(item))):
        if not front or gain(item) > gain(front[-1]):
            front.append(item)
    return front
