"""Metrics of variants as the stages before `report` leave them, small and made up."""

from test_report import PRECISIONS, metrics

from pipeline.choice import choose
from pipeline.params import Choose
from pipeline.report import summary_rows
from pipeline.report_page import report_page

TARGET = {
    "devices": [],
    "cpu": "A CPU",
    "cores": 2,
    "versions": {"onnxruntime": "1.2", "openvino": "3.4"},
}
DATA = {
    "source": "image_folder",
    "classes": ["bag", "coat"],
    "image_size": 32,
    "channels": 1,
    "counts": {"train": {"bag": 4000, "coat": 5000}, "test": {"bag": 10, "coat": 10}},
}
BLOCKS = {"a": True, "layer.2": True, "layer.10": False}  # and whether each can go


def variant_metrics(slower_ms: float = 0.0, removed: tuple[str, ...] = ()) -> dict[str, dict]:
    """Return what the stages say of a variant with two levels in two precisions.

    Args:
        slower_ms: added to every latency.
        removed: blocks that went in training, after the first epoch.
    """
    found = metrics()
    there = [name for name in BLOCKS if name not in removed]
    found["train"] |= {
        "removed": list(removed),
        "epochs": [
            {"epoch": 1, "distances": {"a": 0.5, "layer.2": 0.000651}},
            {"epoch": 2, "distances": {name: 0.25 for name in there if BLOCKS[name]}},
        ],
    }
    found["score"] = {
        "blocks": [
            {"name": name, "removable": BLOCKS[name], "reason": "" if BLOCKS[name] else "too wide"}
            for name in there
        ],
        "guards": {name: {"displacement": 0.125} for name in there if BLOCKS[name]},
    }
    found["verify"]["images"] = 64
    for level in found["verify"]["levels"]:
        for rung in level["rungs"]:
            rung |= {"tolerance": {"max_rel": 0.01}, "max_rel": 0.001, "top1_agreement": 0.99}
    benchmark = found["benchmark"]
    benchmark["target"] = TARGET
    for number, level in enumerate(benchmark["levels"]):
        level["latency_ms"] = {p: _both(2.0 - number + slower_ms) for p in PRECISIONS}
        level["saved_ms"] = {p: _saved() for p in PRECISIONS} if number else {}
    return found


def _both(p50: float) -> dict:
    """Return the latencies on two backends, the second one slower."""
    return {
        name: {"8": {"p50": p50 * times, "p90": p50 * times, "p99": p50 * times}}
        for name, times in (("onnxruntime", 1.0), ("openvino", 1.5))
    }


def _saved() -> dict:
    saved = {"blocks": ["a"], "since_level": 0, "ms": 1.0, "ms_ci": [0.875, 1.125]}
    lost = {"blocks": ["a"], "since_level": 0, "ms": -0.25, "ms_ci": None}
    return {"onnxruntime": {"1": lost, "8": saved}, "openvino": {"8": lost}}


def two_variants() -> dict[str, dict[str, dict]]:
    """Return the metrics of a variant that is removed from, and of one that lost a block before."""
    return {"dense": variant_metrics(), "anneal": variant_metrics(0.25, ("layer.2",))}


def page_of(
    found: dict[str, dict[str, dict]],
    failures: dict[str, dict[str, str]] | None = None,
    data: dict = DATA,
    project: str = "shoal",
) -> str:
    """Return the page of these variants, with the recommendation that their rows give."""
    rows = [row for variant, own in found.items() for row in summary_rows(variant, own)]
    choice = choose(rows, Choose())
    return report_page(project, rows, choice, found, data, failures or {})
