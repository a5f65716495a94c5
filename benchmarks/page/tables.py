"""Results as tables in Markdown."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.evidence.trials import Results

Rows = list[dict[str, Any]]


def measured(experiment: str, task: str) -> Rows:
    """Return the results of an experiment on a task, seed by seed."""
    values = Results(experiment).known.values()
    rows = [value for value in values if isinstance(value, dict) and value.get("task") == task]
    return sorted(rows, key=lambda row: row["seed"])


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; nothing where it has no rows."""
    rows = list(rows)
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def grouped(rows: Rows, key: Callable[[dict[str, Any]], str]) -> dict[str, Rows]:
    """Return the rows by a label, in the order in which labels first come."""
    groups: dict[str, Rows] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)
