"""The model registry: what is recommended as a version of a registered model, and back again.

A version holds the ONNX graph as MLflow's `onnx` flavor, with signature and input example; engines,
which have no flavor, lie beside it. `sha256.json` has the hashes of graph and engines, a tag of the
version those of all other files.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.core.artifacts import digest, replace_dir, write_json
from pipeline.core.records import read_record
from pipeline.report.tracking.client import connected, find_run, one_error
from pipeline.report.tracking.logged_models import log_models
from pipeline.report.tracking.schema import Release
from pipeline.report.tracking.store import TrackingError, shown, store_uri

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature
    from mlflow.tracking.client import MlflowClient
    from onnx import ModelProto, ValueInfoProto

CHAMPION = "champion"
GRAPH = "model.onnx"
HASHES = "sha256.json"
STATE = "shoal.files"  # tag of a version: names its files and their bytes
OTHERS = "shoal.sha256"  # tag of a version: the sha256 of all files that `HASHES` does not name
ANEW = "delete that version in MLflow and run `python -m stages.track`"
MLFLOWS = "registered_model_meta"  # which MLflow adds when it brings a version


def register(experiment: str, release: Release) -> str:
    """Make the release the champion and return one line on it; the same bytes are one version.

    Raises:
        TrackingError: the store cannot be used, or lacks the run of the release.
        OSError: the files of a version cannot be written on this machine.
    """
    hashes = {GRAPH: file_sha256(release.graph)}
    hashes |= {name: file_sha256(file) for name, file in release.engines.items()}
    state = digest([release.title, hashes, OTHERS])
    with connected() as client:
        there = _version(client, release.name, state) is not None
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        if not there:  # written outside of `connected`: a full disk is no fault of the store
            _write_model(folder, release, hashes)
            others = json.dumps(_hashes(folder, without=hashes))
            release = replace(release, tags={**release.tags, OTHERS: others})
        with connected() as client:
            found = _version(client, release.name, state)  # another process may have added it
            version = found or _add_version(client, experiment, release, folder, state)
            _make_champion(client, version, release)
    done = "already there" if found else "added"
    return f"{CHAMPION} of {release.name}: version {version.version}, {release.title} ({done})"


def withdraw(name: str, reason: str) -> str:
    """Remove the alias where nothing is recommended, and return a message.

    Raises:
        TrackingError: the store cannot be used.
    """
    with connected() as client:
        models = client.search_registered_models(f"name = '{name}'")
        if any(CHAMPION in model.aliases for model in models):
            client.delete_registered_model_alias(name, CHAMPION)
    return f"no {CHAMPION} of {name}: {reason}"


def download(name: str, folder: Path, alias: str = CHAMPION) -> str:
    """Bring the version of an alias to `folder` and return one line on it.

    Raises:
        TrackingError: the store cannot be used or has no such version.
        ArtifactError: a file is not what was registered, or the folder holds something else.
        OSError: the folder cannot be made.
    """
    if folder.exists() and not (folder / HASHES).is_file():
        raise ArtifactError(f"{folder} is there and is no earlier download; name another folder")
    with connected() as client:
        version = _by_alias(client, name, alias)
    from mlflow.artifacts import download_artifacts

    uri = f"models:/{name}/{version.version}"
    with replace_dir(folder) as work:
        with one_error(store_uri()):
            download_artifacts(uri, dst_path=str(work), tracking_uri=store_uri())
        _require_hashes(work, uri, version.tags.get(OTHERS, ""))
    return f"{folder}: version {version.version} of {name}, every file as it was registered"


def _version(client: "MlflowClient", name: str, state: str) -> "ModelVersion | None":
    query = f"name = '{name}' and tags.`{STATE}` = '{state}'"
    found = client.search_model_versions(query, max_results=1)
    # As a search returns it, it has no aliases.
    return client.get_model_version(name, found[0].version) if found else None


def _make_champion(client: "MlflowClient", version: "ModelVersion", release: Release) -> None:
    if CHAMPION not in version.aliases:
        client.set_registered_model_alias(release.name, CHAMPION, version.version)
    if version.description != release.reason:
        client.update_model_version(release.name, version.version, release.reason)


def _add_version(
    client: "MlflowClient", experiment: str, release: Release, folder: Path, state: str
) -> "ModelVersion":
    """Upload everything before there is a version, so that none is half there."""
    run = _run_of(client, experiment, release)
    model_id = log_models(client, run, release, folder)
    if not client.search_registered_models(f"name = '{release.name}'"):
        client.create_registered_model(release.name)
    with _default_store(store_uri()):
        return _create_version(client, release, model_id, run, state)


def _create_version(
    client: "MlflowClient", release: Release, model_id: str, run: "Run", state: str
) -> "ModelVersion":
    return client.create_model_version(
        release.name,
        f"models:/{model_id}",
        run.info.run_id,
        dict(release.tags) | {STATE: state},
        description=release.reason,
        model_id=model_id,
    )


@contextmanager
def _default_store(uri: str) -> Iterator[None]:
    """Let MLflow's own default be our store: it makes clients of it while it makes a version.

    Of the address that it makes up itself, a folder appears whose name is percent-encoded.
    """
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before or "")
        if before is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)


def _run_of(client: "MlflowClient", experiment: str, release: Release) -> "Run":
    found = client.get_experiment_by_name(experiment)
    run = find_run(client, found.experiment_id, release.run) if found else None
    if run is None:
        raise TrackingError(
            f"the MLflow store {shown(store_uri())} has no run of {release.title} in experiment "
            f"{experiment!r}; `python -m stages.track` adds it"
        )
    return run


def _write_model(folder: Path, release: Release, hashes: dict[str, str]) -> None:
    """Write what a version holds: the flavor's files, the graph's own bytes, engines, hashes."""
    import mlflow.onnx
    import numpy as np
    import onnx
    import onnxruntime

    graph = onnx.load(release.graph)
    (images,) = graph.graph.input
    kind, (_, *shape) = _type_of(images)
    mlflow.onnx.save_model(
        graph,
        folder,
        signature=_signature(graph),
        input_example=np.zeros((1, *shape), kind),
        # The module's own version: its package may be onnxruntime-gpu.
        pip_requirements=[
            f"{module.__name__}=={module.__version__}" for module in (onnx, onnxruntime)
        ],
        save_as_external_data=False,
    )
    for name, file in {GRAPH: release.graph, **release.engines}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, folder / name)
    write_json(folder / HASHES, hashes)


def _signature(graph: "ModelProto") -> "ModelSignature":
    """Return the types and shapes of the graph's input and output, -1 where a size is free."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    given, wanted = (
        Schema([TensorSpec(np.dtype(kind), shape) for kind, shape in map(_type_of, values)])
        for values in (graph.graph.input, graph.graph.output)
    )
    return ModelSignature(given, wanted)


def _type_of(value: "ValueInfoProto") -> tuple[str, tuple[int, ...]]:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    shape = (size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim)
    return str(tensor_dtype_to_np_dtype(tensor.elem_type)), tuple(shape)


def _by_alias(client: "MlflowClient", name: str, alias: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as e:
        raise TrackingError(
            f"the MLflow store {shown(store_uri())} has no {alias!r} of {name!r}; "
            "`python -m stages.track` makes one where something is recommended"
        ) from e


def _hashes(folder: Path, without: Collection[str]) -> dict[str, str]:
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir()}
    return {name: file_sha256(path) for name, path in files.items() if name not in without}


def _require_hashes(folder: Path, uri: str, others: str) -> None:
    """Require that a version's files are those that were registered, all of them and no other."""
    try:
        expected = read_record(folder / HASHES, dict[str, str])
        expected |= TypeAdapter(dict[str, str]).validate_json(others)
    except (ArtifactError, ValidationError) as e:
        raise ArtifactError(
            f"{uri} has no hashes of its files as Shoal records them; {ANEW}"
        ) from e
    found = _hashes(folder, without=[MLFLOWS])
    for name in sorted(found.keys() | expected.keys() | {GRAPH}):
        if GRAPH not in expected or found.get(name) != expected.get(name):
            raise ArtifactError(f"{name} of {uri} is not what was registered; {ANEW}")
