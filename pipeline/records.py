"""What MLflow is told: one run per variant, level and precision, from the metrics files."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.artifacts import (
    REPORTS,
    artifacts_dir,
    digest,
    metrics_path,
    read_json,
)
from pipeline.dvc_stages import locked_stages
from pipeline.params import PARAMS, Params
from pipeline.repairs import ACCURACIES
from pipeline.report import SUMMARY
from pipeline.rows import blocks_out, engine_accuracy_pct
from pipeline.runs import Comparison, DataSet, TrackedRun, flat_numbers, flat_params

STAGES = ("train", "score", "plan", "heal", "collapse", "precision", "build", "verify", "benchmark")
SETTINGS = ("model", "strategy", "lambda", "epochs", "seed")

Facts = Mapping[str, Any]  # stage: the content of the variant's metrics file


def read_runs(params: Params) -> list[TrackedRun]:
    """Return the runs of the variants in `params`, in the order of reports/summary.json.

    A variant that the summary lists as failed has none.

    Raises:
        ArtifactError: a metrics file is missing or damaged, or the summary lacks a variant.
    """
    report = read_json(SUMMARY)
    summary, failed = report["rows"], report.get("failures", {})
    data = _data_set(read_json(metrics_path("prepare")))
    commit = _git_commit()
    written, locked = _written_settings(), locked_stages()
    runs = []
    for variant in params.variants:
        rows = [row for row in summary if row["variant"] == variant]
        if not rows and variant in failed:
            continue
        if not rows:
            raise ArtifactError(f"{SUMMARY} has no row of variant {variant!r}; `dvc repro` adds it")
        facts = {stage: read_json(metrics_path(stage, variant)) for stage in STAGES}
        tags = {"variant": variant, **commit, **_reasons(facts)}
        settings = _settings(facts["train"], written[variant])
        group = state(variant, locked)
        for row in rows:
            timed_on = _timed_on(row, params.choose.backend)
            metrics = _metrics(row, facts, timed_on)
            runs.append(
                TrackedRun(
                    name=run_name(row),
                    group=group,
                    # What it holds too: a report that learns a column adds its runs.
                    key=digest([group, row, metrics]),
                    params=_params(row, facts, timed_on) | settings,
                    metrics=metrics,
                    tags=tags | ({"chosen_level": "true"} if row["chosen"] else {}),
                    data=data,
                    details=_details(row, facts),
                )
            )
    return runs


def read_comparison(params: Params, runs: Sequence[TrackedRun]) -> Comparison:
    """Return the recommendation of reports/summary.json, and the report, for the page of `runs`."""
    recommendation = read_json(SUMMARY)["recommendation"]
    chosen = recommendation["chosen"]
    keys = {run.name: run.key for run in runs}
    return Comparison(
        reason=recommendation["reason"],
        recommended=keys.get(run_name(chosen)) if chosen else None,
        latency_budget_ms=params.choose.latency_budget_ms,
        batch_size=params.benchmark.batch_sizes[-1],
        report=sorted([*REPORTS.glob("*.html"), *REPORTS.glob("*.png")]),
    )


def run_name(row: Mapping[str, Any]) -> str:
    """Return e.g. ``lacoot-l4-int8`` for a row of the summary or what was chosen of it."""
    return f"{row['variant']}-l{row['level']}-{row['precision']}"


def state(variant: str, stages: Mapping[str, Any]) -> str:
    """Return a hash of everything behind a variant's numbers: its entries in dvc.lock.

    Those are all stages ``*@<variant>`` and ``prepare``, with the hashes of code, parameters,
    inputs and outputs. Where DVC has not recorded the variant, since its stages were run by
    hand, the contents of its metrics files are hashed instead.

    Args:
        variant: its name.
        stages: as `locked_stages` returns them.
    """
    own = {name: entry for name, entry in stages.items() if name.endswith(f"@{variant}")}
    if own:
        return digest(own | {"prepare": stages.get("prepare")})
    files = [metrics_path("prepare"), *(metrics_path(stage, variant) for stage in STAGES)]
    return digest({str(file): file_sha256(file) for file in files})


def _written_settings() -> dict[str, dict[str, str]]:
    """Return what is written under each variant in params.yaml: how it differs from the rest."""
    variants = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["variants"]
    return {variant: flat_params(own or {}) for variant, own in variants.items()}


def _settings(train: Mapping[str, Any], written: Mapping[str, str]) -> dict[str, str]:
    """Return the few settings that every variant is known by, and those written for this one."""
    made = flat_params({key: train[key] for key in ("model", "train")})
    return {key: made[key] for key in SETTINGS if key in made} | dict(written)


def _params(row: Mapping[str, Any], facts: Facts, timed_on: str | None) -> dict[str, str]:
    """Return which of a variant's networks this is, and how it came about."""
    return {
        "variant": row["variant"],
        "level": str(row["level"]),
        "precision": row["precision"],
        "backend": timed_on or "not timed",
        "removed": ", ".join(blocks_out(row)) or "none",
        "replacement": row["replacement"],
        "shipped": row["shipped"],
        "criterion": facts["plan"]["criterion"],
        "search": facts["plan"]["search"],
    }


def _timed_on(row: Mapping[str, Any], wanted: str | None) -> str | None:
    """Return the backend that a row's latency is told of: the one to choose by, or the fastest."""
    p50 = {backend: latency["p50"] for backend, latency in row["latency_ms"].items()}
    if wanted is not None:
        return wanted if wanted in p50 else None
    return min(p50, key=lambda backend: p50[backend], default=None)


def _metrics(row: Mapping[str, Any], facts: Facts, timed_on: str | None) -> dict[str, float]:
    """Return the numbers that decide, then details under prefixes, a section each in the charts."""
    level, precision = row["level"], row["precision"]
    verified, timed = (_at_level(facts[stage], level) for stage in ("verify", "benchmark"))
    decisive = {
        "accuracy_test_pct": round(engine_accuracy_pct(row, timed_on, "test"), 2),
        "accuracy_val_pct": round(engine_accuracy_pct(row, timed_on, "val"), 2),
        "latency_ms": row["latency_ms"][timed_on]["p50"] if timed_on else None,
        "macs": row["macs"],
        "params": row["params"],
        "removed_blocks": len(blocks_out(row)),
        "size_bytes": row["engine_bytes"].get(timed_on, row["onnx_bytes"]),
        "train_seconds": facts["train"]["seconds"],
    }
    repaired = {
        f"repairs/{kind}_val_pct": round(row[key], 2)
        for kind, key in ACCURACIES.items()
        if key in row
    }
    by_batch = {
        f"latency_{backend}/batch_{size}_ms": latency["p50"]
        for backend, by_size in timed.get("latency_ms", {}).get(precision, {}).items()
        for size, latency in by_size.items()
    }
    return flat_numbers(decisive | _parity(verified, precision) | repaired | by_batch)


def _parity(verified: Mapping[str, Any], precision: str) -> dict[str, float]:
    """Return how far the precision's graph is from the collapsed one."""
    for rung in verified.get("rungs", []):
        if (rung["rung"], rung["precision"], rung["backend"]) == ("precision", precision, None):
            return {f"parity/{key}": rung[key] for key in ("max_abs", "top1_agreement")}
    return {}


def _details(row: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Return the summary's row and what every stage knows of the variant and of this level."""
    stages = {
        stage: {**known, "levels": [_at_level(known, row["level"])]} if "levels" in known else known
        for stage, known in facts.items()
    }
    return {"row": row, "stages": stages}


def _at_level(facts: Mapping[str, Any], level: int) -> Mapping[str, Any]:
    """Return a stage's entry of one level; empty where the stage has none."""
    return next((entry for entry in facts["levels"] if entry["level"] == level), {})


def _reasons(facts: Facts) -> dict[str, str]:
    """Return as tags why a number is absent, e.g. ``not_timed.tensorrt_rtx``."""
    return {
        f"{kind}.{backend}": str(reason)
        for stage, kind in (("build", "not_available"), ("benchmark", "not_timed"))
        for backend, reason in facts[stage].get(kind, {}).items()
    }


def _data_set(manifest: Mapping[str, Any]) -> DataSet:
    """Name the prepared images by the hashes of their files."""
    images = {split: sum(by_class.values()) for split, by_class in manifest["counts"].items()}
    return DataSet(
        name=str(manifest["source"]),
        digest=digest(manifest["sha256"]),
        source=str(artifacts_dir("prepare")),
        profile={"num_rows": sum(images.values()), **images, "classes": len(manifest["classes"])},
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
