"""What an experiment's page shows beside its runs: a note, saved views, the choice, the report.

MLflow's table begins without a metric and its charts with ten runs. Which columns and charts are
there is kept by the browser, or in a saved view: a tag of the experiment that a link opens.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from models.hashing import file_sha256
from pipeline.core.artifacts import digest
from pipeline.report.tracking.client import connected, find_run, open_experiment
from pipeline.report.tracking.schema import Comparison

if TYPE_CHECKING:
    from mlflow.tracking.client import MlflowClient

COLUMNS = {  # and their widths in pixels
    "metrics.`accuracy_val_pct`": 135,
    "metrics.`accuracy_test_pct`": 140,
    "metrics.`latency_ms`": 100,
    "tags.`recommended`": 120,
    "metrics.`removed_blocks`": 125,
    "metrics.`params`": 90,
    "metrics.`macs`": 100,
    "metrics.`size_bytes`": 100,
    "params.`backend`": 110,
    "params.`strategy`": 110,
    "params.`lambda`": 80,
    "attributes.`Models`": 140,
}
AXES = ("removed_blocks", "size_bytes", "latency_ms", "accuracy_val_pct")
VIEW = "shoal"  # of all runs, and of those within the budget
WITHIN_BUDGET = "shoal-budget"
NOTE = "mlflow.note.content"
RECOMMENDED = "recommended"
REPORT = "report"  # the run that carries the report, and its folder there


def present(experiment: str, comparison: Comparison) -> None:
    """Make the experiment's page show what is recommended and open as the comparison of its runs.

    A note that someone else has written there stays.

    Raises:
        TrackingError: the store cannot be used.
    """
    with connected() as client:
        experiment_id = open_experiment(client, experiment)
        report = _log_report(client, experiment_id, comparison)
        _mark_recommended(client, experiment_id, comparison)
        tags = client.get_experiment(experiment_id).tags
        wanted = {
            "mlflow.experimentKind": "custom_model_development",  # else MLflow asks what it is
            **_views(comparison.latency_budget_ms),
            **_note(tags, _text(experiment, experiment_id, comparison, report)),
        }
        for key, value in wanted.items():
            if tags.get(key) != value:
                client.set_experiment_tag(experiment_id, key, value)


def page(experiment: str) -> str | None:
    """Return the address of the comparison within MLflow's UI; None before anything is tracked.

    Raises:
        TrackingError: the store cannot be used.
    """
    with connected() as client:
        found = client.get_experiment_by_name(experiment)
        return _link(found.experiment_id) if found else None


def _log_report(client: "MlflowClient", experiment_id: str, comparison: Comparison) -> str | None:
    """Bring the run named `REPORT` up to date and return its id; None where there is no report.

    One run holds it for all others, and the same one when the report changes.
    """
    if not comparison.report:
        return None
    state = digest({file.name: file_sha256(file) for file in comparison.report})
    query = "tags.\"shoal.report\" != ''"
    found = client.search_runs([experiment_id], query, max_results=1)
    # The tag comes with the run: killed before it had one, it would never be found again.
    begun = {"shoal.report": "begun"}
    run = found[0] if found else client.create_run(experiment_id, None, begun, REPORT)
    run_id = str(run.info.run_id)
    if run.data.tags.get("shoal.report") != state:
        for file in comparison.report:
            client.log_artifact(run_id, str(file), REPORT)
        client.set_terminated(run_id)
        client.set_tag(run_id, "shoal.report", state)
    return run_id


def _mark_recommended(client: "MlflowClient", experiment_id: str, comparison: Comparison) -> None:
    """Tag the recommended run and describe it by the reason; take both from all other runs."""
    key = comparison.recommended
    chosen = find_run(client, experiment_id, key) if key else None
    for run in client.search_runs([experiment_id], f"tags.{RECOMMENDED} = 'true'"):
        if chosen is None or run.info.run_id != chosen.info.run_id:
            client.delete_tag(run.info.run_id, RECOMMENDED)
            client.delete_tag(run.info.run_id, NOTE)
    if chosen:
        for tag, value in ((RECOMMENDED, "true"), (NOTE, comparison.reason)):
            if chosen.data.tags.get(tag) != value:
                client.set_tag(chosen.info.run_id, tag, value)


def _views(latency_budget_ms: float | None) -> dict[str, str]:
    """Return the saved views as tags of the experiment."""
    views = {VIEW: _view("Most accurate first", "")}
    if latency_budget_ms is not None:
        within = f"metrics.latency_ms <= {latency_budget_ms:g}"
        views[WITHIN_BUDGET] = _view(f"Within {latency_budget_ms:g} ms", within)
    return {f"mlflow.sharedViewState.{view}": content for view, content in views.items()}


def _view(name: str, search: str) -> str:
    """Return a saved view as MLflow's page reads it: the state of its search, table and charts."""
    state = {
        "searchFilter": search,
        "orderByKey": "metrics.`accuracy_val_pct`",
        "orderByAsc": False,
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": _sections(),
        "compareRunCharts": [_scatter(), _parallel()],
    }
    return json.dumps({"name": name, "createdAt": 0, "state": json.dumps(state)})


def _sections() -> list[dict[str, Any]]:
    """Return the sections of charts: our own, one below the other, and two that MLflow expects."""
    names = {
        "choice": "Accuracy against latency",
        "model": "Model metrics",
        "system": "System metrics",
    }
    sections = [
        {"uuid": uuid, "name": name, "display": True, "isReordered": False, "deleted": False}
        for uuid, name in names.items()
    ]
    sections[0] |= {"columns": 1}
    return sections


def _scatter() -> dict[str, Any]:
    axes = {"xaxis": "latency_ms", "yaxis": "accuracy_val_pct"}
    return _chart("SCATTER", {axis: {"key": key, "type": "METRIC"} for axis, key in axes.items()})


def _parallel() -> dict[str, Any]:
    chosen = {"selectedParams": ["variant", "precision"], "selectedMetrics": AXES}
    return _chart("PARALLEL", chosen | {"showAllRuns": True})


def _chart(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    place: dict[str, Any] = {
        "uuid": kind.lower(),
        "type": kind,
        "metricSectionId": "choice",
        "deleted": False,
    }
    return {**place, "isGenerated": False, "runsCountToCompare": 100, **content}


def _note(tags: Mapping[str, str], text: str) -> dict[str, str]:
    """Return the experiment's note and a tag to know it by; nothing where it is someone else's."""
    present_note = tags.get(NOTE, "")
    if present_note and digest(present_note) != tags.get("shoal.note"):
        return {}
    return {NOTE: text, "shoal.note": digest(text)}


def _text(experiment: str, experiment_id: str, comparison: Comparison, report: str | None) -> str:
    budget = comparison.latency_budget_ms
    within = f"`metrics.latency_ms <= {4 if budget is None else budget:g}`"
    links = [
        f"[table, most accurate first]({_link(experiment_id)})",
        *([f"[within {budget:g} ms]({_link(experiment_id, WITHIN_BUDGET)})"] if budget else []),
        f"[charts]({_link(experiment_id)}&compareRunsMode=CHART)",
        *_report_links(experiment_id, report, comparison.report),
        *([f"[registered model](#/models/{quote(experiment)})"] if comparison.recommended else []),
    ]
    return (
        f"**{comparison.reason}**\n\n{' · '.join(links)}\n\n"
        "One run is one variant at one level in one precision. Which is best within X ms: in the "
        f"table, the first whose `latency_ms` fits, or search for {within}. "
        "`accuracy_val_pct` decides; `accuracy_test_pct` is there to be reported. "
        f"`latency_ms` is the median of a batch of {comparison.batch_size} on `backend`; runs "
        "without it were not timed, and their tags say why. `metrics.json` of a run has the rest."
    )


def _report_links(experiment_id: str, report: str | None, files: Sequence[Path]) -> list[str]:
    pages = [file.name for file in files if file.suffix == ".html"]
    root = f"#/experiments/{experiment_id}/runs/{report}/artifacts/{REPORT}"
    return [f"[report]({root}/{name})" for name in pages]


def _link(experiment_id: str, view: str = VIEW) -> str:
    return (
        f"#/experiments/{experiment_id}/runs?viewStateShareKey={view}&workflowType=machine_learning"
    )
