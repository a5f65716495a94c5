"""Which files a bundle holds, what its manifest says of them, and what is not shipped at all."""

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message
from onnx import TensorProto, helper
from stage_process import ROOT, run_stage
from tiny_project import CLASSES, PLAN, edit_json, write_project

from models.errors import ArtifactError, DataError
from models.hashing import file_sha256
from pipeline.data import load
from pipeline.shipping.contents import write_inputs
from pipeline.shipping.golden import sample_names, surest
from pipeline.shipping.provenance import source_state
from pipeline.shipping.tensors import tensors

NAME = "dense-l1-fp32"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_project(tmp_path)
    return tmp_path


def bundle(project: Path, *arguments: str, into: str = "artifacts/bundle") -> Path:
    done = run_stage("bundle", "dense", *arguments, "--into", into, cwd=project)
    assert done.returncode == 0, done.stderr
    (archive,) = (project / into).glob("*.tar.gz")
    return archive


def refused(project: Path, *arguments: str) -> str:
    """Return the one line in which the stage refuses; it must leave nothing behind."""
    done = run_stage("bundle", *arguments, cwd=project)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert not list(project.glob("artifacts/bundle/*"))
    return line


def edit_rung(project: Path, status: str, **wanted: object) -> None:
    """Give the rungs with these values another status."""

    def change(metrics: dict) -> None:
        for level in metrics["levels"]:
            for rung in level["rungs"]:
                if wanted.items() <= rung.items():
                    rung |= {"status": status, "reason": "max_rel 2.0e-01 > 1e-02"}

    edit_json(project / "metrics" / "verify" / "dense.json", change)


def test_the_same_inputs_give_the_same_bytes(project: Path) -> None:
    first = bundle(project, into="one")
    for file in project.rglob("*.onnx"):
        os.utime(file, (0, 0))
    second = bundle(project, into="two")
    assert first.name == second.name == f"{NAME}.tar.gz"
    assert first.read_bytes() == second.read_bytes()
    folders = [archive.parent / NAME for archive in (first, second)]
    names = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_the_archive_is_the_folder_and_stays_within_it(project: Path) -> None:
    archive = bundle(project)
    folder = archive.parent / NAME
    with tarfile.open(archive) as entries:
        members = entries.getmembers()
        for member in members:
            assert member.isfile()
            assert (member.uid, member.gid, member.mtime) == (0, 0, 0)
            assert member.mode == (0o755 if member.name.endswith(".sh") else 0o644)
            top, *rest = Path(member.name).parts
            assert top == NAME
            assert ".." not in rest
            content = entries.extractfile(member)
            assert content is not None
            assert content.read() == folder.joinpath(*rest).read_bytes()
    names = [member.name for member in members]
    assert names == sorted(names)
    assert len(names) == sum(path.is_file() for path in folder.rglob("*"))


def test_the_manifest_tells_what_is_known_and_nothing_of_the_machines_folders(
    project: Path,
) -> None:
    folder = bundle(project).parent / NAME
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    assert (manifest["variant"], manifest["level"], manifest["removed"]) == (
        "dense",
        1,
        ["layer1.0"],
    )
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == set(files) - {"manifest.json"}
    for name, facts in manifest["files"].items():
        assert facts == {"sha256": file_sha256(files[name]), "bytes": files[name].stat().st_size}
    (graph,) = manifest["graphs"]
    assert (graph["val_accuracy_pct"], graph["test_accuracy_pct"]) == (60, 50)
    assert manifest["input"]["shape"] == ["batch", 1, 12, 12]
    assert manifest["latency"]["latency_ms"] == {"onnxruntime": {"1": {"p50": 0.5}}}
    assert manifest["latency"]["protocol"] == {"rounds": 3}
    statuses = {(r["rung"], r["backend"]): r["status"] for r in manifest["parity"]}
    assert statuses["engine", "tensorrt"] == "not run"
    assert {rung["precision"] for rung in manifest["parity"]} == {None, "fp32"}
    engines = {engine["backend"]: engine for engine in manifest["engines"]}
    assert engines["tensorrt"]["compute_capabilities"] == ["8.7"]  # of the GPU it was built on
    assert engines["tensorrt_rtx"]["compute_capabilities"] == ["8.6"]  # of params.yaml
    assert "fitted to the CPU" in manifest["left_out"]["onnxruntime"]
    assert manifest["left_out"]["openvino"] == "not built: openvino is not installed"
    assert manifest["licences"]["images"] == {"source": "image_folder", "licence": None}
    assert manifest["source"]["git_commit"] is None
    assert "not a git repository" in manifest["source"]["reason"]
    for path in files.values():
        assert str(project).encode() not in path.read_bytes()
        assert str(ROOT).encode() not in path.read_bytes()


def test_graphs_and_plans_are_the_very_bytes_that_were_proven(project: Path) -> None:
    folder = bundle(project, "--level", "0", "--precision", "int8").parent / "dense-l0-int8"
    typed = project / "artifacts" / "precision" / "dense" / "int8"
    assert (folder / "model.onnx").read_bytes() == (typed / "level_0.onnx").read_bytes()
    own = (typed / "level_0.onnxruntime.onnx").read_bytes()
    assert (folder / "model.onnxruntime.onnx").read_bytes() == own
    assert (folder / "triton" / "dense-l0-int8" / "1" / "model.onnx").read_bytes() == own
    assert set(np.load(folder / "golden.npz")) == {"images", "logits", "logits_onnxruntime"}
    plans = bundle(project, into="plans").parent / NAME / "engines"
    assert {plan.name: plan.read_bytes() for plan in plans.iterdir()} == {
        "tensorrt.plan": PLAN,
        "tensorrt_rtx.plan": PLAN,
    }


def test_what_no_longer_fits_its_metrics_is_not_shipped(project: Path) -> None:
    plan = project / "artifacts/build/dense/fp32/tensorrt/level_1.engine"
    plan.write_bytes(b"another plan")
    assert "has 12 bytes where its metrics say 6; run `dvc repro`" in refused(project, "dense")
    plan.unlink()
    assert "level_1.engine is missing; `dvc repro` makes it" in refused(project, "dense")


def test_nothing_below_a_failed_rung_is_shipped(project: Path) -> None:
    edit_rung(project, "failed", rung="precision", precision="fp16")
    line = refused(project, "dense", "--precision", "fp16")
    assert "'dense', level 1 cannot be shipped in fp16" in line
    assert "failed: max_rel 2.0e-01 > 1e-02" in line
    edit_rung(project, "not run", rung="precision", precision="int8", backend=None)
    assert "not run: max_rel" in refused(project, "dense", "--precision", "int8")
    edit_rung(project, "failed", rung="collapsed onnx")
    assert "its rung 'collapsed onnx' failed" in refused(project, "dense")
    edit_json(
        project / "metrics" / "verify" / "dense.json",
        lambda metrics: [level.update({"rungs": []}) for level in metrics["levels"]],
    )
    assert "its rung is missing: run `dvc repro`" in refused(project, "dense")


def test_an_engine_or_a_backends_own_graph_that_failed_is_left_out(project: Path) -> None:
    edit_rung(project, "failed", rung="engine", backend="tensorrt_rtx")
    edit_rung(project, "failed", rung="precision", backend="onnxruntime")
    folder = bundle(project).parent / NAME
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [engine["backend"] for engine in manifest["engines"]] == ["tensorrt"]
    assert "max_rel 2.0e-01" in manifest["left_out"]["tensorrt_rtx"]
    int8 = bundle(project, "--precision", "int8", into="int8").parent / "dense-l1-int8"
    assert not (int8 / "model.onnxruntime.onnx").exists()
    left_out = json.loads((int8 / "manifest.json").read_text())["left_out"]
    assert "max_rel 2.0e-01" in left_out["graph for onnxruntime"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a variant (make bundle VARIANT=...): dense, lacoot"),
        (["denze"], "no variant 'denze' in params.yaml; did you mean 'dense'?"),
        (["dense", "--level", "7"], "variant 'dense' has no level 7; there are 0, 1"),
        (["dense", "--precision", "fp23"], "did you mean 'fp32'"),
        (["dense", "--precision", "bf16"], "'bf16': the converter refused it; there are fp32, "),
        (["lacoot"], "metrics/plan/lacoot.json is missing; `dvc repro` makes it"),
    ],
)
def test_what_does_not_exist_is_told_with_what_does(
    project: Path, arguments: list[str], message: str
) -> None:
    assert message in refused(project, *arguments)


def test_a_graph_that_no_cpu_can_run_is_held_to_the_float32_logits(project: Path) -> None:
    typed = project / "artifacts" / "precision" / "dense"
    source = onnx.load(typed / "fp32" / "level_1.onnx")
    source.graph.input[0].name = "given"
    for name in ("images", "wide"):
        kind = TensorProto.BFLOAT16 if name == "images" else TensorProto.FLOAT
        made_of = "given" if name == "images" else "sine"
        source.graph.node.insert(0, helper.make_node("Cast", [made_of], [name], to=kind))
    source.graph.node.insert(1, helper.make_node("Sin", ["images"], ["sine"]))
    order = [source.graph.node[index] for index in (2, 1, 0)]
    source.graph.node[2].input[0], source.graph.node[3].input[0] = "given", "wide"
    rest = list(source.graph.node)[3:]
    del source.graph.node[:]
    source.graph.node.extend([*order, *rest])
    onnx.save(source, typed / "fp16" / "level_1.onnx")
    size = (typed / "fp16" / "level_1.onnx").stat().st_size
    edit_json(
        project / "metrics" / "precision" / "dense.json",
        lambda metrics: metrics["levels"][1]["graphs"]["fp16"].update({"bytes": size}),
    )
    folder = bundle(project, "--precision", "fp16").parent / "dense-l1-fp16"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "the float32 graph" in manifest["golden"]["logits"]
    assert not (folder / "triton").exists()


def test_the_surest_of_every_class_come_first() -> None:
    logits = np.array([[1, 0], [5, 0], [0, 3], [9, 8]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    assert surest(logits, labels).tolist() == [1, 2, 0, 3]


def test_samples_have_names_that_part_no_paths() -> None:
    names = sample_names(["a/b", "../c", "A b", "a_b", "x" * 200, "été"])
    assert names[:4] == [
        "sample_a_b.png",
        "sample__c.png",
        "sample_A_b_2.png",
        "sample_a_b_3.png",
    ]
    assert all(re.fullmatch(r"sample_[\w-]+\.png", name) and len(name) < 80 for name in names)


def test_a_class_must_fit_on_a_line(project: Path, tmp_path: Path) -> None:
    data = load(project / "artifacts" / "prepare")
    data.classes[0] = "two\nlines"
    with pytest.raises(DataError, match="has a line break in its name"):
        write_inputs(tmp_path, data, "pad")


def test_a_network_of_two_inputs_is_refused(project: Path) -> None:
    path = project / "artifacts/precision/dense/fp32/level_0.onnx"
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match="has 2 inputs and 1 outputs"):
        tensors(path)


def test_the_state_of_the_code_is_told_honestly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline").mkdir()
    for name in ("params.yaml", "pipeline/a.py", "notes.txt"):
        (tmp_path / name).write_text("1")
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    clean = source_state()
    assert clean["modified"] == []
    assert re.fullmatch(r"[0-9a-f]{40}", str(clean["git_commit"]))
    for name in ("pipeline/a.py", "pipeline/b.py", "notes.txt"):
        (tmp_path / name).write_text("2")
    assert source_state() == clean | {"modified": ["pipeline/a.py", "pipeline/b.py"]}


@pytest.fixture(scope="module")
def model_config() -> type[Message]:
    """Triton's own schema of config.pbtxt.

    triton_model_config.binpb is the descriptor in NVIDIA's package tritonclient 2.73.0 (BSD-3),
    which itself does not go with this version of protobuf.
    """
    content = (ROOT / "tests" / "triton_model_config.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(content))
    found = pool.FindMessageTypeByName("inference.ModelConfig")
    return message_factory.GetMessageClass(found)


def test_the_triton_repository_is_what_tritons_schema_and_the_network_say(
    project: Path, model_config: type[Message]
) -> None:
    repository = bundle(project).parent / NAME / "triton"
    platforms = {NAME: "onnxruntime_onnx", f"{NAME}-tensorrt": "tensorrt_plan"}
    assert {path.name for path in repository.iterdir()} == set(platforms)
    session = onnx.load(repository / NAME / "1" / "model.onnx").graph
    for name, platform in platforms.items():
        folder = repository / name
        config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config())
        assert (config.name, config.platform, config.max_batch_size) == (name, platform, 128)
        assert config.HasField("dynamic_batching")
        (version,) = (path for path in folder.iterdir() if path.is_dir())
        assert version.name == "1"
        (file,) = version.iterdir()
        assert file.name == {"onnxruntime_onnx": "model.onnx"}.get(platform, "model.plan")
        for told, real in ((config.input, session.input), (config.output, session.output)):
            (tensor,), (value,) = told, real
            assert tensor.name == value.name
            assert type(config.input[0]).DESCRIPTOR.fields_by_name["data_type"]
            assert tensor.data_type == 11  # TYPE_FP32
            assert value.type.tensor_type.elem_type == TensorProto.FLOAT
            dims = [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
            assert list(tensor.dims) == dims
        labels = folder / config.output[0].label_filename
        assert labels.read_text(encoding="utf-8").split("\n")[:-1] == CLASSES


def test_tritons_schema_refuses_what_it_does_not_know(model_config: type[Message]) -> None:
    with pytest.raises(text_format.ParseError, match="max_batch"):
        text_format.Parse("max_batch: 3", model_config())
