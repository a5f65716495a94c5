"""A small project as `dvc repro` leaves it, and its runs in MLflow."""

import os
import subprocess
import sys
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from places import ROOT
from reported import DATA, epoch, score, trained
from summaries import engine, network, summary
from tiny_onnx import write_network

from pipeline.benchmark.records import BenchmarkMetrics, EngineLatency
from pipeline.collapse.records import CollapsedLevel, CollapseMetrics
from pipeline.core.params import Choose, Params, load_params
from pipeline.core.records import read_record, write_record
from pipeline.data.records import Counts
from pipeline.engines.records import (
    BuildMetrics,
    BuiltEngine,
    ParityCheck,
    PrecisionMetrics,
    TypedGraph,
    VerifyMetrics,
)
from pipeline.export.parity import Parity
from pipeline.export.records import GraphSize
from pipeline.plan.records import HealedLevel, HealMetrics, PlanMetrics, PlannedLevel
from pipeline.report.records import SUMMARY, EngineRow, NetworkRow, Summary
from pipeline.report.tracking.mirror import TrackReport, mirror
from pipeline.report.tracking.runs import read_comparison, read_runs
from pipeline.report.tracking.schema import Comparison

# Of SQLAlchemy and of MLflow's own type hints: for MLflow's authors.
MLFLOWS_WARNINGS = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]
BLOCKS = ["layer1.0", "layer2.1"]
PLOTS = ["accuracy_latency.png", "distances.png"]
HEALING = {"seconds": 3.5, "images_seen": 100, "macs_spent": 10**9}
ENGINES = {"onnxruntime": "onnx", "tensorrt_rtx": "engine"}  # and the ends of their files' names
LEVELS = range(3)
SETTINGS = {"lacoot": {"train": {"penalty": {"lambda": 5.0, "projections": 50}}}}
PIXEL = bytes.fromhex("89504e470d0a1a0a")


def network_row(variant: str, level: int) -> NetworkRow:
    accuracies = {"removed": 90.0 - level, "batch_norm": 90.25}
    return network(
        variant,
        level,
        90.0 - level,
        removed=BLOCKS[:level],
        replacement="linear" if level else "identity",
        shipped="healed" if level else "removed",
        chosen=level == 1,
        val_accuracy_by_repair_pct=accuracies | ({"healed": 90.75} if level else {}),
        healing=HEALING if level else None,
        params=700_000 - level,
        macs=36_000_000 - level,
        onnx_bytes=2_800_000 - level,
    )


def engine_rows(of: NetworkRow, p50: float) -> list[EngineRow]:
    timed = replace(engine(of, p50 - of.level), bytes=2_800_001 - of.level)
    not_run = replace(timed, backend="tensorrt_rtx", bytes=2_900_000 - of.level, quiet_ms=None)
    return [timed, replace(not_run, val_accuracy_pct=None, test_accuracy_pct=None)]


@lru_cache
def graph_bytes() -> bytes:
    """The bytes of a small real ONNX graph."""
    with TemporaryDirectory() as folder:
        write_network(Path(folder, "network.onnx"))
        return Path(folder, "network.onnx").read_bytes()


def write_artifacts(variant: str, graphs: list[TypedGraph], engines: list[BuiltEngine]) -> None:
    """Write the graphs, and instead of engines bytes that differ by variant and level."""
    files = {f"precision/{variant}/{graph.file}": graph_bytes() for graph in graphs}
    files |= {
        f"build/{variant}/{engine.file}": f"{engine.backend} {variant} {engine.level}".encode()
        for engine in engines
    }
    for name, content in files.items():
        path = Path("artifacts", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def check(level: int, backend: str | None) -> ParityCheck:
    """A check that passed; of TensorRT-RTX, that was not run."""
    proven = backend != "tensorrt_rtx"
    kind, status = "engine" if backend else "precision", "passed" if proven else "not run"
    numbers = (1e-6, 1e-7, 1.0, 1.0, 90.0, 89.5) if proven else ()
    return ParityCheck(level, kind, "its graph", "fp32", backend, status, None, {}, *numbers)


def write_variant(variant: str, p50: float = 20.0) -> None:
    """Write what the stages write for one variant, with the level-0 latency `p50`."""
    removed = {level: BLOCKS[:level] for level in LEVELS}
    same, size = Parity(0.0, 0.0, 1.0, 1.0), GraphSize(50, 7, 36, 28)
    graphs = [
        TypedGraph(level, "fp32", None, f"fp32/level_{level}.onnx", 9, {}, {}, [], None, 0.1)
        for level in LEVELS
    ]
    engines = [
        BuiltEngine(
            *(level, "fp32", backend, f"fp32/{backend}/level_{level}.{end}"),
            *(9, 0.5, "1", "graph", {}, {}, 0, None),
        )
        for level in LEVELS
        for backend, end in ENGINES.items()
    ]
    lambda_ = 5.0 if variant == "lacoot" else 0.0
    records = {
        "train": trained([epoch(1, dict.fromkeys(BLOCKS, 0.1))], variant, lambda_=lambda_),
        "score": score(dict.fromkeys(BLOCKS, True)),
        "plan": PlanMetrics(
            *(variant, "one_shot", "msw", 1.0, BLOCKS, {}),
            [PlannedLevel(n, out, "identity", 90.0 - n, {}) for n, out in removed.items()],
            1,
        ),
        "heal": HealMetrics(
            *(variant, "healed", 16, 1, 0.01, {}, "cpu"),
            [
                HealedLevel(n, out, "linear", "healed", {"healed": 90.0})
                for n, out in removed.items()
            ],
            1,
        ),
        "collapse": CollapseMetrics(
            *(variant, 16, 1e-4),
            [
                CollapsedLevel(
                    *(n, "collapse", out, "x.onnx", "", 7, 36, 50, 28, size, size, same),
                    *(90.0, 89.5),
                )
                for n, out in removed.items()
            ],
        ),
        "precision": PrecisionMetrics(variant, {}, graphs, []),
        "build": BuildMetrics(variant, {"tensorrt": "not installed"}, engines, []),
        "verify": VerifyMetrics(
            variant, 16, [check(n, backend) for n in LEVELS for backend in (None, *ENGINES)]
        ),
    }
    write_artifacts(variant, graphs, engines)
    for stage, record in records.items():
        write_record(Path("metrics", stage, f"{variant}.json"), record)
    add_to_benchmark(variant)
    add_to_summary(variant, p50)
    record_in_lock(f"verify@{variant}", p50)


def add_to_benchmark(variant: str) -> None:
    """Put the latencies of a variant into the one run in place of earlier ones."""
    path = Path("metrics/benchmark.json")
    known = read_record(path, BenchmarkMetrics).latencies if path.exists() else []
    new = [
        EngineLatency(
            *(variant, n, "fp32", "onnxruntime", 1, 0.75, (0.7, 0.8), 0.75, 0.8, 0.9),
            *(1300.0, 5, True),
        )
        for n in LEVELS
    ]
    latencies = [one for one in known if one.variant != variant] + new
    no_gpu = {"tensorrt_rtx": "no CUDA device"}
    lists: list[list] = [[], [], [], [], []]
    write_record(path, BenchmarkMetrics({}, {}, {}, no_gpu, {}, {}, latencies, *lists))


def add_to_summary(variant: str, p50: float) -> None:
    """Put the rows of a variant into the report in place of earlier ones, and choose anew."""
    known = read_record(SUMMARY, Summary) if SUMMARY.exists() else summary([], Choose())
    kept = [
        (of, list(known.engines_by_network[of.key].values()))
        for of in known.networks
        if of.variant != variant
    ]
    new = [(of, engine_rows(of, p50)) for level in LEVELS for of in [network_row(variant, level)]]
    write_record(SUMMARY, summary(kept + new, Choose()))


def write_project() -> None:
    """Fill the current folder as `dvc repro` does with two variants of three levels."""
    counts = Counts({"boot": 5, "shirt": 6}, {"boot": 1, "shirt": 1}, {"boot": 1, "shirt": 1})
    data = replace(DATA, source="fashion_mnist", classes=["boot", "shirt"], counts=counts)
    write_record(Path("metrics/prepare.json"), data)
    record_in_lock("prepare", asdict(data))
    for variant in ("dense", "lacoot"):
        write_variant(variant)
    for plot in PLOTS:
        Path("reports", plot).write_bytes(PIXEL)
    write_params("dense", "lacoot")


def record_in_lock(stage: str, content: object) -> None:
    """Put an entry into dvc.lock that changes with `content`, as DVC does when a stage ends."""
    path = Path("dvc.lock")
    lock = yaml.safe_load(path.read_text()) if path.exists() else {"schema": "2.0", "stages": {}}
    lock["stages"][stage] = {"cmd": f"python -m stages.{stage}", "outs": [{"md5": repr(content)}]}
    path.write_text(yaml.safe_dump(lock))


def write_params(*variants: str) -> Params:
    """Write the project's own params.yaml with these variants."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["variants"] = {variant: SETTINGS.get(variant, {}) for variant in variants}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    return load_params()


def track() -> TrackReport:
    params = load_params()
    return mirror(params.name, read_runs(params))


def compared() -> Comparison:
    """Return what `present` shows of the project."""
    params = load_params()
    return read_comparison(params, read_runs(params))


def client():
    from mlflow.tracking.client import MlflowClient

    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def runs_of(experiment: str) -> dict:
    """Return the runs by name, but for that of the report; a name that occurs twice fails."""
    found = client().get_experiment_by_name(experiment)
    runs = client().search_runs([found.experiment_id], "tags.variant != ''", max_results=1000)
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}


def run_of_the_report():
    """The run that carries the report for all others; one and no more."""
    found = client().get_experiment_by_name("shoal")
    (run,) = client().search_runs([found.experiment_id], "tags.`shoal.report` != ''")
    return run


def start_stage(name: str, *arguments: str, **env: str) -> subprocess.Popen:
    """Start ``python -m stages.<name>`` in the current folder, on the default store."""
    return start_module(f"stages.{name}", *arguments, **env)


def start_verb(name: str, *arguments: str, **env: str) -> subprocess.Popen:
    """Start ``python -m pipeline <name>`` in the same way."""
    return start_module("pipeline", name, *arguments, **env)


def start_module(module: str, *arguments: str, **env: str) -> subprocess.Popen:
    inherited = {key: os.environ[key] for key in os.environ if key != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=inherited | {"PYTHONPATH": str(ROOT)} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_stage(name: str, *arguments: str, **env: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of a stage."""
    return outcome(start_stage(name, *arguments, **env))


def run_verb(name: str, *arguments: str, **env: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of a verb."""
    return outcome(start_verb(name, *arguments, **env))


def outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors
