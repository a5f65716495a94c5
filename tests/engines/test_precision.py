"""The step precision on a network trained on real images, and the stage as DVC runs it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from places import FIXED
from stage_process import run_stage
from torch import nn

from models import zoo
from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.collapse.records import CollapsedLevel, CollapseMetrics
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.core.records import read_record, write_record
from pipeline.data.dataset import Dataset, Split, load
from pipeline.engines.precision import typed_graphs as precision
from pipeline.engines.precision.emulation import emulated
from pipeline.engines.precision.int8 import ONNXRUNTIME
from pipeline.engines.precision.tolerances import Tolerance
from pipeline.engines.precision.typed_graphs import LevelGraph, open_level, typed_graphs
from pipeline.engines.records import MissingGraph, PrecisionMetrics, TypedGraph
from pipeline.export.boundaries import load_onnx
from pipeline.export.exporter import export_onnx
from pipeline.export.parity import Parity
from pipeline.export.session import runner

ALL = ["fp32", "fp16", "bf16", "int8"]
REMOVED = "layer1.1"


def images(data: Dataset, split: Split, n: int) -> np.ndarray:
    return data.normalised(split.sample(n)).numpy()


def train(model: nn.Module, data: Dataset, epochs: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for x, y in data.batches(data.train, 50, generator=generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    model.eval()


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder as `collapse` leaves it: two levels of a small trained ResNet."""
    root = tmp_path_factory.mktemp("project")
    data = load(prepared)
    torch.manual_seed(0)
    model = zoo.create("resnet18_cifar", 10, in_chans=1, width=4)
    train(model, data, epochs=4)
    for folder in ("train/dense", "collapse/dense"):
        (root / "artifacts" / folder).mkdir(parents=True)
    spec = zoo.ModelSpec(
        name="resnet18_cifar",
        num_classes=10,
        in_chans=1,
        image_size=32,
        mean=data.mean,
        std=data.std,
        classes=data.classes,
        options={"width": 4},
        initial_weights="random",
    )
    zoo.save(root / "artifacts/train/dense", spec, model)
    (root / "artifacts/prepare").symlink_to(prepared)
    source = export_onnx(model, torch.zeros(1, 1, 32, 32), root / "model.onnx")
    levels = []
    for level, removed in enumerate([[], [REMOVED]]):
        file = f"level_{level}.onnx"
        target = root / "artifacts/collapse/dense" / file
        report = collapse_onnx(source, target, removed)
        levels.append(
            CollapsedLevel(
                *(level, "collapse", removed, file, file_sha256(target), 0, 0, 0, 0),
                *(report.before, report.after, Parity(0.0, 0.0, 1.0, 1.0), 0.0, 0.0),
            )
        )
    metrics = CollapseMetrics("dense", 64, 1e-4, levels)
    write_record(root / "metrics/collapse/dense.json", metrics)
    shutil.copy(FIXED, root / "params.yaml")
    return root


@pytest.fixture(scope="module")
def level(trained: Path, prepared: Path) -> LevelGraph:
    data = load(prepared)
    source = trained / "artifacts/collapse/dense/level_0.onnx"
    return open_level(0, source, images(data, data.train, 200))


@pytest.fixture(scope="module")
def made(
    level: LevelGraph, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[TypedGraph], Path]:
    """The graphs of every precision, and their folder."""
    folder = tmp_path_factory.mktemp("made")
    graphs, missing = typed_graphs(level, folder, ALL)
    assert missing == []
    return graphs, folder


def test_every_precision_keeps_the_test_accuracy(
    level: LevelGraph, made: tuple[list[TypedGraph], Path], prepared: Path
) -> None:
    graphs, folder = made
    data = load(prepared)

    def test_accuracy_pct(file: Path) -> float:
        run = runner(emulated(load_onnx(file)).SerializeToString())
        return data.accuracy_pct(data.test, lambda x: torch.from_numpy(run(x.numpy())))

    dense = test_accuracy_pct(level.source)
    assert dense > 50, "the network has not learnt"
    lost = {
        (graph.precision, graph.backend): dense - test_accuracy_pct(folder / graph.file)
        for graph in graphs
    }
    assert list(lost) == [*((name, None) for name in ALL), ("int8", "onnxruntime")]
    assert lost["fp32", None] == 0
    assert lost["fp16", None] <= 0.2
    assert max(lost.values()) <= 1.0, lost


def test_the_records_describe_the_files(
    level: LevelGraph, made: tuple[list[TypedGraph], Path]
) -> None:
    graphs, folder = made
    names = {node.name for node in onnx.load(level.source).graph.node}
    for graph in graphs:
        file = folder / graph.file
        assert file.name == "level_0.onnx"
        assert graph.bytes == file.stat().st_size
        assert {node["name"] for node in graph.kept_fp32} <= names
        tensors = onnx.load(file).graph.initializer
        assert sum(graph.weight_bytes.values()) == sum(
            numpy_helper.to_array(tensor).nbytes for tensor in tensors
        )
    written = {p.relative_to(folder).as_posix() for p in folder.rglob("*.onnx")}
    assert written == {graph.file for graph in graphs}
    fp32, fp16, bf16, *_ = graphs
    assert file_sha256(folder / fp32.file) == file_sha256(level.source)
    assert fp32.calibration_parity is None
    assert fp16.calibration_parity is not None
    assert fp16.calibration_parity.top1_agreement >= 0.99
    held = bf16.weight_bytes
    assert 2 * held["bfloat16"] + held.get("float32", 0) == fp32.weight_bytes["float32"]


def test_a_precision_beyond_its_tolerance_is_missing_and_the_others_go_on(
    level: LevelGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Tolerance(max_rel=1e-9, cosine=0.99, top1_agreement=0.9)
    monkeypatch.setitem(precision.TOLERANCES, "bf16", strict)
    graphs, [missing] = typed_graphs(level, tmp_path, ["bf16", "fp32"])
    assert [graph.precision for graph in graphs] == ["fp32"]
    assert (missing.level, missing.precision, missing.backend) == (0, "bf16", None)
    assert "level_0.onnx in bf16 with" in missing.reason
    assert "kept in float32, on 200 calibration images: max_rel" in missing.reason
    assert not (tmp_path / "bf16").exists()


@pytest.mark.parametrize("backend", [None, "onnxruntime"])
def test_a_backend_takes_the_graph_for_all_and_without_that_there_is_none(
    backend: str | None, level: LevelGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = replace(ONNXRUNTIME, kinds=("ConvTranspose",))
    monkeypatch.setitem(precision.SCHEMES, backend, nothing)
    graphs, missing = typed_graphs(level, tmp_path, ["int8"])
    reason = "the graph has none of ConvTranspose to quantise"
    assert missing == [MissingGraph(0, "int8", backend, reason)]
    assert [graph.backend for graph in graphs] == ([None] if backend else [])
    found = PrecisionMetrics("dense", {}, graphs, missing).graph(0, "int8", "onnxruntime")
    assert found is (graphs[0] if backend else None)


def test_operators_that_stay_in_float32_are_listed(
    trained: Path, prepared: Path, tmp_path: Path
) -> None:
    """A convolution beyond float16, brought back by the next: both stay, by name and kind."""
    model = onnx.load(trained / "artifacts/collapse/dense/level_0.onnx")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"][:3]
    first, second = convolutions[1:]  # of one block, a ReLU between them
    factors = {first.input[1]: 2.0**17, first.input[2]: 2.0**17, second.input[1]: 2.0**-17}
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            value = numpy_helper.to_array(tensor) * np.float32(factors[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, tmp_path / "level_0.onnx")
    data = load(prepared)
    level = open_level(0, tmp_path / "level_0.onnx", images(data, data.train, 100))
    [fp16, bf16], missing = typed_graphs(level, tmp_path, ["fp16", "bf16"])
    assert missing == []
    assert {"name": first.name, "op_type": "Conv"} in fp16.kept_fp32
    assert {"name": second.name, "op_type": "Conv"} in fp16.kept_fp32
    assert bf16.kept_fp32 == []


def test_a_graph_of_other_types_is_rejected(
    level: LevelGraph, made: tuple[list[TypedGraph], Path]
) -> None:
    with pytest.raises(ArtifactError, match=r"level_0\.onnx holds float16; float32 is needed"):
        open_level(0, made[1] / "fp16/level_0.onnx", level.images)


def test_a_file_too_large_for_protobuf_is_named(
    level: LevelGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "LARGEST_FILE", 1000)
    with pytest.raises(ArtifactError, match=r"level_0\.onnx has .* bytes; .* end at 2 GiB"):
        open_level(0, level.source, level.images)


def test_the_stage_writes_graphs_and_metrics_and_says_nothing_else(trained: Path) -> None:
    done = run_stage("precision", "dense", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2 * (len(ALL) + 1)  # int8 of ONNX Runtime is its own
    assert all(line.startswith("dense: level ") for line in done.stdout.splitlines())
    metrics = read_record(trained / "metrics/precision/dense.json", PrecisionMetrics)
    assert metrics.calibration == {"split": "train", "images": 256, "seed": 0, "ranges": "minmax"}
    assert metrics.missing == []
    keys = [*((name, None) for name in ALL), ("int8", "onnxruntime")]
    assert [(graph.level, graph.precision, graph.backend) for graph in metrics.graphs] == [
        (level, *key) for level in (0, 1) for key in keys
    ]
    for graph in metrics.graphs:
        file = trained / "artifacts/precision/dense" / graph.file
        assert file.stat().st_size == graph.bytes


def test_the_stage_names_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(FIXED, tmp_path / "params.yaml")
    done = run_stage("precision", "dense", cwd=tmp_path)
    assert done.returncode == 1
    assert "metrics/collapse/dense.json is missing; `dvc repro` makes it" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
