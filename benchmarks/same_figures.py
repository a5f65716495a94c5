"""Compare the figures of two runs of the pipeline to the digit: all but times.

    python -m benchmarks.same_figures BEFORE AFTER

BEFORE and AFTER are folders with metrics/ as `dvc repro` leaves it. Compared are losses, distances,
accuracies, scores, plans, removed blocks, parameters, MACs, parity and calibration figures. Exit
code 1 where one differs or is missing. Metrics of versions without flat records
(docs/decisions/0017) are brought into their form first.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGES = ("train", "score", "plan", "heal", "export", "collapse", "precision", "verify")
TIMES = {"seconds", "images_per_s", "latency_ms", "savings_ms", "whole_ms", "measured_on"}
TEXTS = {"reason", "reference", "how"}
# The exporter writes the folder that it runs in into the graph, so these differ between folders.
BYTES = {"bytes", "onnx_bytes", "size_bytes", "sha256"}
KEYS = ("level", "epoch", "check", "precision", "backend", "name", "block")  # of flat records


def main(before: str, after: str) -> int:
    """Print what differs; return 1 where something does."""
    old, new = figures(Path(before)), figures(Path(after))
    different = [key for key in old.keys() & new.keys() if old[key] != new[key]]
    for key in sorted(different):
        print(f"{key}: {old[key]} → {new[key]}")
    for key in sorted(old.keys() - new.keys()):
        print(f"{key}: {old[key]} → missing")
    shared = len(old.keys() & new.keys())
    print(f"{shared - len(different)} of {shared} figures equal, {len(new) - shared} are new")
    return int(bool(different or old.keys() - new.keys()))


def figures(root: Path) -> dict[str, Any]:
    """Return every figure of a run by its place, e.g. ``verify/dense/checks/0 onnx/max_rel``."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        for file in sorted((root / "metrics" / stage).glob("*.json")):
            metrics = flat(stage, json.loads(file.read_text(encoding="utf-8")))
            found |= dict(places(metrics, f"{stage}/{file.stem}"))
    return found


def places(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield every value within another with its place, without times and texts."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in TIMES | TEXTS | BYTES and inner is not None:
                yield from places(inner, f"{place}/{key}")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            name = " ".join(str(inner[key]) for key in KEYS if inner.get(key) is not None)
            yield from places(inner, f"{place}/{name or number}")
    else:
        yield place, value


def flat(stage: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics in their present form, whichever they have."""
    levels = metrics.get("levels", [])
    if stage == "plan" and "left_out" in metrics:
        dead = [{"block": name, **found} for name, found in metrics.pop("dead").items()]
        return {**metrics, "not_removable": metrics.pop("left_out"), "dead": dead}
    if stage == "heal" and levels and "val_accuracy_removed_pct" in levels[0]:
        repairs = {"removed": "removed", "bn": "batch_norm", "healed": "healed"}
        for level in levels:
            keys = {name: f"val_accuracy_{short}_pct" for short, name in repairs.items()}
            level["val_accuracy_pct"] = {
                name: level.pop(key) for name, key in keys.items() if key in level
            }
    if stage == "precision" and levels and "graphs" in levels[0]:
        return {"calibration": metrics["calibration"], "graphs": list(_graphs(levels))}
    if stage == "verify" and levels and "rungs" in levels[0]:
        checks = [
            {"level": level["level"], "check": rung.pop("rung"), **rung}
            for level in levels
            for rung in level["rungs"]
        ]
        # Where nothing was compared there was no check.
        checks = [check for check in checks if not check["check"].endswith("torch")]
        return {"images": metrics["images"], "checks": checks}
    return metrics


def _graphs(levels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for level in levels:
        for precision, graph in level["graphs"].items():
            graph.pop("files", None)
            of_one_backend = graph.pop("by_backend", {})
            yield {"level": level["level"], "precision": precision, **graph}
            for backend, own in of_one_backend.items():
                yield {"level": level["level"], "precision": precision, "backend": backend, **own}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
