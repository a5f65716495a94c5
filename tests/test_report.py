"""The summary: its rows, its table, its Pareto front, its pictures."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import plots
from pipeline.report import pareto_front, summary_rows
from pipeline.summary_tables import summary_markdown

LEVELS = [{"level": 0, "removed": []}, {"level": 1, "removed": ["a"]}]
PRECISIONS = {"fp32": 0.0, "int8": 0.5}  # and the points of accuracy each costs


def metrics() -> dict[str, dict]:
    """Return what the stages say of a variant with two levels in two precisions."""
    return {
        "train": {
            "removed": [],
            "train": {
                "strategy": {"name": "anneal"},
                "penalty": {"lambda": 0.5},
                "distill": {"teacher": "dense"},
            },
            "images_seen": 9000,
            "seconds": 12.4,
            "macs_spent": 2_500_000_000_000,
        },
        "plan": {"dead": {}},
        "heal": {
            "chosen_level": 1,
            "levels": [
                at
                | {
                    "replacement": "linear" if n else "identity",
                    "shipped": "removed",
                    "val_accuracy_removed_pct": 91.0 - n,
                    "val_accuracy_bn_pct": 91.1 - n,
                }
                for n, at in enumerate(LEVELS)
            ],
        },
        "collapse": {
            "levels": [
                at | {"params": 2000 - 1000 * n, "macs": 4_000_000 - 2_000_000 * n}
                for n, at in enumerate(LEVELS)
            ]
        },
        "precision": {
            "levels": [
                at | {"graphs": {p: {"bytes": 9000} for p in PRECISIONS}, "failed": {}}
                for at in LEVELS
            ]
        },
        "build": {
            "not_available": {"tensorrt": "tensorrt is not installed"},
            "levels": [
                at | {"engines": dict.fromkeys(PRECISIONS, SIZES), "failed": {}} for at in LEVELS
            ],
        },
        "verify": {
            "levels": [
                at | {"rungs": [rung(p, 90.0 - n - lost) for p, lost in PRECISIONS.items()]}
                for n, at in enumerate(LEVELS)
            ]
        },
        "benchmark": {
            "protocol": {"batch_sizes": [1, 8], "threads": 2, "rounds": 5, "repeats": 3},
            "target": {"cpu": "A CPU", "devices": [], "versions": {"onnxruntime": "1.2"}},
            "not_timed": {"tensorrt_rtx": "no CUDA device", "tensorrt": "not built: …"},
            "levels": [
                at | {"latency_ms": dict.fromkeys(PRECISIONS, latencies(2.0 - n))}
                for n, at in enumerate(LEVELS)
            ],
        },
    }


HELD = {"weight_bytes": {"float16": 4000, "float32": 500}}
SIZES = {
    "onnxruntime": {"bytes": 8000, "evidence": HELD},
    "tensorrt_rtx": {"bytes": 9500, "evidence": HELD},
}


def rung(precision: str, accuracy_pct: float) -> dict:
    return {
        "rung": "precision",
        "precision": precision,
        "backend": None,
        "status": "passed",
        "reason": None,
        "val_accuracy_pct": accuracy_pct + 0.5,
        "test_accuracy_pct": accuracy_pct,
    }


def latencies(p50: float) -> dict:
    return {
        "onnxruntime": {
            "1": {"p50": 0.2, "p90": 0.3, "p99": 0.4, "images_per_s": 5000},
            "8": {"p50": p50, "p90": 2.5, "p99": 3.0, "images_per_s": 4000},
        }
    }


def rows() -> list[dict]:
    return summary_rows("dense", metrics())


def test_a_row_per_level_and_precision_with_the_latency_at_the_largest_batch() -> None:
    first, quantized, second, _ = rows()
    assert first == {
        "variant": "dense",
        "level": 0,
        "precision": "fp32",
        "removed": [],
        "removed_in_training": [],
        "replacement": "identity",
        "shipped": "removed",
        "chosen": False,
        "val_accuracy_pct": 90.5,
        "val_accuracy_removed_pct": 91.0,
        "val_accuracy_bn_pct": 91.1,
        "test_accuracy_pct": 90.0,
        "engine_accuracy_pct": {},  # none was run
        "params": 2000,
        "macs": 4_000_000,
        "onnx_bytes": 9000,
        "engine_bytes": {"onnxruntime": 8000, "tensorrt_rtx": 9500},
        "engine_weight_bytes": dict.fromkeys(SIZES, HELD["weight_bytes"]),
        "latency_ms": {"onnxruntime": {"p50": 2.0, "p90": 2.5, "p99": 3.0}},
    }
    assert quantized["precision"] == "int8"
    assert quantized["test_accuracy_pct"] == 89.5
    assert "val_accuracy_bn_pct" not in quantized  # nothing of the kind was measured
    assert second["chosen"]
    assert second["latency_ms"]["onnxruntime"]["p50"] == 1.0


def test_an_engine_that_was_run_has_an_accuracy_of_its_own() -> None:
    found = metrics()
    rungs = found["verify"]["levels"][0]["rungs"]
    ran = rungs[1] | {"rung": "engine", "backend": "onnxruntime", "val_accuracy_pct": 77.0}
    rungs += [ran, ran | {"backend": "tensorrt_rtx", "status": "not run"}]
    _, quantized, *_ = summary_rows("dense", found)
    assert quantized["engine_accuracy_pct"] == {"onnxruntime": {"val": 77.0, "test": 89.5}}
    shown = summary_markdown([quantized | {"chosen": True}], {"dense": found})
    assert "| dense | 0 | int8 | onnxruntime | 77.00 | 89.50 |" in shown


def test_blocks_that_went_in_training_are_named_too() -> None:
    found = metrics()
    found["train"]["removed"] = ["b", "c"]
    kept = summary_rows("dense", found)
    assert kept[0]["removed_in_training"] == ["b", "c"]
    text = summary_markdown(kept, {"dense": found})
    assert "| dense | 0 | b (in training), c (in training) | – |" in text
    assert "| b (in training), c (in training), a | linear |" in text


def healed() -> dict[str, dict]:
    found = metrics()
    spent = {"seconds": 12.3, "images_seen": 6000, "macs_spent": 4 * 10**9}
    found["heal"]["levels"][1] |= {
        "shipped": "healed",
        "val_accuracy_healed_pct": 90.75,
        "healing": {**spent, "epochs": [{"epoch": 1}]},
    }
    return found


def test_repairs_have_columns_only_where_something_was_repaired() -> None:
    assert "Repair" not in summary_markdown(rows(), {"dense": metrics()})
    found = healed()
    repaired = summary_rows("dense", found)
    assert repaired[2]["shipped"] == "healed"
    assert repaired[2]["val_accuracy_healed_pct"] == 90.75
    assert repaired[2]["healing"] == {
        "seconds": 12.3,
        "images_seen": 6000,
        "macs_spent": 4 * 10**9,
    }
    assert "healing" not in repaired[3], "of the float32 network alone"
    text = summary_markdown(repaired, {"dense": found})
    assert "| dense | 0 | 91.00 | 91.10 | – | – | – | – | removed |" in text
    assert "| dense | **1** | 90.00 | 90.10 | 90.75 | 12 | 6 | 4 | healed |" in text


def test_a_network_without_batch_norm_has_nothing_to_re_estimate() -> None:
    found = metrics()
    for level in found["heal"]["levels"]:
        del level["val_accuracy_bn_pct"]
    text = summary_markdown(summary_rows("dense", found), {"dense": found})
    assert "| dense | 0 | – | – | 90.50 | – | 90.00 |" in text


def test_levels_that_do_not_match_are_refused() -> None:
    shorter = metrics()
    shorter["collapse"]["levels"].pop()
    with pytest.raises(ValueError, match="shorter"):
        summary_rows("dense", shorter)


def test_a_graph_that_failed_the_ladder_is_no_row_but_a_reason() -> None:
    found = metrics()
    found["verify"]["levels"][1]["rungs"][1] |= {"status": "failed", "reason": "cosine 0.1 < 0.97"}
    kept = summary_rows("dense", found)
    assert [(row["level"], row["precision"]) for row in kept] == [
        (0, "fp32"),
        (0, "int8"),
        (1, "fp32"),
    ]
    assert "- int8, dense level 1: cosine 0.1 < 0.97" in summary_markdown(kept, {"dense": found})


def test_the_tables_have_every_row_and_every_reason_once() -> None:
    text = summary_markdown(rows(), {"dense": metrics()})
    titles = ("## Training", "## Precision", "## Engines of the chosen levels")
    depth, training, precision, engines = (
        part.splitlines() for part in re.split("|".join(titles), text)
    )
    assert "| dense | anneal | 0.5 | dense | 0 | 9000 | 12 | 2.50 |" in training
    assert "| dense | **1** | a | linear | 89.50 | 90.10 | 89.00 | 1 | 2.00 | 9 | 1.00 |" in depth
    assert "| dense | **1** | 89.00 | 88.50 | 1.00 | 1.00 | 9 | 9 |" in precision
    assert "| dense | 1 | int8 | tensorrt_rtx | – | – | 10 | float16 4, float32 0 |" in engines
    for part in (depth, precision, engines):
        table = [line for line in part if line.startswith("|")]
        assert len(table) == (6 if part is engines else 4)
        assert len({line.count("|") for line in table}) == 1
    assert "batch 8, 2 threads" in text
    assert "on A CPU; onnxruntime 1.2." in text
    assert "- tensorrt_rtx: no CUDA device" in text
    assert text.count("- tensorrt:") == 1


def row(accuracy: float, p50: float) -> dict:
    latency = {"b": {"p50": p50}}
    return {"test_accuracy_pct": accuracy, "engine_accuracy_pct": {}, "latency_ms": latency}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    all_rows = [row(*point) for point in points]
    front = [
        (r["test_accuracy_pct"], r["latency_ms"]["b"]["p50"]) for r in pareto_front(all_rows, "b")
    ]
    beaten = {
        (a, t)
        for a, t in points
        if any(a2 >= a and t2 <= t and (a2, t2) != (a, t) for a2, t2 in points)
    }
    assert set(front) == set(points) - beaten
    assert len(front) == len(set(front))


def test_rows_that_were_not_timed_are_not_on_the_front() -> None:
    untimed = {"test_accuracy_pct": 99.0, "latency_ms": {}}
    assert pareto_front([untimed, row(50, 1)], "b") == [row(50, 1)]


def test_the_pictures_are_drawn_and_the_same_again(tmp_path: Path) -> None:
    history = [{"epoch": e, "distances": {"a": 1 / e, "b": 0.0}} for e in (1, 2, 3)]
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        plots.accuracy_against_latency(rows(), 8, tmp_path / name / "latency.png")
        plots.accuracy_against_removed(rows(), tmp_path / name / "removed.png")
        plots.distance_over_training({"dense": history}, tmp_path / name / "distance.png")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
        with Image.open(path) as picture:
            assert picture.width > 500
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10


def test_a_block_that_leaves_in_training_is_drawn_until_then(tmp_path: Path) -> None:
    drawn = []
    for gone_after in (1, 3):
        history = [{"epoch": e, "distances": {"a": 1 / e}} for e in (1, 2, 3)]
        for entry in history[:gone_after]:
            entry["distances"]["b"] = 2.0
        plots.distance_over_training({"dense": history}, tmp_path / "distance.png")
        drawn.append((tmp_path / "distance.png").read_bytes())
    history = [{"epoch": e, "distances": {"a": 1 / e}} for e in (1, 2, 3)]
    plots.distance_over_training({"dense": history}, tmp_path / "distance.png")
    drawn.append((tmp_path / "distance.png").read_bytes())
    assert len(set(drawn)) == 3


def test_nothing_timed_still_makes_a_report(tmp_path: Path) -> None:
    untimed = [row | {"latency_ms": {}} for row in rows()]
    found = metrics()
    found["benchmark"]["not_timed"] = {"onnxruntime": "not installed"}
    text = summary_markdown(untimed, {"dense": found})
    assert "- onnxruntime: not installed" in text
    plots.accuracy_against_latency(untimed, 8, tmp_path / "latency.png")
