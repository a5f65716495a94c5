"""A model repository for NVIDIA Triton Inference Server: config.pbtxt in protobuf's text format.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.bundle.tensors import TensorFacts

PLATFORMS = {"onnxruntime_onnx": "model.onnx", "tensorrt_plan": "model.plan"}
TYPES = {"float32": "TYPE_FP32"}  # what goes in and out stays float32 in every precision


def write_model(
    folder: Path,
    platform: str,
    network: Path,
    *,
    given: TensorFacts,
    wanted: TensorFacts,
    max_batch: int,
    classes: Sequence[str],
) -> None:
    """Write a model, in its first version, into a repository.

    Args:
        folder: of the model, in the repository; its name is the model's.
        platform: a key of `PLATFORMS`.
        network: the file, copied.
        given: the input.
        wanted: the output.
        max_batch: the largest batch into which Triton may join requests.
        classes: by label; Triton answers with their names where a client asks for classification.
    """
    (folder / "1").mkdir(parents=True)
    shutil.copyfile(network, folder / "1" / PLATFORMS[platform])
    (folder / "labels.txt").write_text("".join(f"{c}\n" for c in classes), encoding="utf-8")
    text = config(folder.name, platform, given, wanted, max_batch)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")


def config(
    name: str, platform: str, given: TensorFacts, wanted: TensorFacts, max_batch: int
) -> str:
    """Return a model's config.pbtxt, for a first dimension that is the batch."""
    return f"""\
name: {_text(name)}
platform: {_text(platform)}
max_batch_size: {max_batch}
input [
  {{
    name: {_text(given.name)}
    data_type: {TYPES[given.type]}
    dims: [ {", ".join(map(str, given.shape))} ]
  }}
]
output [
  {{
    name: {_text(wanted.name)}
    data_type: {TYPES[wanted.type]}
    dims: [ {", ".join(map(str, wanted.shape))} ]
    label_filename: "labels.txt"
  }}
]
dynamic_batching {{ }}
"""


def _text(value: str) -> str:
    """Return a string literal; JSON's and protobuf's agree on these names."""
    return json.dumps(value)
