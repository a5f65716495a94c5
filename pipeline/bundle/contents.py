"""The files of a bundle, each group by one function that writes into its folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from models.errors import ArtifactError, BackendError, DataError
from models.hashing import file_sha256
from pipeline.artifacts import write_json
from pipeline.data import Dataset
from pipeline.emulation import EMULATED
from pipeline.engines.interface import Images, Logits
from pipeline.params import Batch
from pipeline.shipping.golden import (
    choose_samples,
    emulated_logits,
    expected_logits,
    normalised,
    sample_names,
    write_png,
)
from pipeline.shipping.selection import Selection, Shipped
from pipeline.shipping.tarball import EXECUTABLE
from pipeline.shipping.tensors import tensors
from pipeline.shipping.triton import write_model

SCRIPTS = Path(__file__).parent.parent / "bundled"
README = "README.md"
Files = Mapping[str, Shipped]  # graphs and plans by their names in the bundle


@dataclass(frozen=True)
class Sources:
    """Where the files of a level lie, and its images.

    Attributes:
        collapsed: the level's float32 graph.
        graphs: the folder of the precision stage.
        engines: the folder of the build stage.
        data: the images, with the normalisation that the network wants.
    """

    collapsed: Path
    graphs: Path
    engines: Path
    data: Dataset


def copy_networks(folder: Path, selection: Selection, sources: Sources) -> dict[str, Shipped]:
    """Copy graphs and plans; return them by their names in the bundle.

    Raises:
        ArtifactError: a file is missing, or is not the one that its stage recorded.
    """
    (folder / "engines").mkdir()
    files = {}
    for graph in selection.graphs:
        name = f"model.{graph.backend}.onnx" if graph.backend else "model.onnx"
        _copy(sources.graphs / graph.file, folder / name, graph)
        files[name] = graph
    for plan in selection.engines:
        name = f"engines/{plan.backend}.plan"
        _copy(sources.engines / plan.file, folder / name, plan)
        files[name] = plan
    return files


def _copy(source: Path, target: Path, shipped: Shipped) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as e:
        raise ArtifactError(f"{source} is missing; `dvc repro` makes it") from e
    size, recorded = target.stat().st_size, shipped.record["bytes"]
    if shipped.file == shipped.record["file"] and size != recorded:
        raise ArtifactError(
            f"{source} has {size} bytes where its metrics say {recorded}; run `dvc repro`"
        )
    proven = shipped.rung.get("sha256")
    if proven is not None and proven != file_sha256(target):
        raise ArtifactError(f"{source} has changed since its parity was checked; run `dvc repro`")


def write_inputs(folder: Path, data: Dataset, fit: str) -> None:
    """Write labels.txt, one class per line, and preprocessing.json.

    Raises:
        DataError: a class has a line break in its name.
    """
    for name in data.classes:
        if len(name.splitlines()) != 1:
            raise DataError(
                f"class {name!r} is empty or has a line break in its name, and labels.txt has one "
                "line per class; rename its folder"
            )
    (folder / "labels.txt").write_text("".join(f"{c}\n" for c in data.classes), encoding="utf-8")
    rules = {
        "size": data.image_size,
        "channels": data.channels,
        "channel_order": "RGB" if data.channels == 3 else "grey, by the luma of ITU-R 601",
        "fit": fit,
        "filter": "bicubic, widened when shrinking (Pillow)",
        "transparent": "black",
        "mean": data.mean,
        "std": data.std,
        "formula": "(pixel / 255 - mean) / std, pixels 0 to 255",
        "layout": "NCHW",
    }
    write_json(folder / "preprocessing.json", rules)


def write_golden(folder: Path, files: Files, sources: Sources, count: int) -> dict[str, Any]:
    """Write samples/*.png and golden.npz; return what the manifest says of them.

    A graph that ONNX Runtime cannot run here is emulated.
    """
    samples = choose_samples(sources.collapsed, sources.data, count)
    classes = [sources.data.classes[label] for label in samples.labels]
    names = [f"samples/{name}" for name in sample_names(classes)]
    (folder / "samples").mkdir()
    for name, pixels in zip(names, samples.images.numpy(), strict=True):
        write_png(pixels, folder / name)
    images = normalised(samples, sources.data)
    logits, origins = _golden_logits(folder, files, images)
    np.savez(folder / "golden.npz", allow_pickle=False, images=images, **logits)
    return {
        "samples": [
            {"file": name, "class": label} for name, label in zip(names, classes, strict=True)
        ],
        "golden": origins,
    }


def _golden_logits(
    folder: Path, files: Files, images: Images
) -> tuple[dict[str, Logits], dict[str, str]]:
    logits, origins = {}, {}
    for name, file in files.items():
        if file.rung["rung"] != "precision":
            continue
        try:
            found, origin = expected_logits(folder / name, images), name
        except BackendError:
            found, origin = emulated_logits(folder / name, images), f"{name}, {EMULATED}"
        logits[file.golden], origins[file.golden] = found, origin
    return logits, origins


def write_triton(
    folder: Path, name: str, files: Files, classes: list[str], batch: Batch, *, onnxruntime: bool
) -> None:
    """Write a model repository: the graph, if ONNX Runtime can run it, and TensorRT's plan.

    TensorRT-RTX's plans are not for Triton. A plan that wants more than one image cannot serve
    single requests.
    """
    given, wanted = tensors(folder / "model.onnx")
    models = {}
    if onnxruntime:
        own = "model.onnxruntime.onnx"
        models[name, "onnxruntime_onnx"] = own if own in files else "model.onnx"
    if "engines/tensorrt.plan" in files and batch.min == 1:
        models[f"{name}-tensorrt", "tensorrt_plan"] = "engines/tensorrt.plan"
    for (model, platform), file in models.items():
        write_model(
            folder / "triton" / model,
            platform,
            folder / file,
            given=given,
            wanted=wanted,
            max_batch=batch.max,
            classes=classes,
        )


def copy_scripts(folder: Path, facts: Mapping[str, str]) -> None:
    """Copy what runs on the device, and its README with the facts filled in."""
    # One by one: copytree hides what the file system answered in an error without its number.
    for source in SCRIPTS.rglob("*"):
        target = folder / source.relative_to(SCRIPTS)
        if source.is_file() and "__pycache__" not in source.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    readme = Template((SCRIPTS / README).read_text(encoding="utf-8"))
    (folder / README).write_text(readme.substitute(facts), encoding="utf-8")
    for script in folder.glob(f"*{EXECUTABLE}"):
        script.chmod(0o755)
