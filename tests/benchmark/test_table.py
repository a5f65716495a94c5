"""The table of a benchmark: what it shows, as Markdown and as CSV."""

import csv
import io
from dataclasses import replace

import pytest

from pipeline.benchmark.records import (
    BenchmarkMetrics,
    EngineEnergy,
    EngineLatency,
    EngineRatio,
    SkippedEngine,
    TimedEngine,
    Verdict,
)
from pipeline.benchmark.table import as_csv, as_markdown
from pipeline.benchmark.timing.protocol import protocol
from pipeline.core.params import Benchmark

DENSE, DEEP = (("dense", 0, "fp32", "onnxruntime"), ("lacoot", 2, "int8", "onnxruntime"))


def latency(key, batch, ms, **more) -> EngineLatency:
    return EngineLatency(
        *key, batch, ms, (ms - 0.1, ms + 0.1), ms, ms, ms, 1e3 / ms, 15, True, **more
    )


@pytest.fixture
def metrics() -> BenchmarkMetrics:
    how = Benchmark(batch_sizes=[1, 8], rounds=4, repeats=2)
    step = ("both", "onnxruntime", 8, "dense level 0 fp32", "lacoot level 2 int8")
    return BenchmarkMetrics(
        target={"cpu": "a CPU", "devices": [{"name": "a GPU"}], "versions": {"onnxruntime": "1.0"}},
        protocol=protocol(how, threads=1),
        conditions={"after": {"load_1min": 0.5}},
        not_timed={"tensorrt": "not built: tensorrt is not installed", "tensorrt_rtx": "no device"},
        no_energy={"cpu": "no RAPL"},
        no_memory={},
        latencies=[
            *(latency(DENSE, batch, float(batch)) for batch in (1, 8)),
            *(latency(DEEP, batch, batch / 4) for batch in (1, 8)),
        ],
        savings=[],
        memory=[],
        energy=[],
        layers=[],
        skipped=[
            SkippedEngine("dense", 0, "bf16", "onnxruntime", "parity failed: cosine 0.51 < 0.97"),
            *(SkippedEngine("dense", n, "fp32", "tensorrt_rtx", "no device") for n in range(4)),
        ],
        engines=[
            TimedEngine(*DENSE, (), 91.25, 91.0),
            TimedEngine(*DEEP, ("layer1.0", "layer2.1"), 89.25, 89.0),
        ],
        verdicts=[Verdict(*step, "free", 6.0, (5.5, 6.5), 4.0, -0.5, None)],
    )


def cells(markdown: str) -> list[list[str]]:
    """Return the head and the rows of the table."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [found[0], *found[2:]] if found else []


def test_a_row_has_accuracies_latencies_and_the_ratio_to_the_reference(metrics):
    markdown = as_markdown(metrics, [("lacoot", 2)])
    head, dense, deep = cells(markdown)
    assert deep == [
        *("lacoot", "2 *", "int8", "onnxruntime", "2", "89.25", "89.00"),
        *("0.25", "2.00", "1.90–2.10", "2.00", "2.00", "2.00", "500", "4.00"),
    ]
    assert (dense[1], head[-1]) == ("0", "speedup")
    assert "- Speedup: against dense level 0 fp32, or the first engine, on the same" in markdown


def test_what_disturbed_a_run_and_what_was_in_its_short_pass_alone_is_told(metrics):
    ratio = EngineRatio("lacoot", 1, "fp32", "onnxruntime", "dense level 0 fp32", 1.25, None)
    markdown = as_markdown(replace(metrics, unsettled=["a fan failed"], ratios=[ratio]))
    assert "## Unsettled\n\n- a fan failed\n" in markdown
    assert "- lacoot level 1 fp32 onnxruntime: 1.25 × dense level 0 fp32\n" in markdown
    assert "Unsettled" not in as_markdown(metrics)


def test_what_only_some_engines_have_is_absent_for_the_others(metrics):
    latencies = [
        replace(one, device_quiet_ms=1.5) if one.key == DEEP else one for one in metrics.latencies
    ]
    energy = [EngineEnergy(*DEEP, "gpu0", 12.345), EngineEnergy(*DEEP, "cpu0", 0.5)]
    found = cells(as_markdown(replace(metrics, latencies=latencies, energy=energy)))
    dense, deep = (dict(zip(found[0], row, strict=True)) for row in found[1:])
    assert (dense["device ms"], deep["device ms"]) == ("–", "1.50")
    assert (dense["mJ/image"], deep["mJ/image"]) == ("–", "gpu0 12.3, cpu0 0.5")


def test_below_the_table_stands_how_it_was_measured_and_what_is_missing(metrics):
    unstable = replace(metrics.latencies[0], warmed_up=False)
    metrics = replace(metrics, latencies=[unstable, *metrics.latencies[1:]])
    markdown = as_markdown(metrics, gate="Gate met.")
    sections = dict(part.split("\n\n", 1) for part in markdown.split("\n## ")[1:])
    assert sections["Verdicts"].startswith("- dense level 0 fp32 → lacoot level 2 int8")
    assert "4 rounds × 2 calls" in sections["Protocol"]
    assert "- On a CPU, a GPU, onnxruntime 1.0; load at the end 0.5.\n" in sections["Protocol"]
    assert sections["Not timed"].splitlines() == [
        "- tensorrt: not built: tensorrt is not installed",
        "- onnxruntime (dense level 0 bf16): parity failed: cosine 0.51 < 0.97",
        "- tensorrt_rtx (4 engines, fp32): no device",
    ]
    assert sections["Not measured"] == "- energy by cpu: no RAPL\n"
    unstable_engines = sections["Not stable after the warm-up"]
    assert unstable_engines == "- dense level 0 fp32 onnxruntime, batch 1\n"
    assert sections["Gate"] == "- Gate met.\n"


def test_csv_has_a_line_per_engine_and_batch_and_per_skipped_engine(metrics):
    lines = list(csv.DictReader(io.StringIO(as_csv(metrics))))
    assert len(lines) == len(metrics.latencies) + len(metrics.skipped)
    for line, one in zip(lines, metrics.latencies, strict=False):
        assert float(line["quiet_ms"]) == one.quiet_ms
        assert (float(line["quiet_ci_ms_low"]), float(line["quiet_ci_ms_high"])) == one.quiet_ci_ms
        assert line["device_quiet_ms"] == "", "no device, no device time"
    assert lines[3]["removed"] == "layer1.0 layer2.1"
    assert all(line["reason"] and not line["quiet_ms"] for line in lines[4:])


def test_without_a_timed_engine_there_is_no_table(metrics):
    metrics = replace(metrics, latencies=[], engines=[], verdicts=[])
    markdown = as_markdown(metrics)
    assert cells(markdown) == []
    assert "Nothing was timed." in markdown
    assert len(as_csv(metrics).splitlines()) == 6
