"""The summary: its rows, its tables, its Pareto front, its pictures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reported import HELD, SIZES, failed, metrics, summary_of, untimed, variant_metrics

from models.errors import ArtifactError
from pipeline.plan.records import HealedLevel, Healing
from pipeline.report.charts import depth, distances, latency
from pipeline.report.charts.style import Spec, write_picture
from pipeline.report.failures import Failure
from pipeline.report.front import pareto_front
from pipeline.report.markdown import summary_markdown
from pipeline.report.metrics import VariantMetrics
from pipeline.report.records import Candidate, EngineRow, NetworkRow, Summary


def text_of(found: VariantMetrics) -> str:
    return summary_markdown(summary_of({"dense": found}), {"dense": found})


def test_a_row_per_level_and_precision() -> None:
    first, quantized, second, _ = summary_of({"dense": metrics()}).networks
    assert first == NetworkRow(
        variant="dense",
        level=0,
        precision="fp32",
        removed=[],
        removed_in_training=[],
        replacement="identity",
        shipped="removed",
        chosen=False,
        val_accuracy_pct=90.5,
        test_accuracy_pct=90.0,
        val_accuracy_by_repair_pct={"removed": 91.0, "batch_norm": 91.1},
        healing=None,
        params=2000,
        macs=4_000_000,
        onnx_bytes=9000,
    )
    assert quantized.precision == "int8"
    assert quantized.test_accuracy_pct == 89.5
    assert quantized.val_accuracy_by_repair_pct == {}  # nothing of the kind was measured
    assert second.chosen


def test_a_row_per_engine_with_the_latency_at_the_largest_batch() -> None:
    first, other, *_ = summary_of({"dense": metrics()}).engines
    assert first == EngineRow(
        variant="dense",
        level=0,
        precision="fp32",
        backend="onnxruntime",
        bytes=SIZES["onnxruntime"],
        weight_bytes=HELD,
        val_accuracy_pct=90.5,
        test_accuracy_pct=90.0,
        batch=8,
        quiet_ms=2.0,
        quiet_ci_ms=(1.99, 2.01),
        p50_ms=2.25,
        p90_ms=2.5,
        p99_ms=3.0,
    )
    assert (other.backend, other.val_accuracy_pct, other.quiet_ms) == ("tensorrt_rtx", None, None)


def test_an_engine_has_the_accuracy_of_its_own_bytes() -> None:
    found = metrics()
    checks = [
        replace(check, val_accuracy_pct=77.0)
        if (check.level, check.precision, check.backend) == (1, "int8", "onnxruntime")
        else check
        for check in found.verify.checks
    ]
    found = replace(found, verify=replace(found.verify, checks=checks))
    summary = summary_of({"dense": found})
    assert [engine.val_accuracy_pct for engine in summary.timed] == [90.5, 90.0, 89.5, 77.0]
    assert "| dense | 1 | int8 | onnxruntime | 77.00 | 88.50 |" in text_of(found)


def test_blocks_removed_in_training_are_named_too() -> None:
    found = metrics()
    found = replace(found, train=replace(found.train, removed=["b", "c"]))
    assert summary_of({"dense": found}).networks[0].all_removed == ["b", "c"]
    text = text_of(found)
    assert "| dense | 0 | b (in training), c (in training) | – |" in text
    assert "| b (in training), c (in training), a | linear |" in text


def with_level(found: VariantMetrics, level: HealedLevel) -> VariantMetrics:
    levels = [level if level.level == known.level else known for known in found.heal.levels]
    return replace(found, heal=replace(found.heal, levels=levels))


def test_repairs_have_columns_only_where_something_was_repaired() -> None:
    assert "Repair" not in text_of(metrics())
    found = metrics()
    planned = found.heal.levels[1]
    accuracies = {**planned.val_accuracy_pct, "healed": 90.75}
    spent = {"seconds": 12.3, "images_seen": 6000, "macs_spent": 4 * 10**9}
    healed = replace(
        planned,
        shipped="healed",
        val_accuracy_pct=accuracies,
        healing=Healing(**spent, epochs=[{"epoch": 1}]),
    )
    found = with_level(found, healed)
    repaired = summary_of({"dense": found}).networks
    assert (repaired[2].shipped, repaired[2].healing) == ("healed", spent)
    assert repaired[2].val_accuracy_by_repair_pct == accuracies
    assert repaired[3].healing is None, "of the float32 network alone"
    text = text_of(found)
    assert "| dense | 0 | 91.00 | 91.10 | – | – | – | – | removed |" in text
    assert "| dense | **1** | 90.00 | 90.10 | 90.75 | 12 | 6 | 4 | healed |" in text


def test_a_network_without_batch_norm_has_nothing_to_re_estimate() -> None:
    found = metrics()
    found = with_level(found, replace(found.heal.levels[0], val_accuracy_pct={"removed": 91.0}))
    assert "| dense | 0 | – | – | 90.50 | – | 90.00 |" in text_of(found)


def test_levels_that_do_not_match_are_an_error() -> None:
    found = metrics()
    shorter = replace(found.collapse, levels=found.collapse.levels[:1])
    with pytest.raises(ArtifactError, match=r"heal and collapse of variant 'dense' have different"):
        summary_of({"dense": replace(found, collapse=shorter)})


def test_a_graph_that_failed_the_parity_chain_is_no_row_but_a_reason() -> None:
    found = failed(metrics(), 6, "cosine 0.1 < 0.97")
    kept = summary_of({"dense": found})
    assert [(row.level, row.precision) for row in kept.networks] == [
        (0, "fp32"),
        (0, "int8"),
        (1, "fp32"),
    ]
    assert {engine.network for engine in kept.engines} == {row.key for row in kept.networks}
    assert "- int8, dense level 1: cosine 0.1 < 0.97" in text_of(found)


def test_the_tables_have_every_row_and_every_reason_once() -> None:
    text = text_of(metrics())
    titles = ("## Training", "## Precision", "## Engines of the chosen levels")
    depths, training, precision, engines = (
        part.splitlines() for part in re.split("|".join(titles), text)
    )
    assert "| dense | anneal | 0.5 | dense | 0 | 9000 | 12 | 2.50 |" in training
    assert "| dense | **1** | a | linear | 89.50 | 90.10 | 89.00 | 1 | 2.00 | 9 | 1.00 |" in depths
    assert "| dense | **1** | 89.00 | 88.50 | 1.00 | 1.00 | 9 | 9 |" in precision
    assert "| dense | 1 | int8 | tensorrt_rtx | – | – | 10 | float16 4, float32 0 |" in engines
    for part in (depths, precision, engines):
        table = [line for line in part if line.startswith("|")]
        assert len(table) == (6 if part is engines else 4)
        assert len({line.count("|") for line in table}) == 1
    assert "batch 8, 2 threads" in text
    assert "on A CPU; onnxruntime 1.2." in text
    assert "- tensorrt_rtx: no CUDA device" in text
    assert text.count("- tensorrt:") == 1


def test_failures_come_first() -> None:
    summary = summary_of({"dense": metrics()}, {"a": Failure("train", "x | y [z](a) \x1b[2J")})
    assert summary_markdown(summary, {"dense": metrics()}).splitlines()[:5] == [
        "## Failed",
        "",
        "| variant | stage | reason |",
        "| --- | --- | --- |",
        r"| a | train | x \| y [z]\(a) \x1b[2J |",
    ]


def candidate(val: float, ms: float, backend: str = "b") -> Candidate:
    return Candidate("v", 0, "fp32", backend, 0, val, 100.0 - val, ms, None, 40)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from("ab")), max_size=12)
)
def test_the_front_is_what_nothing_on_its_backend_beats(points: list[tuple[int, int, str]]) -> None:
    front = [
        (engine.val_accuracy_pct, engine.latency_ms, engine.backend)
        for engine in pareto_front([candidate(*point) for point in points])
    ]
    beaten = {
        (val, ms, backend)
        for val, ms, backend in points
        if any(v >= val and t <= ms and b == backend and (v, t) != (val, ms) for v, t, b in points)
    }
    assert set(front) == set(points) - beaten
    assert len(front) == len(set(front))
    assert front == sorted(front, key=lambda point: (point[2], point[1]))


def pictures(summary: Summary, found: dict[str, VariantMetrics]) -> dict[str, Spec]:
    return {
        "latency": latency.accuracy_against_latency(summary, 8),
        "removed": depth.accuracy_against_removed(summary),
        "distance": distances.distances(found),
    }


def test_the_pictures_are_drawn_and_the_same_again(tmp_path: Path) -> None:
    found = {"dense": variant_metrics(), "anneal": variant_metrics(0.25, ("layer.2",))}
    for name, spec in pictures(summary_of(found), found).items():
        for attempt in ("first", "second"):
            write_picture(spec, tmp_path / attempt / f"{name}.png", "A title", "and more")
        first, second = (tmp_path / attempt / f"{name}.png" for attempt in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
        with Image.open(first) as picture:
            assert picture.width > 500
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10


def test_nothing_timed_still_makes_a_report(tmp_path: Path) -> None:
    found = untimed(metrics())
    reasons = {"onnxruntime": "not installed"}
    found = replace(found, benchmark=replace(found.benchmark, not_timed=reasons))
    assert "- onnxruntime: not installed" in text_of(found)
    spec = latency.accuracy_against_latency(summary_of({"dense": found}), 8)
    write_picture(spec, tmp_path / "latency.png", "A title", "")
    assert (tmp_path / "latency.png").stat().st_size > 1000
