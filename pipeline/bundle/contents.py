"""The files of a bundle, each group by one function that writes into its folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from models.errors import ArtifactError, DataError
from pipeline.bundle.golden import (
    choose_samples,
    golden_logits,
    sample_names,
    write_png,
)
from pipeline.bundle.selection import Selection, ShippedEngine, ShippedGraph, require_proven
from pipeline.bundle.tarball import EXECUTABLE
from pipeline.bundle.tensors import tensors
from pipeline.bundle.triton import write_model
from pipeline.core.artifacts import artifacts_dir, write_json
from pipeline.core.params import Batch
from pipeline.data.dataset import Dataset

SCRIPTS = Path(__file__).parent / "device"
README = "README.md"


def copy_networks(folder: Path, selection: Selection) -> None:
    """Copy graphs and plans.

    Raises:
        ArtifactError: a file is missing, or is not the one that its stage recorded.
    """
    (folder / "engines").mkdir()
    for stage, networks in (("precision", selection.graphs), ("build", selection.engines)):
        for network in networks:
            source = artifacts_dir(stage, selection.variant) / network.record.file
            _copy(source, folder / network.name, network)


def _copy(source: Path, target: Path, network: ShippedGraph | ShippedEngine) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as e:
        raise ArtifactError(f"{source} is missing; `dvc repro` makes it") from e
    size, recorded = target.stat().st_size, network.record.bytes
    if size != recorded:
        raise ArtifactError(
            f"{source} has {size} bytes where its metrics say {recorded}; run `dvc repro`"
        )
    require_proven(target, network.check, source)


def write_inputs(folder: Path, data: Dataset, pixels: Mapping[str, Any]) -> None:
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
        "filter": "bicubic, widened when shrinking (Pillow)",
        **pixels,  # fit, transparent, bits
        "mean": data.mean,
        "std": data.std,
        "formula": "(pixel / 255 - mean) / std, pixels 0 to 255",
        "layout": "NCHW",
    }
    write_json(folder / "preprocessing.json", rules)


def write_golden(folder: Path, selection: Selection, data: Dataset, count: int) -> dict[str, Any]:
    """Write samples/*.png and golden.npz; return what the manifest says of them.

    A graph that ONNX Runtime cannot run here is emulated.
    """
    collapsed = artifacts_dir("collapse", selection.variant) / f"level_{selection.level}.onnx"
    samples = choose_samples(collapsed, data, count)
    classes = [data.classes[label] for label in samples.labels]
    names = [f"samples/{name}" for name in sample_names(classes)]
    (folder / "samples").mkdir()
    for name, pixels in zip(names, samples.images.numpy(), strict=True):
        write_png(pixels, folder / name)
    images = data.normalised(samples).numpy()
    logits, origins = {}, {}
    for graph in selection.graphs:
        logits[graph.golden], origins[graph.golden] = golden_logits(folder / graph.name, images)
    np.savez(folder / "golden.npz", allow_pickle=False, images=images, **logits)
    return {
        "samples": [
            {"file": name, "class": label} for name, label in zip(names, classes, strict=True)
        ],
        "golden": origins,
    }


def write_triton(
    folder: Path, selection: Selection, classes: list[str], batch: Batch, *, onnxruntime: bool
) -> None:
    """Write a model repository: the graph, if ONNX Runtime can run it, and TensorRT's plan.

    TensorRT-RTX's plans are not for Triton. A plan that wants more than one image cannot serve
    single requests.
    """
    given, wanted = tensors(folder / "model.onnx")
    graphs = {graph.record.backend: graph.name for graph in selection.graphs}
    plans = {engine.record.backend: engine.name for engine in selection.engines}
    models = {}
    if onnxruntime:
        models[selection.name, "onnxruntime_onnx"] = graphs.get("onnxruntime", graphs[None])
    if "tensorrt" in plans and batch.min == 1:
        models[f"{selection.name}-tensorrt", "tensorrt_plan"] = plans["tensorrt"]
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
