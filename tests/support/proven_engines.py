"""Engines of tiny networks with the metrics of the stages that made and proved them.

For ONNX Runtime any ONNX file is an engine.
"""

import shutil
from dataclasses import dataclass, replace
from typing import Self

from tiny_onnx import write_network

from models.hashing import file_sha256
from pipeline.collapse.records import CollapsedLevel, CollapseMetrics
from pipeline.core.artifacts import artifacts_dir, metrics_path
from pipeline.core.params import Batch, Build
from pipeline.core.records import write_record
from pipeline.engines.records import (
    BuildMetrics,
    BuiltEngine,
    MissingEngine,
    ParityCheck,
    PrecisionMetrics,
    TypedGraph,
    VerifyMetrics,
)
from pipeline.export.graph_size import GraphSize
from pipeline.export.parity import Parity

REMOVED: list[list[str]] = [[], ["layer1.0"], ["layer1.0", "layer2.1"]]
DEPTHS = (9, 5, 1)
PRECISIONS = ("fp32", "int8")
PLAN = ("fp32", "tensorrt_rtx")
OPTIONS = Build(
    backends=["onnxruntime"], compute_capabilities=["8.6"], batch=Batch(min=1, opt=8, max=64)
)


@dataclass(frozen=True)
class VariantMetrics:
    """What the stages before `benchmark` record."""

    variant: str
    collapsed: CollapseMetrics
    typed: PrecisionMetrics
    built: BuildMetrics
    verified: VerifyMetrics

    def write(self) -> None:
        """Write the metrics files."""
        records = {"collapse": self.collapsed, "precision": self.typed}
        for stage, record in (records | {"build": self.built, "verify": self.verified}).items():
            write_record(metrics_path(stage, self.variant), record)

    def with_check(self, level: int, precision: str, backend: str, **outcome: object) -> Self:
        """Return these with another outcome of an engine's check."""
        checks = [
            replace(check, **outcome)
            if (check.level, check.precision, check.backend) == (level, precision, backend)
            else check
            for check in self.verified.checks
        ]
        return replace(self, verified=replace(self.verified, checks=checks))


def write_variant(
    variant: str = "dense", size: int = 12, depths: tuple[int, ...] = DEPTHS
) -> VariantMetrics:
    """Write engines where `build` does and metrics in which ONNX Runtime's have passed."""
    engines = [
        _built(variant, level, precision, backend, depth, size)
        for level, depth in enumerate(depths)
        for precision, backend in (*((p, "onnxruntime") for p in PRECISIONS), PLAN)
    ]
    levels = range(len(depths))
    missing = [MissingEngine(n, "bf16", "onnxruntime", "no bf16 convolution") for n in levels]
    graphs = [
        TypedGraph(n, precision, None, f"{precision}/level_{n}.onnx", 1, {}, {}, [], None, 0.1)
        for n in levels
        for precision in PRECISIONS
    ]
    metrics = VariantMetrics(
        variant,
        CollapseMetrics(variant, 8, 1e-3, [_collapsed(n) for n in levels]),
        PrecisionMetrics(variant, {}, graphs, []),
        BuildMetrics(variant, {"tensorrt": "tensorrt is not installed"}, engines, missing),
        VerifyMetrics(variant, 8, [_check(variant, engine) for engine in engines]),
    )
    metrics.write()
    return metrics


def _built(
    variant: str, level: int, precision: str, backend: str, depth: int, size: int
) -> BuiltEngine:
    suffix = "onnx" if backend == "onnxruntime" else "engine"
    file = f"{precision}/{backend}/level_{level}.{suffix}"
    path = artifacts_dir("build", variant) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if backend == "onnxruntime":
        write_network(path, depth, width=32, seed=PRECISIONS.index(precision), size=size)
        graph = artifacts_dir("precision", variant) / precision / f"level_{level}.onnx"
        graph.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, graph)
    else:
        path.write_bytes(b"a plan")
    evidence = ("optimised graph", {}, {}, 0, None)
    key = (level, precision, backend)
    return BuiltEngine(*key, file, path.stat().st_size, 0.1, "1.0", *evidence)


def _check(variant: str, built: BuiltEngine) -> ParityCheck:
    """Return a check that ONNX Runtime's engines have passed."""
    key = (built.level, "engine", "precision", built.precision, built.backend)
    if built.backend != "onnxruntime":
        return ParityCheck(*key, status="not run", reason="no CUDA device", tolerance={})
    test_accuracy_pct = 91.0 - built.level - (0.5 if built.precision == "int8" else 0)
    return ParityCheck(
        *key,
        status="passed",
        reason=None,
        tolerance={},
        val_accuracy_pct=test_accuracy_pct + 0.25,
        test_accuracy_pct=test_accuracy_pct,
        sha256=file_sha256(artifacts_dir("build", variant) / built.file),
    )


def _collapsed(n: int) -> CollapsedLevel:
    size = GraphSize(nodes=1, parameters=1, macs=1, size_bytes=1)
    parity = Parity(max_abs=0.0, max_rel=0.0, cosine=1.0, top1_agreement=1.0)
    sizes = {"params": 1, "macs": 1, "nodes": 1, "onnx_bytes": 1, "before": size, "after": size}
    accuracies = {"val_accuracy_pct": 90.0, "test_accuracy_pct": 90.0}
    return CollapsedLevel(
        *(n, "collapse", REMOVED[n], f"level_{n}.onnx", ""), **sizes, parity=parity, **accuracies
    )
