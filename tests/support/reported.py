"""Metrics of variants as the stages before `report` leave them, small and made up."""

from dataclasses import replace

from pipeline.benchmark.records import BenchmarkMetrics, EngineLatency, LatencySaving
from pipeline.collapse.records import CollapsedLevel, CollapseMetrics
from pipeline.core.params import Choose
from pipeline.data.records import Counts, Prepared
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
from pipeline.plan.scoring.records import Guard, ScoredUnit, ScoreMetrics
from pipeline.report.failures import Failure
from pipeline.report.metrics import Metrics, VariantMetrics
from pipeline.report.page.page import report_page
from pipeline.report.records import Summary
from pipeline.report.reports import charts, summarise
from pipeline.train.records import EpochLog, TrainMetrics

COUNTS = Counts({"bag": 4000, "coat": 5000}, {"bag": 7, "coat": 8}, {"bag": 10, "coat": 10})
DATA = Prepared(
    *("image_folder", ["bag", "coat"], 32, "pad", "black", 16, 1, [0.5], [0.25], COUNTS, [], []),
    sha256={"train_images.npy": "ab" * 32},
)
BLOCKS = {"a": True, "layer.2": True, "layer.10": False}  # and whether each is removable
PRECISIONS = {"fp32": 0.0, "int8": 0.5}  # and the points of accuracy each costs
REMOVED = [[], ["a"]]  # by level
HELD = {"float16": 4000, "float32": 500}  # bytes of weights
SIZES = {"onnxruntime": 8000, "tensorrt_rtx": 9500}  # bytes of engines
SAME = Parity(0.0, 0.0, 1.0, 1.0)
SIZE = GraphSize(10, 2000, 4_000_000, 9000)


def metrics() -> VariantMetrics:
    """Return those of a variant with two levels in two precisions, timed on ONNX Runtime."""
    each = [(level, precision) for level in range(2) for precision in PRECISIONS]
    return VariantMetrics(
        train=trained(
            [epoch(1, {"a": 0.5, "layer.2": 0.000651}), epoch(2, {"a": 0.25, "layer.2": 0.25})],
            strategy="anneal",
            lambda_=0.5,
            teacher="dense",
        ),
        score=score(BLOCKS),
        plan=PlanMetrics("dense", "one_shot", "msw", 1.0, ["a"], {}, PLANNED, 1),
        heal=HealMetrics("dense", "removed", 16, 0, 0.01, {}, "cpu", HEALED, 1),
        collapse=CollapseMetrics("dense", 64, 1e-4, [collapsed(level) for level in range(2)]),
        precision=PrecisionMetrics("dense", {}, [graph(*of) for of in each], []),
        build=BuildMetrics(
            "dense",
            {"tensorrt": "tensorrt is not installed"},
            [engine(*of, backend) for of in each for backend in SIZES],
            [],
        ),
        verify=VerifyMetrics(
            "dense", 64, [check(*of, backend) for of in each for backend in (None, "onnxruntime")]
        ),
        benchmark=BenchmarkMetrics(
            target={
                "devices": [],
                "cpu": "A CPU",
                "cores": 2,
                "versions": {"onnxruntime": "1.2", "openvino": "3.4"},
            },
            protocol={"batch_sizes": [1, 8], "threads": 2, "rounds": 5, "repeats": 3},
            conditions={},
            not_timed={"tensorrt_rtx": "no CUDA device", "tensorrt": "not built: …"},
            no_energy={},
            no_memory={},
            latencies=[
                latency(*of, "onnxruntime", batch, ms)
                for of in each
                for batch, ms in ((1, 0.2), (8, 2.0 - of[0]))
            ],
            savings=[],
            memory=[],
            energy=[],
            layers=[],
            skipped=[],
        ),
    )


PLANNED = [PlannedLevel(n, removed, "identity", 91.0 - n, {}) for n, removed in enumerate(REMOVED)]
HEALED = [
    HealedLevel(
        level,
        removed,
        "linear" if level else "identity",
        "removed",
        {"removed": 91.0 - level, "batch_norm": 91.1 - level},
    )
    for level, removed in enumerate(REMOVED)
]


def trained(
    epochs: list[EpochLog],
    variant: str = "dense",
    *,
    strategy: str = "penalty",
    lambda_: float = 0.0,
    teacher: str | None = None,
) -> TrainMetrics:
    """Return the record of a training that removed nothing."""
    settings = {"seed": 0, "epochs": len(epochs), "learning_rate": 0.1, "precision": "auto"}
    settings |= {"strategy": {"name": strategy}, "distill": {"teacher": teacher}}
    settings |= {"penalty": {"lambda": lambda_, "estimator": "random", "projections": 50}}
    return TrainMetrics(
        variant=variant,
        model={"name": "resnet18_cifar", "pretrained": False, "options": {"width": 16}},
        train=settings,
        method={"mode": "paper", "unit": "auto"},
        initial_weights={"origin": "random", "sha256": "cd" * 32},
        teacher_sha256=None,
        device="cpu",
        processes=1,
        precision="float32",
        parameters=700_000,
        removed=[],
        images_seen=9000,
        macs_spent=2_500_000_000_000,
        seconds=12.4,
        images_per_s=4000.0,
        epochs=epochs,
    )


def epoch(number: int, distances: dict[str, float]) -> EpochLog:
    return {
        **{"learning_rate": 0.1, "loss": 0.5, "task_loss": 0.5, "penalty": 0.0},
        **{"images_seen": 4500, "macs_spent": 10**12, "images_per_s": 4000.0, "seconds": 6.2},
        **{"epoch": number, "val_accuracy_pct": 90.0, "distances": distances, "removed": []},
    }


def score(blocks: dict[str, bool]) -> ScoreMetrics:
    """Return the record of these blocks, by name whether each can be removed."""
    known = [
        ScoredUnit(name, (8, 4, 4), (8, 4, 4), can, "" if can else "too wide", f"in {name}", name)
        for name, can in blocks.items()
    ]
    removable = [name for name, can in blocks.items() if can]
    guards = {name: Guard(0.125, 0.99) for name in removable}
    scores = {"msw": dict.fromkeys(removable, 0.1)}
    return ScoreMetrics("dense", 16, "paper", "block", "msw", known, scores, guards)


def collapsed(level: int) -> CollapsedLevel:
    return CollapsedLevel(
        level=level,
        made_by="collapse",
        removed=REMOVED[level],
        file=f"level_{level}.onnx",
        sha256="",
        params=2000 - 1000 * level,
        macs=4_000_000 - 2_000_000 * level,
        nodes=10,
        onnx_bytes=9000,
        before=SIZE,
        after=SIZE,
        parity=SAME,
        val_accuracy_pct=90.0,
        test_accuracy_pct=90.0,
    )


def graph(level: int, precision: str, backend: str | None = None) -> TypedGraph:
    file = f"{precision}/level_{level}.onnx"
    return TypedGraph(level, precision, backend, file, 9000, {}, {}, [], None, 0.0)


def engine(level: int, precision: str, backend: str) -> BuiltEngine:
    size = SIZES.get(backend, 8000)
    file = f"{precision}/{backend}/level_{level}"
    return BuiltEngine(level, precision, backend, file, size, 0.5, "1", "graph", HELD, {}, 0, None)


def check(level: int, precision: str, backend: str | None) -> ParityCheck:
    """Return the check of a graph, or of an engine, that passed."""
    accuracy_pct = 90.0 - level - PRECISIONS[precision]
    return ParityCheck(
        level=level,
        check="engine" if backend else "precision",
        reference="the precision's graph" if backend else "the collapsed graph",
        precision=precision,
        backend=backend,
        status="passed",
        reason=None,
        tolerance={"max_rel": 0.01},
        max_abs=1e-6,
        max_rel=0.001,
        cosine=1.0,
        top1_agreement=0.99,
        val_accuracy_pct=accuracy_pct + 0.5,
        test_accuracy_pct=accuracy_pct,
    )


def latency(
    level: int, precision: str, backend: str, batch: int, ms: float, variant: str = "dense"
) -> EngineLatency:
    return EngineLatency(
        variant=variant,
        level=level,
        precision=precision,
        backend=backend,
        batch=batch,
        quiet_ms=ms,
        quiet_ci_ms=(ms - 0.01, ms + 0.01),
        p50_ms=ms + 0.25,
        p90_ms=ms + 0.5,
        p99_ms=ms + 1.0,
        images_per_s=1000 * batch / ms,
        warmup_calls=5,
        warmed_up=True,
    )


def saving(
    precision: str, backend: str, batch: int, ms: float, ci: tuple[float, float] | None
) -> LatencySaving:
    return LatencySaving("dense", 1, precision, backend, batch, ["a"], 0, ms, ci)


def variant_metrics(slower_ms: float = 0.0, removed: tuple[str, ...] = ()) -> VariantMetrics:
    """Return those of a variant with two levels in two precisions, timed on two backends.

    Args:
        slower_ms: added to every latency.
        removed: blocks that were removed in training, after the first epoch.
    """
    found = metrics()
    each = [(level, precision) for level in range(2) for precision in PRECISIONS]
    there = {name: removable for name, removable in BLOCKS.items() if name not in removed}
    last = epoch(2, {name: 0.25 for name, can in there.items() if can})
    latencies = [
        latency(level, precision, backend, 8, (2.0 - level + slower_ms) * times)
        for level, precision in each
        for backend, times in (("onnxruntime", 1.0), ("openvino", 1.5))
    ]
    savings = [
        one
        for precision in PRECISIONS
        for one in (
            saving(precision, "onnxruntime", 1, -0.25, None),
            saving(precision, "onnxruntime", 8, 1.0, (0.875, 1.125)),
            saving(precision, "openvino", 8, -0.25, None),
        )
    ]
    engines = [*found.build.engines, *(engine(*of, "openvino") for of in each)]
    checks = [*found.verify.checks, *(check(*of, "openvino") for of in each)]
    return replace(
        found,
        train=replace(found.train, removed=list(removed), epochs=[found.train.epochs[0], last]),
        score=score(there),
        build=replace(found.build, engines=engines),
        verify=replace(found.verify, checks=checks),
        benchmark=replace(found.benchmark, latencies=latencies, savings=savings),
    )


def two_variants() -> dict[str, VariantMetrics]:
    """Return one whose plan removes blocks, and one that lost a block in training."""
    return {"dense": variant_metrics(), "anneal": variant_metrics(0.25, ("layer.2",))}


def untimed(found: VariantMetrics) -> VariantMetrics:
    return replace(found, benchmark=replace(found.benchmark, latencies=[], savings=[]))


def failed(found: VariantMetrics, place: int, reason: str) -> VariantMetrics:
    """Return the metrics with another verdict on the check at a place of the chain."""
    checks = list(found.verify.checks)
    checks[place] = replace(checks[place], status="failed", reason=reason)
    return replace(found, verify=replace(found.verify, checks=checks))


def summary_of(found: Metrics, failures: dict[str, Failure] | None = None) -> Summary:
    return summarise(found, failures or {}, Choose())


def page_of(
    found: Metrics,
    failures: dict[str, Failure] | None = None,
    data: dict = DATA,
    project: str = "shoal",
) -> str:
    """Return the page of these variants, with the recommendation that their rows give."""
    summary = summary_of(found, failures)
    return report_page(project, summary, found, charts(summary, found), data)
