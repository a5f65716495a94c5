"""What MLflow holds of the metrics files: one run per variant, level and precision."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.core.artifacts import REPORTS, artifacts_dir, digest, metrics_path
from pipeline.core.params import PARAMS, Params
from pipeline.core.records import read_record
from pipeline.data.records import Prepared
from pipeline.report.comparison import read_summary
from pipeline.report.metrics import STAGES, VariantMetrics, read_metrics
from pipeline.report.records import SUMMARY, EngineRow, Network, NetworkRow, Summary
from pipeline.report.tracking.dvc_lock import locked_stages
from pipeline.report.tracking.schema import (
    Comparison,
    DataSet,
    TrackedRun,
    flat_numbers,
    flat_params,
)
from pipeline.train.records import TrainMetrics

SHARED = ("prepare", "benchmark")  # stages over all variants whose numbers a run holds
SETTINGS = ("model", "strategy", "lambda", "epochs", "seed")


def read_runs(params: Params) -> list[TrackedRun]:
    """Return the runs of the variants in `params`, in the order of reports/summary.json.

    A variant that the summary lists as failed has none.

    Raises:
        ArtifactError: a metrics file is missing or damaged, or the summary lacks a variant.
    """
    summary = read_summary()
    data, commit = _data_set(read_record(metrics_path("prepare"), Prepared)), _git_commit()
    written, locked = _written_settings(), locked_stages()
    runs = []
    there = {row.variant for row in summary.networks}
    found = read_metrics(variant for variant in params.variants if variant in there)
    for variant in params.variants:
        rows = [row for row in summary.networks if row.variant == variant]
        if not rows and variant not in summary.failures:
            raise ArtifactError(f"{SUMMARY} has no row of variant {variant!r}; `dvc repro` adds it")
        if not rows:
            continue
        metrics = found[variant]
        settings = _settings(metrics.train, written[variant])
        tags = {"variant": variant, **commit, **_reasons(metrics), **_unsettled(summary)}
        group, stages = state(variant, locked), asdict(metrics)
        for row in rows:
            engines = list(summary.engines_by_network[row.key].values())
            timed = _timed(engines, params.choose.backend)
            numbers = _metrics(row, metrics, timed)
            known = {"network": asdict(row), "engines": [asdict(engine) for engine in engines]}
            runs.append(
                TrackedRun(
                    name=run_name(row.key),
                    group=group,
                    # What it holds too: a report that learns a column adds its runs.
                    key=digest([group, known, numbers]),
                    params=_params(row, metrics, timed) | settings,
                    metrics=numbers,
                    tags=tags | ({"chosen_level": "true"} if row.chosen else {}),
                    data=data,
                    details=known | {"stages": _at_level(stages, row.level)},
                )
            )
    return runs


def read_comparison(params: Params, runs: Sequence[TrackedRun]) -> Comparison:
    """Return the recommendation of reports/summary.json, and the report, for the page of `runs`."""
    recommendation = read_summary().recommendation
    chosen = recommendation.chosen
    keys = {run.name: run.key for run in runs}
    return Comparison(
        reason=recommendation.reason,
        recommended=keys.get(run_name(chosen.network)) if chosen else None,
        latency_budget_ms=params.choose.latency_budget_ms,
        batch_size=params.benchmark.batch_sizes[-1],
        report=sorted([*REPORTS.glob("*.html"), *REPORTS.glob("*.png")]),
    )


def run_name(network: Network) -> str:
    """Return e.g. ``lacoot-l4-int8``."""
    variant, level, precision = network
    return f"{variant}-l{level}-{precision}"


def state(variant: str, stages: Mapping[str, Any]) -> str:
    """Return a hash of everything behind a variant's numbers: its entries in dvc.lock.

    Those are all stages ``*@<variant>``, ``prepare`` and ``benchmark``, with the hashes of code,
    parameters, inputs and outputs. Where DVC has not recorded the variant, since its stages were
    run by hand, the contents of its metrics files are hashed instead.

    Args:
        variant: its name.
        stages: as `locked_stages` returns them.
    """
    own = {name: entry for name, entry in stages.items() if name.endswith(f"@{variant}")}
    if own:
        return digest(own | {name: stages.get(name) for name in SHARED})
    shared = (metrics_path(stage) for stage in SHARED)
    files = [*shared, *(metrics_path(stage, variant) for stage in STAGES if stage not in SHARED)]
    return digest({str(file): file_sha256(file) for file in files})


def _written_settings() -> dict[str, dict[str, str]]:
    """Return what is written under each variant in params.yaml: how it differs from the rest."""
    variants = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["variants"]
    return {variant: flat_params(own or {}) for variant, own in variants.items()}


def _settings(trained: TrainMetrics, written: Mapping[str, str]) -> dict[str, str]:
    """Return the few settings that every variant is known by, and those written for this one."""
    made = flat_params({"model": trained.model, "train": trained.train})
    return {key: made[key] for key in SETTINGS if key in made} | dict(written)


def _params(row: NetworkRow, metrics: VariantMetrics, timed: EngineRow | None) -> dict[str, str]:
    """Return which of a variant's networks this is, and how it came about."""
    return {
        "variant": row.variant,
        "level": str(row.level),
        "precision": row.precision,
        "backend": timed.backend if timed else "not timed",
        "removed": ", ".join(row.all_removed) or "none",
        "replacement": row.replacement,
        "shipped": row.shipped,
        "criterion": metrics.plan.criterion,
        "search": metrics.plan.search,
    }


def _timed(engines: Iterable[EngineRow], wanted: str | None) -> EngineRow | None:
    """Return the engine whose latency is a run's: on the backend to choose by, or the fastest."""
    timed = [
        (engine.quiet_ms, engine)
        for engine in engines
        if engine.quiet_ms is not None and wanted in (None, engine.backend)
    ]
    return min(timed, key=lambda entry: entry[0])[1] if timed else None


def _metrics(row: NetworkRow, metrics: VariantMetrics, timed: EngineRow | None) -> dict[str, float]:
    """Return the numbers that decide, then details under prefixes, a section each in the charts."""
    of = timed or row
    decisive = {
        "accuracy_test_pct": _rounded(of.test_accuracy_pct),
        "accuracy_val_pct": _rounded(of.val_accuracy_pct),
        "latency_ms": timed.quiet_ms if timed else None,
        "macs": row.macs,
        "params": row.params,
        "removed_blocks": len(row.all_removed),
        "size_bytes": timed.bytes if timed else row.onnx_bytes,
        "train_seconds": metrics.train.seconds,
    }
    repaired = {
        f"repairs/{repair}_val_pct": _rounded(accuracy)
        for repair, accuracy in row.val_accuracy_by_repair_pct.items()
    }
    by_batch = {
        f"latency_{latency.backend}/batch_{latency.batch}_ms": latency.quiet_ms
        for latency in metrics.benchmark.latencies
        if (latency.level, latency.precision) == (row.level, row.precision)
    }
    return flat_numbers(decisive | _parity(row, metrics) | repaired | by_batch)


def _rounded(accuracy_pct: float | None) -> float | None:
    return None if accuracy_pct is None else round(accuracy_pct, 2)


def _parity(row: NetworkRow, metrics: VariantMetrics) -> dict[str, float | None]:
    """Return how far the precision's graph is from the collapsed one."""
    check = metrics.verify.find(row.level, "precision", row.precision, None)
    if check is None:
        return {}
    return {"parity/max_abs": check.max_abs, "parity/top1_agreement": check.top1_agreement}


def _at_level(stages: Mapping[str, Any], level: int) -> dict[str, Any]:
    """Return what every stage knows of the variant; of records by level, those of this level."""
    return {
        stage: {name: _of_level(value, level) for name, value in known.items()}
        for stage, known in stages.items()
    }


def _of_level(value: Any, level: int) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], dict) and "level" in value[0]:
        return [record for record in value if record["level"] == level]
    return value


def _reasons(metrics: VariantMetrics) -> dict[str, str]:
    """Return as tags why a number is absent, e.g. ``not_timed.tensorrt_rtx``."""
    reasons = {
        "not_available": metrics.build.not_available,
        "not_timed": metrics.benchmark.not_timed,
    }
    return {
        f"{kind}.{backend}": reason
        for kind, of in reasons.items()
        for backend, reason in of.items()
    }


def _unsettled(summary: Summary) -> dict[str, str]:
    """Return as a tag why the latencies may not be believed; none where they may."""
    return {"unsettled": "; ".join(summary.unsettled)} if summary.unsettled else {}


def _data_set(data: Prepared) -> DataSet:
    """Name the prepared images by the hashes of their files."""
    rows = sum(data.images.values())
    return DataSet(
        name=data.source,
        digest=digest(data.sha256),
        source=str(artifacts_dir("prepare")),
        profile={"num_rows": rows, **data.images, "classes": len(data.classes)},
    )


def _git_commit() -> dict[str, str]:
    """Return the commit that is checked out as tags; none outside a repository or without git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return {}
    commit = git.stdout.strip()
    return {"git_commit": commit, "mlflow.source.git.commit": commit}
