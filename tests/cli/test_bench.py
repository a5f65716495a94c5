"""The verb `bench` on real engines of tiny networks: selection, files, gate, exit codes."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from places import FIXED
from proven_engines import REMOVED, write_variant

from models.errors import ArtifactError, ParamsError
from pipeline.benchmark import measurement
from pipeline.benchmark.proven_engines import Engines, proven_engines
from pipeline.benchmark.records import BenchmarkMetrics
from pipeline.cli.bench import command, gate, selected, timing
from pipeline.cli.exit_codes import DONE, NOTHING_FITS
from pipeline.core.artifacts import metrics_path
from pipeline.core.params import load_params
from pipeline.core.records import read_record, write_record
from pipeline.plan.records import HealedLevel, HealMetrics

CHOSEN = {"dense": 0, "lacoot": 2}


@pytest.fixture(scope="module")
def project(tmp_path_factory, prepared) -> Path:
    """A folder as `dvc repro` leaves it, of two variants with three levels each."""
    root = tmp_path_factory.mktemp("bench")
    params = yaml.safe_load(FIXED.read_text())
    params["benchmark"] |= {"batch_sizes": [1, 8], "rounds": 4}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "artifacts").mkdir()
    (root / "artifacts/prepare").symlink_to(prepared)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for variant, chosen in CHOSEN.items():
            made = write_variant(variant, size=32)
            if variant == "lacoot":
                failed = {"status": "failed", "reason": "cosine 0.51 < 0.97"}
                made.with_check(2, "int8", "onnxruntime", **failed).write()
            write_record(metrics_path("heal", variant), healed(variant, chosen))
    return root


def healed(variant: str, chosen: int) -> HealMetrics:
    levels = [
        HealedLevel(n, blocks, "identity", "removed", {"removed": 90.0})
        for n, blocks in enumerate(REMOVED)
    ]
    return HealMetrics(variant, "removed", 8, 0, 0.1, {}, "cpu", levels, chosen)


@pytest.fixture(autouse=True)
def _inside(project, monkeypatch):
    monkeypatch.chdir(project)


def bench(*arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        # It takes a process per engine (tests/benchmark/test_memory.py).
        patch.setattr(measurement, "memory_of_engines", lambda *_: ([], {}))
        return CliRunner().invoke(command, arguments, standalone_mode=False)


@pytest.fixture(scope="module")
def done(project) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        result = bench("--min-accuracy", "88.5")
    assert result.return_value == DONE, result.exception
    return result


@pytest.fixture(scope="module")
def metrics(project, done) -> BenchmarkMetrics:
    return read_record(project / "reports/bench.json", BenchmarkMetrics)


def test_level_zero_the_chosen_and_the_deepest_are_timed_in_one_run(metrics):
    both = {(v, n, p) for v in CHOSEN for n in (0, 2) for p in ("fp32", "int8")}
    engines = {(one.variant, one.level, one.precision) for one in metrics.engines}
    assert engines == both - {("lacoot", 2, "int8")}
    assert {one.batch for one in metrics.latencies} == {1, 8}
    assert len(metrics.latencies) == 2 * len(engines)


def test_a_failed_engine_keeps_its_reason_and_has_no_latency(metrics, done):
    reasons = {one.key: one.reason for one in metrics.skipped}
    failed = ("lacoot", 2, "int8", "onnxruntime")
    assert reasons[failed] == "parity failed: cosine 0.51 < 0.97"
    missing = done.output.partition("## Not timed")[2]
    assert "onnxruntime (lacoot level 2 int8): parity failed: cosine 0.51 < 0.97" in missing
    assert "tensorrt_rtx (4 engines, fp32): parity not run: no CUDA device" in missing
    assert "tensorrt: not built: tensorrt is not installed" in missing


def test_savings_and_verdicts_come_from_the_same_rounds(metrics):
    p50s = {(*one.key, one.batch): one.quiet_ms for one in metrics.latencies}
    judged = {(one.step, one.after, one.batch): one for one in metrics.verdicts}
    depth = judged["depth", "lacoot level 2 fp32", 8]
    assert depth.before == "dense level 0 fp32"
    first, deep = ("dense", 0), ("lacoot", 2)
    saved = p50s[*first, "fp32", "onnxruntime", 8] - p50s[*deep, "fp32", "onnxruntime", 8]
    assert depth.saved_ms == pytest.approx(saved, abs=1e-3)
    assert depth.times > 1.5, "nine convolutions against one"
    assert (depth.word, depth.lost_points) == ("costs accuracy", 2.0)
    assert {(one.level, one.since_level) for one in metrics.savings} == {(2, 0)}


def test_the_three_files_and_the_output_agree(project, done, metrics):
    markdown = (project / "reports/bench.md").read_text()
    csv = (project / "reports/bench.csv").read_text()
    for one in metrics.latencies:
        assert str(one.quiet_ms) in csv
        assert f"| {one.quiet_ms:.2f}" in markdown
    assert markdown in done.output
    deep = ["lacoot", "2 *", "fp32", "onnxruntime", "2", "89.25", "89.00"]
    rows = [[cell.strip() for cell in line.split("|")] for line in markdown.splitlines()]
    assert deep in [row[1:8] for row in rows]
    assert "4 rounds × 2 calls" in done.output
    assert metrics.target["cpu"] in done.output


def test_the_gate_is_met_by_what_would_ship(done):
    """Level 0 of dense (91.25, int8 90.75) and level 2 of lacoot (89.25; its int8 failed)."""
    line = "Gate met: 3 engines at the chosen levels reach 88.50 % validation accuracy."
    assert line in done.output


def test_below_the_floor_the_exit_code_is_that_of_the_gate_and_the_files_are_written(project):
    quick = ("--batch", "1", "--precision", "fp32", "--out", "elsewhere")
    result = bench(*quick, "--min-accuracy", "89.5")
    assert result.return_value == NOTHING_FITS, result.exception
    assert "below 89.50 % validation accuracy: lacoot level 2 fp32 onnxruntime: 89.25 %" in (
        result.output
    )
    written = read_record(project / "elsewhere/bench.json", BenchmarkMetrics)
    assert {one.precision for one in written.engines} == {"fp32"}
    assert "Gate not met" in (project / "elsewhere/bench.md").read_text()


def found(variants=tuple(CHOSEN), **wanted) -> Engines:
    """Return the engines that the options ask for."""
    asked = {"precisions": [], "backends": [], "levels": [CHOSEN]} | wanted
    return selected(proven_engines(variants, load_params().build), **asked)


def test_all_levels_of_one_variant():
    asked = found(variants=["lacoot"], levels=[])
    timed = {(one.level, one.precision) for one in asked.proven}
    assert timed == {(n, p) for n in range(3) for p in ("fp32", "int8")} - {(2, "int8")}


@pytest.mark.parametrize(
    ("wanted", "floor", "met"),
    [
        # Dense ships level 0; that its level 2 falls to 88.75 % does not matter.
        ({"variants": ["dense"]}, 90.5, True),
        ({"variants": ["dense"]}, float("nan"), False),
        ({"variants": ["dense"], "precisions": ["int8"]}, 91.0, False),
        ({"backends": ["tensorrt_rtx"]}, 10.0, False),  # nothing is proven
    ],
)
def test_every_engine_at_a_chosen_level_must_reach_the_floor(wanted, floor, met):
    engines = found(**wanted)
    proven = [replace(one, test_accuracy_pct=0.0) for one in engines.proven]  # does not decide
    assert gate(replace(engines, proven=proven), CHOSEN, floor)[0] is met


def test_where_nothing_is_proven_the_gate_is_not_met_for_that_reason():
    _, text = gate(found(backends=["tensorrt_rtx"]), CHOSEN, 10.0)
    assert "no engine at a chosen level was timed" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variant", "lacot"), "no variant 'lacot'; did you mean 'lacoot'.* there are "),
        (("--precision", "int9"), "no precision 'int9'; did you mean 'int8'"),
        (("--backend", "onnxrt"), "no backend 'onnxrt'"),
        (("--batch", "0"), r"batch sizes \[0\]: engines take 1 to 128 images"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(arguments, message):
    with pytest.raises(ParamsError, match=message):
        raise bench(*arguments).exception


def test_batch_sizes_are_sorted_and_counted_once():
    params = load_params()
    assert timing(params, (8, 1, 8)).batch_sizes == [1, 8]
    assert timing(params, ()) == params.benchmark


def test_without_engines_it_says_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(FIXED.read_text())
    with pytest.raises(ArtifactError, match="`dvc repro` makes it"):
        raise bench().exception
