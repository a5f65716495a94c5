"""What is recommended as models of MLflow: all that a version holds, and each engine by itself.

The metrics of the run that timed the recommended engine, and the data set that they were measured
on, are linked to that engine's model and to the version's.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.report.tracking.schema import Release

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking.client import MlflowClient


def log_models(client: "MlflowClient", run: "Run", release: Release, folder: Path) -> str:
    """Log the files in `folder` as one model, and each engine as another.

    Args:
        client: of the store.
        run: of the release; its row in MLflow shows the models.
        release: what is recommended.
        folder: what a version holds (`registry`).

    Returns the id of the first.
    """
    version = _log(client, run, release.title, release.tags, folder)
    _link_metrics(client, run, version)
    for name, file in release.engines.items():
        backend = Path(name).stem
        with TemporaryDirectory() as temporary:
            (Path(temporary) / file.name).symlink_to(file.resolve())
            title, tags = f"{release.title}-{backend}", {**release.tags, "backend": backend}
            engine = _log(client, run, title, tags, Path(temporary))
        if backend == release.tags["backend"]:
            _link_metrics(client, run, engine)
    return version


def _log(
    client: "MlflowClient", run: "Run", title: str, tags: Mapping[str, str], folder: Path
) -> str:
    from mlflow.entities import LoggedModelOutput

    model = client.create_logged_model(run.info.experiment_id, title, run.info.run_id, dict(tags))
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model.model_id


def _link_metrics(client: "MlflowClient", run: "Run", model_id: str) -> None:
    """Log the run's metrics again as the model's; the run itself keeps one of equal ones."""
    from mlflow.entities import Metric

    assert run.inputs is not None  # `mirror` wrote the run
    data = run.inputs.dataset_inputs[0].dataset
    measured = [
        m for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)
    ]
    linked = [
        Metric(m.key, m.value, m.timestamp, m.step, model_id, data.name, data.digest)
        for m in measured
    ]
    client.log_batch(run.info.run_id, metrics=linked)
