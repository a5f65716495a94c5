"""The step precision on a network trained on real images, and the stage as DVC runs it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from stage_process import ROOT, run_stage
from torch import nn

from models import zoo
from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline import precision
from pipeline.collapse import collapse_onnx
from pipeline.data import Dataset, Split, batches, load, subset
from pipeline.emulation import emulated
from pipeline.engines.onnxruntime import runner
from pipeline.evaluate import accuracy_pct
from pipeline.export import export_onnx
from pipeline.onnx_graph import load_onnx
from pipeline.precision import Level, open_level, typed_graphs
from pipeline.quantize import ONNXRUNTIME
from pipeline.tolerances import Tolerance

ALL = ["fp32", "fp16", "bf16", "int8"]
REMOVED = "layer1.1"


def images(data: Dataset, split: Split, n: int) -> np.ndarray:
    sample = subset(split, n, seed=0)
    [(x, _)] = batches(sample, len(sample), mean=data.mean, std=data.std, device="cpu")
    return x.numpy()


def train(model: nn.Module, data: Dataset, epochs: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for x, y in batches(
            data.train, 50, mean=data.mean, std=data.std, device="cpu", generator=generator
        ):
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
        collapse_onnx(source, root / "artifacts/collapse/dense" / file, removed)
        levels.append(
            {
                "level": level,
                "removed": removed,
                "file": file,
                "sha256": file_sha256(root / "artifacts/collapse/dense" / file),
            }
        )
    (root / "metrics/collapse").mkdir(parents=True)
    (root / "metrics/collapse/dense.json").write_text(json.dumps({"levels": levels}))
    shutil.copy(ROOT / "tests/params.yaml", root / "params.yaml")
    return root


@pytest.fixture(scope="module")
def level(trained: Path, prepared: Path) -> Level:
    data = load(prepared)
    source = trained / "artifacts/collapse/dense/level_0.onnx"
    return open_level(source, images(data, data.train, 200))


def test_every_precision_keeps_the_test_accuracy(
    level: Level, prepared: Path, tmp_path: Path
) -> None:
    data = load(prepared)

    def test_accuracy_pct(file: Path) -> float:
        run = runner(emulated(load_onnx(file)).SerializeToString())
        loader = batches(data.test, 250, mean=data.mean, std=data.std, device="cpu")
        return accuracy_pct(lambda x: torch.from_numpy(run(x.numpy())), loader)

    graphs = typed_graphs(level, tmp_path, ALL)["graphs"]
    dense = test_accuracy_pct(level.source)
    assert dense > 50, "the network has not learnt"
    files = {name: graph["file"] for name, graph in graphs.items()}
    files["int8 on ONNX Runtime"] = graphs["int8"]["files"]["onnxruntime"]
    lost = {name: dense - test_accuracy_pct(tmp_path / file) for name, file in files.items()}
    assert lost["fp32"] == 0
    assert lost["fp16"] <= 0.2
    assert max(lost.values()) <= 1.0, lost


def test_the_metrics_describe_the_files(level: Level, tmp_path: Path) -> None:
    made = typed_graphs(level, tmp_path, ALL)
    assert made["failed"] == {}
    graphs = made["graphs"]
    assert list(graphs) == ALL
    assert file_sha256(tmp_path / graphs["fp32"]["file"]) == file_sha256(level.source)
    own = graphs["int8"]["by_backend"]["onnxruntime"]
    names = {node.name for node in onnx.load(level.source).graph.node}
    assert own["file"] == graphs["int8"]["files"]["onnxruntime"]
    for graph in (*graphs.values(), own):
        file = tmp_path / graph["file"]
        assert file.name == "level_0.onnx"
        assert graph["bytes"] == file.stat().st_size
        assert {node["name"] for node in graph["kept_fp32"]} <= names
        tensors = onnx.load(file).graph.initializer
        assert sum(graph["weight_bytes"].values()) == sum(
            numpy_helper.to_array(tensor).nbytes for tensor in tensors
        )
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.onnx")}
    assert written == {graph["file"] for graph in (*graphs.values(), own)}
    assert graphs["fp16"]["calibration_parity"]["top1_agreement"] >= 0.99
    float32 = graphs["fp32"]["weight_bytes"]["float32"]
    held = graphs["bf16"]["weight_bytes"]
    assert 2 * held["bfloat16"] + held.get("float32", 0) == float32


def test_a_precision_beyond_its_tolerance_fails_and_the_others_go_on(
    level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Tolerance(max_rel=1e-9, cosine=0.99, top1_agreement=0.9)
    monkeypatch.setitem(precision.TOLERANCES, "bf16", strict)
    made = typed_graphs(level, tmp_path, ["bf16", "fp32"])
    assert list(made["graphs"]) == ["fp32"]
    assert "level_0.onnx in bf16 with" in made["failed"]["bf16"]
    assert "kept in float32, on 200 calibration images: max_rel" in made["failed"]["bf16"]
    assert not (tmp_path / "bf16").exists()


def test_a_backend_without_a_graph_of_its_own_takes_the_one_for_all(
    level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = replace(ONNXRUNTIME, kinds=("ConvTranspose",))
    monkeypatch.setitem(precision.SCHEMES, "onnxruntime", nothing)
    made = typed_graphs(level, tmp_path, ["int8"])
    assert made["failed"] == {}
    graph = made["graphs"]["int8"]
    assert "files" not in graph
    reason = "the graph has none of ConvTranspose to quantise"
    assert graph["files_failed"] == {"onnxruntime": reason}


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
    level = open_level(tmp_path / "level_0.onnx", images(data, data.train, 100))
    made = typed_graphs(level, tmp_path, ["fp16", "bf16"])
    assert made["failed"] == {}
    kept = made["graphs"]["fp16"]["kept_fp32"]
    assert {"name": first.name, "op_type": "Conv"} in kept
    assert {"name": second.name, "op_type": "Conv"} in kept
    assert made["graphs"]["bf16"]["kept_fp32"] == []


def test_a_graph_of_other_types_is_refused(level: Level, tmp_path: Path) -> None:
    graphs = typed_graphs(level, tmp_path, ["fp16"])["graphs"]
    with pytest.raises(ArtifactError, match=r"level_0\.onnx holds float16; float32 is needed"):
        open_level(tmp_path / graphs["fp16"]["file"], level.images)


def test_a_file_too_large_for_protobuf_is_named(
    level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "LARGEST_FILE", 1000)
    with pytest.raises(ArtifactError, match=r"level_0\.onnx has .* bytes; .* end at 2 GiB"):
        open_level(level.source, level.images)


def test_the_stage_writes_graphs_and_metrics_and_says_nothing_else(trained: Path) -> None:
    done = run_stage("precision", "dense", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2 * len(ALL)
    assert all(line.startswith("dense: level ") for line in done.stdout.splitlines())
    metrics = json.loads((trained / "metrics/precision/dense.json").read_text())
    assert metrics["calibration"] == {
        "split": "train",
        "images": 256,
        "seed": 0,
        "ranges": "minmax",
    }
    for level, removed in zip(metrics["levels"], [[], [REMOVED]], strict=True):
        assert level["removed"] == removed
        assert list(level["graphs"]) == ALL
        for graph in level["graphs"].values():
            file = trained / "artifacts/precision/dense" / graph["file"]
            assert file.stat().st_size == graph["bytes"]


def test_the_stage_names_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/params.yaml", tmp_path / "params.yaml")
    done = run_stage("precision", "dense", cwd=tmp_path)
    assert done.returncode == 1
    assert "metrics/collapse/dense.json is missing; `dvc repro` makes it" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
