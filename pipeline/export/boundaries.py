"""The block boundaries recorded in an ONNX file, and loading such a file."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto
from pydantic import TypeAdapter, ValidationError

from models.errors import ArtifactError

BLOCKS_KEY = "shoal.blocks"  # model metadata: the recorded boundaries, as JSON


@dataclass(frozen=True)
class Boundary:
    """A block in the graph: which activation tensors enter and leave it."""

    name: str  # the module's dotted path, as `find_blocks` gives it
    inputs: list[str]
    outputs: list[str]
    reason: str  # why the block cannot be removed; empty where it can


def load_onnx(path: Path) -> ModelProto:
    """Load and check an ONNX file.

    Raises:
        ArtifactError: the file is missing, truncated or not a valid model.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
    except (FileNotFoundError, IsADirectoryError) as e:
        raise ArtifactError(f"{path} is not a file; `dvc repro` makes it") from e
    except (
        DecodeError,
        ValueError,  # of unknown types, and of names that are not text
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as e:
        raise ArtifactError(f"{path} is not a valid ONNX model ({e}); export it again") from e
    return model


def record_boundaries(model: ModelProto, boundaries: Iterable[Boundary]) -> None:
    """Write the block boundaries into the model's metadata, replacing what was there."""
    values = {prop.key: prop.value for prop in model.metadata_props}
    values[BLOCKS_KEY] = json.dumps([asdict(boundary) for boundary in boundaries])
    onnx.helper.set_model_props(model, values)


def read_boundaries(model: ModelProto) -> dict[str, Boundary]:
    """Return the recorded blocks by name.

    Raises:
        ArtifactError: the file was not written by `export_onnx`.
    """
    for prop in model.metadata_props:
        if prop.key == BLOCKS_KEY:
            try:
                found = TypeAdapter(list[Boundary]).validate_json(prop.value)
            except ValidationError as e:
                why = e.errors()[0]["msg"]
                raise ArtifactError(
                    f"the block boundaries in the ONNX file are damaged ({why}); export it again"
                ) from e
            named = {boundary.name: boundary for boundary in found}
            if len(named) < len(found):
                raise ArtifactError(
                    "the block boundaries in the ONNX file name a block twice; export it again"
                )
            return named
    raise ArtifactError(
        "the ONNX file records no block boundaries; export it with pipeline.export.export_onnx"
    )
