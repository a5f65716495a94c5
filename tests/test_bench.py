"""`make bench` on real engines of tiny networks: selection, table, files, gate, exit codes."""

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest
import yaml
from proven_engines import REMOVED, verified, write_engines
from stage_process import run_stage

from models.errors import ParamsError
from pipeline.bench import gate, reference
from pipeline.bench_entries import Entries, Wanted, entries, settled
from pipeline.bench_table import as_csv, as_markdown, gate_line
from pipeline.params import load_params

ROOT = Path(__file__).parent.parent
VARIANTS = {"dense": 0, "lacoot": 2}  # and the chosen level


@pytest.fixture(scope="module")
def project(tmp_path_factory, prepared) -> Path:
    """A folder as `dvc repro` leaves it, of two variants with three levels each."""
    root = tmp_path_factory.mktemp("bench")
    params = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    params["benchmark"] |= {"batch_sizes": [1, 8], "rounds": 4}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "artifacts").mkdir()
    (root / "artifacts/prepare").symlink_to(prepared)
    for variant, chosen in VARIANTS.items():
        engines = root / "artifacts/build" / variant
        built = write_engines(engines, size=32)
        proven = verified(built, engines)
        if variant == "lacoot":
            for rung in proven["levels"][2]["rungs"]:
                if (rung["precision"], rung["backend"]) == ("int8", "onnxruntime"):
                    rung |= {"status": "failed", "reason": "cosine 0.51 < 0.97"}
        levels = [{"level": n, "removed": blocks} for n, blocks in enumerate(REMOVED)]
        healed = {"chosen_level": chosen, "levels": levels}
        for stage, content in (("heal", healed), ("build", built), ("verify", proven)):
            (root / "metrics" / stage).mkdir(parents=True, exist_ok=True)
            (root / "metrics" / stage / f"{variant}.json").write_text(json.dumps(content))
    return root


def bench(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_stage("bench", *arguments, cwd=project)


@pytest.fixture(scope="module")
def done(project) -> subprocess.CompletedProcess[str]:
    result = bench(project, "--min-accuracy", "88.5")
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def result(project, done) -> dict:
    return json.loads((project / "reports/bench.json").read_text())


def test_level_zero_the_chosen_and_the_deepest_are_timed_in_one_run(result):
    engines = {(r["variant"], r["level"], r["precision"]) for r in result["rows"]}
    both = {(v, n, p) for v in VARIANTS for n in (0, 2) for p in ("fp32", "int8")}
    assert engines == both - {("lacoot", 2, "int8")}
    assert {row["batch"] for row in result["rows"]} == {1, 8}
    assert len(result["rows"]) == 2 * len(engines)


def test_a_failed_engine_keeps_its_reason_and_has_no_latency(result, done):
    failed = {"variant": "lacoot", "level": 2, "precision": "int8", "backend": "onnxruntime"}
    assert failed | {"reason": "parity failed: cosine 0.51 < 0.97"} in result["not_timed"]
    missing = done.stdout.partition("## Not timed")[2]
    assert "- onnxruntime (lacoot level 2 int8): parity failed: cosine 0.51 < 0.97" in missing
    assert "- tensorrt_rtx (4 engines, fp32): parity not run: no CUDA device" in missing
    assert "- tensorrt: not built: tensorrt is not installed" in missing


def test_ratios_and_verdicts_relate_to_dense_in_the_same_rounds(result):
    rows = {(r["variant"], r["level"], r["precision"], r["batch"]): r for r in result["rows"]}
    first = rows["dense", 0, "fp32", 8]
    assert first["times_reference"] == 1
    deep = rows["lacoot", 2, "fp32", 8]
    assert deep["times_reference"] == pytest.approx(first["p50_ms"] / deep["p50_ms"], rel=1e-2)
    assert deep["times_reference"] > 1.5, "nine convolutions against one"
    judged = {(v["step"], v["after"], v["batch"]): v for v in result["verdicts"]}
    assert {step for step, _, _ in judged} == {
        *("depth", "precision", "both", "precision after depth"),
    }
    depth = judged["depth", "lacoot level 2 fp32", 8]
    assert depth["before"] == "dense level 0 fp32"
    assert depth["saved_ms"] == pytest.approx(first["p50_ms"] - deep["p50_ms"], abs=1e-3)
    assert depth["lost_points"] == pytest.approx(2.0)
    assert depth["word"] == "costs accuracy"
    assert depth["ms_per_point"] == pytest.approx(depth["saved_ms"] / 2)
    after = judged["precision after depth", "dense level 2 int8", 8]
    assert after["before"] == "dense level 2 fp32"
    assert ("precision", "lacoot level 0 int8", 8) not in judged, "its own training is no step"


def test_the_three_files_agree(project, done, result):
    assert (project / "reports/bench.md").read_text() in done.stdout
    lines = list(csv.DictReader(io.StringIO((project / "reports/bench.csv").read_text())))
    timed = [line for line in lines if not line["not_timed"]]
    assert len(timed) == len(result["rows"])
    assert len(lines) - len(timed) == len(result["not_timed"])
    for line, row in zip(timed, result["rows"], strict=True):
        assert float(line["p50_ms"]) == row["p50_ms"]
        assert [float(line["p50_ci_low_ms"]), float(line["p50_ci_high_ms"])] == row["p50_ci_ms"]
        assert line["device_p50_ms"] == "", "no device, no device time"
        assert line["removed"].split() == row["removed"]
    assert all(not line["p50_ms"] for line in lines if line["not_timed"])


def test_the_table_shows_accuracy_latency_protocol_and_machine(done, result):
    [deep] = [
        line
        for line in done.stdout.splitlines()
        if line.startswith("| lacoot | **2** | fp32 | onnxruntime | 2 | 89.25 | 89.00 |")
    ]
    [row] = [
        r for r in result["rows"] if (r["variant"], r["level"], r["batch"]) == ("lacoot", 2, 8)
    ]
    assert f"| {row['p50_ms']:.2f} |" in deep
    assert "4 rounds × 2 calls" in done.stdout
    assert result["target"]["cpu"] in done.stdout
    assert f"onnxruntime {result['target']['versions']['onnxruntime']}" in done.stdout


def test_energy_is_in_the_table_or_the_reason_why_not(done, result):
    for meter, reason in result["no_energy"].items():
        assert f"- {meter}: {reason}" in done.stdout
    used = {"energy_mj_per_image": {"package-0": 12.345, "gpu0": 0.5}}
    measured = result | {"rows": [row | used for row in result["rows"]]}
    assert "| package-0 12.3, gpu0 0.5 |" in as_markdown(measured)
    lines = list(csv.DictReader(io.StringIO(as_csv(measured))))
    assert lines[0]["energy_mj_per_image"] == "package-0 12.3, gpu0 0.5"


def test_the_gate_is_met_by_what_would_ship(done, result):
    """Level 0 of dense (91.0, int8 90.5) and level 2 of lacoot (89.0; its int8 failed)."""
    assert result["gate"] == {"min_accuracy_pct": 88.5, "met": True, "checked": 3, "below": []}
    assert "Gate met: 3 engines at the chosen levels reach 88.50 % test accuracy." in done.stdout


QUICK = ("--batch", "1", "--precision", "fp32", "--out", "elsewhere")


def test_below_the_floor_the_exit_code_is_three_and_the_files_are_written(project):
    result = bench(project, *QUICK, "--min-accuracy", "90")
    assert result.returncode == 3, result.stderr
    assert "below 90.00 % test accuracy: lacoot level 2 fp32 onnxruntime: 89.00 %" in result.stdout
    written = json.loads((project / "elsewhere/bench.json").read_text())
    assert written["gate"]["met"] is False
    assert {row["precision"] for row in written["rows"]} == {"fp32"}


def found(project: Path, **wanted) -> Entries:
    """Return the engines that the arguments ask for."""
    asked = Wanted(**wanted)
    variants, params = settled(load_params(project / "params.yaml"), asked)
    facts = {
        variant: {
            stage: json.loads((project / "metrics" / stage / f"{variant}.json").read_text())
            for stage in ("heal", "build", "verify")
        }
        for variant in variants
    }
    folders = {variant: project / "artifacts/build" / variant for variant in variants}
    return entries(facts, folders, asked, params)


def test_all_levels_of_one_variant(project):
    asked = found(project, variants=["lacoot"], all_levels=True)
    timed = {(one.level, one.precision) for one in asked.timed}
    assert timed == {(n, p) for n in range(3) for p in ("fp32", "int8")} - {(2, "int8")}
    assert reference(asked, "onnxruntime").variant == "lacoot"
    assert reference(asked, "openvino") is None


def test_where_nothing_is_proven_the_gate_is_not_met(project):
    held = gate(found(project, backends=["tensorrt_rtx"]), 10.0)
    assert held == {"min_accuracy_pct": 10.0, "met": False, "checked": 0, "below": []}
    assert "no engine at a chosen level was timed" in gate_line(held)


def test_only_the_chosen_levels_are_held_against_the_floor(project):
    """Dense ships level 0; that its level 2 falls to 88.5 % does not matter."""
    assert gate(found(project, variants=["dense"]), 90.0)["met"]
    assert not gate(found(project, variants=["dense"]), float("nan"))["met"]
    assert not gate(found(project, variants=["dense"], precisions=["int8"]), 90.75)["met"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"variants": ["lacot"]}, "no variant 'lacot'; did you mean 'lacoot'"),
        ({"precisions": ["int9"]}, "no precision 'int9'; did you mean 'int8'"),
        ({"backends": ["onnxrt"]}, "no backend 'onnxrt'"),
        ({"batch_sizes": [0]}, r"batch sizes \[0\]: engines take 1 to 128 images"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(project, wanted, message):
    with pytest.raises(ParamsError, match=message):
        found(project, **wanted)


def test_without_engines_it_says_what_makes_them(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "tests" / "params.yaml").read_text())
    result = bench(tmp_path)
    assert result.returncode == 1
    assert "`dvc repro` makes it" in result.stderr
