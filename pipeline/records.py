"""What MLflow is told: one run per variant, level and precision, from the metrics files."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
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
from pipeline.params import Params
from pipeline.runs import DataSet, TrackedRun, flat_numbers, flat_params

LOCK = Path("dvc.lock")
STAGES = ("train", "score", "plan", "heal", "collapse", "precision", "build", "verify", "benchmark")

Facts = Mapping[str, Any]  # stage: the content of the variant's metrics file


def read_runs(params: Params) -> list[TrackedRun]:
    """Return the runs of the variants in `params`, in the order of reports/summary.json.

    A variant that the summary lists as failed has none.

    Raises:
        ArtifactError: a metrics file is missing or damaged, or the summary lacks a variant.
    """
    report = read_json(REPORTS / "summary.json")
    summary, failed = report["rows"], report.get("failures", {})
    data = _data_set(read_json(metrics_path("prepare")))
    commit = _git_commit()
    runs = []
    for variant in params.variants:
        rows = [row for row in summary if row["variant"] == variant]
        if not rows and variant in failed:
            continue
        if not rows:
            raise ArtifactError(
                f"{REPORTS / 'summary.json'} has no row of variant {variant!r}; `dvc repro` adds it"
            )
        facts = {stage: read_json(metrics_path(stage, variant)) for stage in STAGES}
        tags = {"variant": variant, **commit, **_reasons(facts)}
        group = state(variant)
        runs += [_run(row, facts, group, data, tags) for row in rows]
    return runs


def state(variant: str) -> str:
    """Return a hash of everything behind a variant's numbers: its entries in dvc.lock.

    Those are all stages ``*@<variant>`` and ``prepare``, with the hashes of code, parameters,
    inputs and outputs. Where DVC has not recorded the variant, since its stages were run by
    hand, the contents of its metrics files are hashed instead.
    """
    stages = _locked_stages()
    own = {name: entry for name, entry in stages.items() if name.endswith(f"@{variant}")}
    if own:
        return digest(own | {"prepare": stages.get("prepare")})
    files = [metrics_path("prepare"), *(metrics_path(stage, variant) for stage in STAGES)]
    return digest({str(file): file_sha256(file) for file in files})


def _locked_stages() -> dict[str, Any]:
    try:
        content = yaml.safe_load(LOCK.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as e:
        raise ArtifactError(
            f"{LOCK} is not valid YAML; restore it with `git checkout {LOCK}`"
        ) from e
    return dict((content or {}).get("stages") or {})


def _run(
    row: Mapping[str, Any], facts: Facts, group: str, data: DataSet, tags: Mapping[str, str]
) -> TrackedRun:
    variant, level = row["variant"], row["level"]
    return TrackedRun(
        name=f"{variant}-l{level}-{row['precision']}",
        group=group,
        key=digest([group, row]),  # the row too: a report that learns a column adds its runs
        params=_params(row, facts),
        metrics=_metrics(row, facts),
        tags={**tags, "level": str(level), "precision": row["precision"]},
        data=data,
        artifacts={
            "plots": sorted(REPORTS.glob("*.png")),
            "report": sorted(REPORTS.glob("*.html")),
            **{f"metrics/{stage}": [metrics_path(stage, variant)] for stage in STAGES},
        },
    )


def _params(row: Mapping[str, Any], facts: Facts) -> dict[str, str]:
    """Return what a variant was made with, and the blocks that this level lacks."""
    train = facts["train"]
    made = flat_params({key: train[key] for key in ("model", "train", "method")})
    settled = {"device": train["device"], "trained_in": train["precision"]}  # what `auto` came to
    removed = ", ".join([*row["removed_in_training"], *row["removed"]]) or "none"
    own = {
        "precision": row["precision"],
        "removed": removed,
        "replacement": row["replacement"],
        "shipped": row["shipped"],
    }
    planned = {key: facts["plan"][key] for key in ("search", "criterion")}
    return made | settled | own | planned


def _metrics(row: Mapping[str, Any], facts: Facts) -> dict[str, float]:
    """Return every number of the summary row, and what the stages know beyond it."""
    train, level, precision = facts["train"], row["level"], row["precision"]
    collapsed, built, verified, timed = (
        _at_level(facts[stage], level) for stage in ("collapse", "build", "verify", "benchmark")
    )
    engines = built.get("engines", {}).get(precision, {})
    beyond = {
        "removed_blocks": len(row["removed"]),
        "train_seconds": train["seconds"],
        "train_images_per_s": train["images_per_s"],
        "nodes": collapsed.get("nodes"),
        "parity": _parity(verified, precision),
        "build_seconds": {backend: engine["seconds"] for backend, engine in engines.items()},
    }
    latencies = timed.get("latency_ms", {}).get(precision, {})
    return flat_numbers(beyond) | _timings(latencies) | flat_numbers(row)


def _parity(verified: Mapping[str, Any], precision: str) -> dict[str, float]:
    """Return how far the precision's graph is from the collapsed one."""
    for rung in verified.get("rungs", []):
        if (rung["rung"], rung["precision"], rung["backend"]) == ("precision", precision, None):
            return {key: rung[key] for key in ("max_abs", "max_rel", "cosine", "top1_agreement")}
    return {}


def _timings(latencies: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Name what was timed at every batch size, e.g. ``latency_ms.onnxruntime.batch_1.p50``."""
    return {
        (
            f"images_per_s.{backend}.batch_{size}"
            if name == "images_per_s"
            else f"latency_ms.{backend}.batch_{size}.{name}"
        ): value
        for backend, by_size in latencies.items()
        for size, latency in by_size.items()
        for name, value in flat_numbers(latency).items()
    }


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
