"""Which files a bundle holds, what its manifest says of them, and what is not shipped at all."""

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message
from onnx import TensorProto, helper
from stage_process import ROOT, run_stage
from tiny_project import CLASSES, PLAN, edit_json, write_project

from models.errors import ArtifactError, DataError, ParamsError, ParityError, ShoalError
from models.hashing import file_sha256
from pipeline.data import load
from pipeline.shipping.contents import write_inputs
from pipeline.shipping.golden import sample_names, surest
from pipeline.shipping.provenance import source_state
from pipeline.shipping.tensors import tensors
from stages.bundle import bundle

NAME = "dense-l1-fp32"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    write_project(root)
    return root


@pytest.fixture
def project(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one's own, the current folder."""
    root = tmp_path / "project"
    shutil.copytree(written, root)
    monkeypatch.chdir(root)
    return root


def made(level: int | None = None, precision: str | None = None, into: str = "bundles") -> Path:
    """Make a bundle; return its folder."""
    bundle("dense", level, precision, Path(into))
    (archive,) = Path(into).glob("*.tar.gz")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def refused(error: type[ShoalError], message: str, *arguments: Any) -> None:
    """Expect a refusal that leaves nothing behind."""
    variant, level, precision = [*arguments, *[None] * 3][:3]
    with pytest.raises(error, match=re.escape(message)):
        bundle(variant, level, precision, Path("bundles"))
    assert not list(Path().glob("bundles/*"))


def edit_rung(project: Path, values: dict[str, str], **wanted: object) -> None:
    """Give the rungs that have what is wanted other values."""

    def change(metrics: dict) -> None:
        for level in metrics["levels"]:
            for rung in level["rungs"]:
                if wanted.items() <= rung.items():
                    rung.update(values)

    edit_json(project / "metrics" / "verify" / "dense.json", change)


def test_the_same_inputs_give_the_same_bytes(project: Path) -> None:
    folders = [made(into="one")]
    for file in project.rglob("*.onnx"):
        os.utime(file, (0, 0))
    folders.append(made(into="two"))
    first, second = (folder.with_name(f"{NAME}.tar.gz").read_bytes() for folder in folders)
    assert first == second
    names = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_the_archive_is_the_folder_and_stays_within_it(project: Path) -> None:
    folder = made()
    with tarfile.open(folder.with_name(f"{NAME}.tar.gz")) as entries:
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
    folder = made()
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
    assert engines["tensorrt"]["compute_capabilities"] == ["8.0+"]
    assert engines["tensorrt_rtx"]["compute_capabilities"] == ["8.6", "8.7"]
    assert "fitted to the CPU" in manifest["left_out"]["onnxruntime"]
    assert manifest["left_out"]["openvino"] == "not built: openvino is not installed"
    assert manifest["licences"]["images"] == {"source": "image_folder", "licence": None}
    assert manifest["source"]["git_commit"] is None
    assert "not a git repository" in manifest["source"]["reason"]
    for path in files.values():
        assert str(project).encode() not in path.read_bytes()
        assert str(ROOT).encode() not in path.read_bytes()


def test_graphs_and_plans_are_the_very_bytes_that_were_proven(project: Path) -> None:
    folder = made(0, "int8")
    assert folder.name == "dense-l0-int8"
    typed = project / "artifacts" / "precision" / "dense" / "int8"
    assert (folder / "model.onnx").read_bytes() == (typed / "level_0.onnx").read_bytes()
    own = (typed / "level_0.onnxruntime.onnx").read_bytes()
    assert (folder / "model.onnxruntime.onnx").read_bytes() == own
    assert (folder / "triton" / "dense-l0-int8" / "1" / "model.onnx").read_bytes() == own
    assert set(np.load(folder / "golden.npz")) == {"images", "logits", "logits_onnxruntime"}
    plans = made(into="plans") / "engines"
    assert {plan.name: plan.read_bytes() for plan in plans.iterdir()} == {
        "tensorrt.plan": PLAN,
        "tensorrt_rtx.plan": PLAN,
    }


def test_what_no_longer_fits_its_metrics_is_not_shipped(project: Path) -> None:
    plan = project / "artifacts/build/dense/fp32/tensorrt/level_1.engine"
    plan.write_bytes(b"another plan")
    message = "has 12 bytes where its metrics say 6; run `dvc repro`"
    refused(ArtifactError, message, "dense")
    plan.unlink()
    refused(ArtifactError, "level_1.engine is missing; `dvc repro` makes it", "dense")
    plan.write_bytes(b"a new ")
    edit_rung(project, {"sha256": "0"}, rung="engine", backend="tensorrt")
    refused(ArtifactError, "level_1.engine has changed since its parity was checked", "dense")


def test_a_graph_of_the_same_size_but_other_bytes_is_not_shipped(project: Path) -> None:
    for name in ("level_1.onnx", "level_1.onnxruntime.onnx"):
        graph = project / "artifacts/precision/dense/int8" / name
        proven = graph.read_bytes()
        graph.write_bytes(proven[:-1] + bytes([proven[-1] ^ 1]))
        message = f"{name} has changed since its parity was checked"
        refused(ArtifactError, message, "dense", 1, "int8")
        graph.write_bytes(proven)


def test_a_plan_that_does_not_tell_its_gpus_is_not_shipped(project: Path) -> None:
    def forget(metrics: dict) -> None:
        del metrics["levels"][1]["engines"]["fp32"]["tensorrt"]["compute_capabilities"]

    edit_json(project / "metrics" / "build" / "dense.json", forget)
    refused(ArtifactError, "do not tell for which GPUs fp32/tensorrt/level_1.engine is", "dense")


FAILED = {"status": "failed", "reason": "max_rel 2.0e-01 > 1e-02"}


def test_nothing_below_a_failed_rung_is_shipped(project: Path) -> None:
    edit_rung(project, FAILED, rung="precision", precision="fp16")
    message = "variant 'dense', level 1 cannot be shipped in fp16: its rung failed: max_rel 2.0e-01"
    refused(ParityError, message, "dense", None, "fp16")
    edit_rung(project, {"status": "not run"}, rung="precision", precision="int8", backend=None)
    refused(ParityError, "its rung was not run: no reason given", "dense", None, "int8")
    edit_rung(project, FAILED, rung="collapsed onnx")
    refused(ParityError, "its rung 'collapsed onnx' failed: max_rel", "dense")
    edit_json(
        project / "metrics" / "verify" / "dense.json",
        lambda metrics: [level.update({"rungs": []}) for level in metrics["levels"]],
    )
    refused(ParityError, "its rung is missing: run `dvc repro`", "dense")


def test_an_engine_or_a_backends_own_graph_that_failed_is_left_out(project: Path) -> None:
    edit_rung(project, FAILED, rung="engine", backend="tensorrt_rtx")
    edit_rung(project, FAILED, rung="precision", backend="onnxruntime")
    folder = made()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [engine["backend"] for engine in manifest["engines"]] == ["tensorrt"]
    assert "max_rel 2.0e-01" in manifest["left_out"]["tensorrt_rtx"]
    int8 = made(precision="int8", into="int8")
    assert not (int8 / "model.onnxruntime.onnx").exists()
    left_out = json.loads((int8 / "manifest.json").read_text())["left_out"]
    assert "max_rel 2.0e-01" in left_out["graph for onnxruntime"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], ParamsError, "name a variant (make bundle VARIANT=...): dense, lacoot"),
        (["denze"], ParamsError, "no variant 'denze' in params.yaml; did you mean 'dense'?"),
        (["dense", 7], ParamsError, "variant 'dense' has no level 7; there are 0, 1"),
        (["dense", 1, "fp23"], ParamsError, "did you mean 'fp32'"),
        (["dense", 1, "bf16"], ParamsError, "'bf16': the converter refused it; there are fp32, "),
        (["lacoot"], ArtifactError, "metrics/heal/lacoot.json is missing; `dvc repro` makes it"),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_does_not_exist_is_told_with_what_does(
    arguments: list[Any], error: type[ShoalError], message: str
) -> None:
    refused(error, message, *arguments)


def test_the_stage_fails_in_one_line(project: Path) -> None:
    done = run_stage("bundle", "dense", "--level", "7", cwd=project)
    assert done.returncode == 1
    message = "error: variant 'dense' has no level 7; there are 0, 1"
    assert done.stderr.splitlines()[-1] == message


def test_a_graph_that_no_cpu_can_run_is_emulated(project: Path) -> None:
    path = project / "artifacts" / "precision" / "dense" / "fp16" / "level_1.onnx"
    model = onnx.load(project / "artifacts" / "precision" / "dense" / "fp32" / "level_1.onnx")
    model.graph.input[0].name = "given"
    nodes = [
        helper.make_node("Cast", ["given"], ["half"], to=TensorProto.BFLOAT16),
        helper.make_node("Relu", ["half"], ["positive"]),  # ONNX Runtime has none in bfloat16
        helper.make_node("Cast", ["positive"], ["images"], to=TensorProto.FLOAT),
        *model.graph.node,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    edit_json(
        project / "metrics" / "precision" / "dense.json",
        lambda m: m["levels"][1]["graphs"]["fp16"].update({"bytes": path.stat().st_size}),
    )
    edit_rung(project, {"sha256": file_sha256(path)}, rung="precision", precision="fp16")
    folder = made(precision="fp16")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["golden"]["logits"].startswith("model.onnx, half precision emulated")
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
    repository = made() / "triton"
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
            assert tensor.data_type == 11  # TYPE_FP32
            assert value.type.tensor_type.elem_type == TensorProto.FLOAT
            dims = [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
            assert list(tensor.dims) == dims
        labels = folder / config.output[0].label_filename
        assert labels.read_text(encoding="utf-8").split("\n")[:-1] == CLASSES


def test_tritons_schema_refuses_what_it_does_not_know(model_config: type[Message]) -> None:
    with pytest.raises(text_format.ParseError, match="max_batch"):
        text_format.Parse("max_batch: 3", model_config())


def test_the_engine_of_a_backends_own_graph_goes_with_that_graph(project: Path) -> None:
    for stage, at in (("precision", "graphs"), ("build", "engines"), ("verify", "rungs")):

        def own(metrics: dict, at: str = at) -> None:
            level = metrics["levels"][1][at]
            if at == "graphs":
                level["int8"]["files"]["tensorrt"] = level["int8"]["files"].pop("onnxruntime")
            elif at == "engines":
                level["int8"] = {"tensorrt": level["fp32"]["tensorrt"]}
            else:
                above = next(rung for rung in level if rung["precision"] == "int8")
                level.append(above | FAILED | {"backend": "tensorrt"})
                reason = {"status": "not run", "reason": "the rung above it: failed"}
                level.append(above | reason | {"rung": "engine", "backend": "tensorrt"})

        edit_json(project / "metrics" / stage / "dense.json", own)
    manifest = json.loads((made(precision="int8") / "manifest.json").read_text())
    assert manifest["engines"] == []
    assert manifest["left_out"]["tensorrt"].startswith("its graph: its rung failed: max_rel")


def test_a_failure_leaves_the_last_bundle_as_it_was(project: Path) -> None:
    folder = made()
    archive = folder.with_name(f"{NAME}.tar.gz")
    before = archive.read_bytes(), (folder / "manifest.json").read_bytes()
    (project / "artifacts/build/dense/fp32/tensorrt/level_1.engine").unlink()
    with pytest.raises(ArtifactError):
        made()
    assert (archive.read_bytes(), (folder / "manifest.json").read_bytes()) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == [NAME, archive.name]
