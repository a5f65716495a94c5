"""A variant's metrics of every stage, as the report reads them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.benchmark.records import BenchmarkMetrics
from pipeline.collapse.records import CollapseMetrics
from pipeline.core.artifacts import metrics_path
from pipeline.core.records import read_record
from pipeline.engines.records import BuildMetrics, PrecisionMetrics, VerifyMetrics
from pipeline.plan.records import HealMetrics, PlanMetrics
from pipeline.plan.scoring.records import ScoreMetrics
from pipeline.train.records import TrainMetrics


@dataclass(frozen=True)
class VariantMetrics:
    """What every stage but `prepare` wrote of one variant; a field per stage."""

    train: TrainMetrics
    score: ScoreMetrics
    plan: PlanMetrics
    heal: HealMetrics
    collapse: CollapseMetrics
    precision: PrecisionMetrics
    build: BuildMetrics
    verify: VerifyMetrics
    benchmark: BenchmarkMetrics


Metrics = Mapping[str, VariantMetrics]  # by variant

STAGES = tuple(VariantMetrics.__dataclass_fields__)


def read_metrics(variants: Iterable[str]) -> Metrics:
    """Read the metrics files of variants; all of them were timed in one run.

    Raises:
        ArtifactError: one is missing, damaged, or of another version of Shoal.
    """
    run = read_record(metrics_path("benchmark"), BenchmarkMetrics)
    return {variant: _read(variant, run) for variant in variants}


def _read(variant: str, run: BenchmarkMetrics) -> VariantMetrics:
    return VariantMetrics(
        train=read_record(metrics_path("train", variant), TrainMetrics),
        score=read_record(metrics_path("score", variant), ScoreMetrics),
        plan=read_record(metrics_path("plan", variant), PlanMetrics),
        heal=read_record(metrics_path("heal", variant), HealMetrics),
        collapse=read_record(metrics_path("collapse", variant), CollapseMetrics),
        precision=read_record(metrics_path("precision", variant), PrecisionMetrics),
        build=read_record(metrics_path("build", variant), BuildMetrics),
        verify=read_record(metrics_path("verify", variant), VerifyMetrics),
        benchmark=run.of(variant),
    )


def largest_batch(metrics: Metrics) -> int:
    """Return the size of the batches whose latencies are reported; 0 without any variant."""
    return max((max(own.benchmark.protocol["batch_sizes"]) for own in metrics.values()), default=0)
