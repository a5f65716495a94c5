"""Which files a bundle holds, what its manifest says of them, and what is not shipped at all."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message
from onnx import TensorProto, helper
from places import ROOT
from stage_process import run_stage
from tiny_project import BATCH, CLASSES, PLAN, edit_json, write_project

from models import zoo
from models.errors import ArtifactError, DataError, ParamsError, ParityError, ShoalError
from models.hashing import file_sha256
from pipeline.bundle.aging import old_bundles
from pipeline.bundle.contents import write_inputs
from pipeline.bundle.golden import sample_names, surest
from pipeline.bundle.provenance import source_state
from pipeline.bundle.tensors import tensors
from pipeline.data.dataset import load
from pipeline.export.exporter import export_onnx
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
    """Expect an error that leaves nothing behind."""
    variant, level, precision = [*arguments, *[None] * 3][:3]
    with pytest.raises(error, match=re.escape(message)):
        bundle(variant, level, precision, Path("bundles"))
    assert not list(Path().glob("bundles/*"))


def edit_check(project: Path, values: dict[str, str], **wanted: object) -> None:
    """Give the checks that have what is wanted other values."""

    def change(metrics: dict) -> None:
        for check in metrics["checks"]:
            if wanted.items() <= check.items():
                check.update(values)

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


def test_the_manifest_holds_what_is_known_and_nothing_of_the_machines_folders(
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
    statuses = {(r["check"], r["backend"]): r["status"] for r in manifest["parity"]}
    assert statuses["collapsed onnx", None] == "passed"
    assert statuses["engine", "tensorrt"] == "not run"
    assert {check["precision"] for check in manifest["parity"]} == {None, "fp32"}
    engines = {engine["backend"]: engine for engine in manifest["engines"]}
    assert engines["tensorrt"]["compute_capabilities"] == ["8.0+"]
    assert engines["tensorrt_rtx"]["compute_capabilities"] == ["8.6", "8.7"]
    assert "fitted to the CPU" in manifest["skipped"]["onnxruntime"]
    assert manifest["skipped"]["openvino"] == "not built: openvino is not installed"
    assert manifest["licences"]["images"] == {"source": "image_folder", "licence": None}
    assert manifest["source"]["git_commit"] is None
    assert "not a git repository" in manifest["source"]["reason"]
    for path in files.values():
        assert str(project).encode() not in path.read_bytes()
        assert str(ROOT).encode() not in path.read_bytes()


def test_a_real_export_ships_no_folder_and_no_user(project: Path) -> None:
    trained = project / "artifacts" / "train" / "dense"
    weights = "/home/some one/weights.pt (sha256 0123…)"
    edit_json(trained / "model.json", lambda spec: spec.update(initial_weights=weights))
    model, spec = zoo.load(trained)
    graph = project / "artifacts/precision/dense/fp32/level_1.onnx"
    export_onnx(model, spec.example(), graph)
    facts = {"bytes": graph.stat().st_size}
    path = project / "metrics" / "precision" / "dense.json"
    edit_json(path, lambda m: [g.update(facts) for g in m["graphs"] if g["precision"] == "fp32"])
    proof = {"sha256": file_sha256(graph)}
    edit_check(project, proof, check="precision", precision="fp32", level=1)
    failure = f"cannot open {project}/x.so: no '/opt/one/lib/y.so.1', see https://a.b/c/d"
    edit_check(project, {"reason": failure}, check="engine", backend="tensorrt")
    folder = made()
    places = {str(place) for place in (project, ROOT, Path.home(), Path(sys.prefix))}
    for file in (file for file in folder.rglob("*") if file.is_file()):
        for text in (*places, "some one", "/opt/one", "site-packages"):
            assert text.encode() not in file.read_bytes(), (file, text)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["licences"]["initial_weights"]["source"] == "weights.pt (sha256 0123…)"
    reasons = {check["reason"] for check in manifest["parity"]}
    assert "cannot open x.so: no 'y.so.1', see https://a.b/c/d" in reasons


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
    edit_check(project, {"sha256": "0"}, check="engine", backend="tensorrt")
    refused(ArtifactError, "level_1.engine has changed since its parity was checked", "dense")


def test_a_graph_of_the_same_size_but_other_bytes_is_not_shipped(project: Path) -> None:
    for name in ("level_1.onnx", "level_1.onnxruntime.onnx"):
        graph = project / "artifacts/precision/dense/int8" / name
        proven = graph.read_bytes()
        graph.write_bytes(proven[:-1] + bytes([proven[-1] ^ 1]))
        message = f"{name} has changed since its parity was checked"
        refused(ArtifactError, message, "dense", 1, "int8")
        graph.write_bytes(proven)


def test_what_was_prepared_and_built_is_shipped_whatever_params_say_now(project: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["prepare"]["fit"] = "crop"
    params["build"]["batch"] = {"min": 1, "opt": 64, "max": 4096}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    folder = made()
    assert json.loads((folder / "preprocessing.json").read_text())["fit"] == "pad"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["input"]["batch"] == BATCH
    for config in folder.rglob("config.pbtxt"):
        assert f"max_batch_size: {BATCH['max']}\n" in config.read_text()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("artifacts/prepare/manifest.json", {"classes": ["zebra", *CLASSES[1:]]}, "has ['zebra'"),
        ("artifacts/train/dense/model.json", {"classes": CLASSES[::-1]}, "has the classes ['été'"),
        ("artifacts/train/dense/model.json", {"image_size": 13}, "has the image size 13, "),
        ("artifacts/prepare/manifest.json", {"fit": None}, "(fit: Input should be"),
        ("metrics/build/dense.json", {"batch": None}, "does not say which batches its engines"),
        ("metrics/prepare.json", {"fit": "crop"}, "is not what metrics/prepare.json says"),
    ],
)
def test_parts_of_other_runs_are_not_put_together(
    project: Path, file: str, change: dict[str, Any], message: str
) -> None:
    shutil.copy("artifacts/prepare/manifest.json", "metrics/prepare.json")
    edit_json(project / file, lambda values: values.update(change))
    if file.startswith("artifacts/prepare"):
        shutil.copy(file, "metrics/prepare.json")
    with pytest.raises(ArtifactError, match=re.escape(message)) as error:
        bundle("dense", None, None, Path("bundles"))
    assert file in str(error.value)
    assert "run `dvc repro" in str(error.value) or "`dvc repro` makes" in str(error.value)


def write_lock(**changed: object) -> None:
    """Write the dvc.lock of a finished project; the md5 of folders is DVC's own."""

    def entry(path: str) -> dict[str, object]:
        files = [f for f in Path(path).rglob("*") if f.is_file()]
        tree = Tree()
        for file in files:
            name = file.relative_to(path).parts
            tree.add(name, None, HashInfo("md5", md5(file.read_bytes()).hexdigest()))
        tree.digest()
        own = tree.hash_info.value if files else md5(Path(path).read_bytes()).hexdigest()
        return {"path": path, "hash": "md5", "md5": own}

    network = entry("artifacts/train/dense")
    stages: dict[str, Any] = {
        f"{stage}@dense": {"deps": [network], "outs": [entry(f"metrics/{stage}/dense.json")]}
        for stage in ("heal", "precision", "build", "verify")
    }
    stages["train@dense"] = {"deps": [entry("artifacts/prepare")], "outs": [network]}
    stages["prepare"] = {"outs": [entry("artifacts/prepare")]}
    stages["report"] = {"deps": [{"path": "metrics/heal/dense.json", "md5": "old"}]}
    stages["train@lacoot"] = {"deps": [{"path": "artifacts/prepare", "md5": "old"}]}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": stages | changed}))


def test_a_bundle_is_made_of_what_dvc_recorded(project: Path) -> None:
    write_lock()
    made()


@pytest.mark.parametrize("stage", ["heal", "precision", "build", "verify"])
def test_metrics_edited_by_hand_are_not_shipped(project: Path, stage: str) -> None:
    write_lock()
    file = f"metrics/{stage}/dense.json"
    Path(file).write_text(Path(file).read_text().replace("60.0", "99.99") + "\n")
    message = f"{file} is not what {stage}@dense wrote; run `dvc repro bundle@dense`"
    refused(ArtifactError, message, "dense")


def test_a_network_edited_by_hand_is_not_shipped(project: Path) -> None:
    write_lock()
    edit_json(project / "artifacts/train/dense/model.json", lambda spec: spec.update(mean=[0.9]))
    refused(ArtifactError, "artifacts/train/dense is not what train@dense wrote", "dense")


def test_what_was_made_before_its_input_is_stale(project: Path) -> None:
    new = {"path": "artifacts/prepare", "hash": "md5", "md5": "new.dir"}
    write_lock(prepare={"outs": [new]})
    message = (
        "artifacts/prepare was made anew by prepare after train@dense had read it; run "
        "`dvc repro bundle@dense`"
    )
    refused(ArtifactError, message, "dense")


@pytest.mark.parametrize("entry", [None, [], 3, {"outs": 5}, {"deps": ["x"]}])
def test_a_damaged_lock_is_one_message(project: Path, entry: object) -> None:
    write_lock(prepare=entry)
    refused(ArtifactError, "dvc.lock is ", "dense")


def test_a_plan_that_does_not_name_its_gpus_is_not_shipped(project: Path) -> None:
    def forget(metrics: dict) -> None:
        for engine in metrics["engines"]:
            engine["compute_capabilities"] = None

    edit_json(project / "metrics" / "build" / "dense.json", forget)
    refused(ArtifactError, "do not name the GPUs of fp32/tensorrt_rtx/level_1.engine", "dense")


FAILED = {"status": "failed", "reason": "max_rel 2.0e-01 > 1e-02"}


def test_nothing_below_a_failed_check_is_shipped(project: Path) -> None:
    edit_check(project, FAILED, check="precision", precision="fp16")
    message = (
        "variant 'dense', level 1 cannot be shipped in fp16: its check failed: max_rel 2.0e-01"
    )
    refused(ParityError, message, "dense", None, "fp16")
    edit_check(project, {"status": "not run"}, check="precision", precision="int8", backend=None)
    refused(ParityError, "its check was not run: no reason given", "dense", None, "int8")
    edit_check(project, FAILED, check="collapsed onnx")
    refused(ParityError, "its check 'collapsed onnx' failed: max_rel", "dense")
    edit_json(
        project / "metrics" / "verify" / "dense.json",
        lambda metrics: metrics.update({"checks": []}),
    )
    refused(ParityError, "its check is missing: run `dvc repro`", "dense")


def test_a_precision_without_its_common_graph_is_not_shipped(project: Path) -> None:
    def drop(metrics: dict) -> None:
        metrics["graphs"] = [g for g in metrics["graphs"] if g["file"] != "int8/level_1.onnx"]

    edit_json(project / "metrics" / "precision" / "dense.json", drop)
    refused(
        ParamsError, "level 1 has no precision 'int8'; there are fp32, fp16", "dense", 1, "int8"
    )


def test_an_engine_or_a_backends_own_graph_that_failed_is_skipped(project: Path) -> None:
    edit_check(project, FAILED, check="engine", backend="tensorrt_rtx")
    edit_check(project, FAILED, check="precision", backend="onnxruntime")
    folder = made()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [engine["backend"] for engine in manifest["engines"]] == ["tensorrt"]
    assert "max_rel 2.0e-01" in manifest["skipped"]["tensorrt_rtx"]
    int8 = made(precision="int8", into="int8")
    assert not (int8 / "model.onnxruntime.onnx").exists()
    skipped = json.loads((int8 / "manifest.json").read_text())["skipped"]
    assert "max_rel 2.0e-01" in skipped["graph for onnxruntime"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], ParamsError, "name a variant (make bundle VARIANT=...): dense, lacoot"),
        (["denze"], ParamsError, "no variant 'denze' in params.yaml; did you mean 'dense'?"),
        (["dense", 7], ParamsError, "variant 'dense' has no level 7; there are 0, 1"),
        (["dense", 1, "fp23"], ParamsError, "did you mean 'fp32'"),
        (["dense", 1, "bf16"], ParamsError, "'bf16': the converter failed; there are fp32, "),
        (["lacoot"], ArtifactError, "metrics/heal/lacoot.json is missing; `dvc repro` makes it"),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_does_not_exist_is_named_with_what_does(
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
        lambda m: [g.update({"bytes": path.stat().st_size}) for g in m["graphs"]],
    )
    edit_check(project, {"sha256": file_sha256(path)}, check="precision", precision="fp16")
    folder = made(precision="fp16")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["golden"]["logits"].startswith("model.onnx, half precision emulated")
    assert not (folder / "triton").exists()


def test_the_surest_of_every_class_come_first() -> None:
    logits = np.array([[1, 0], [5, 0], [0, 3], [9, 8]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    assert surest(logits, labels).tolist() == [1, 2, 0, 3]


def test_samples_have_names_without_path_separators() -> None:
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


def test_the_state_of_the_code_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    content = (Path(__file__).parent / "triton_model_config.binpb").read_bytes()
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
        for described, real in ((config.input, session.input), (config.output, session.output)):
            (tensor,), (value,) = described, real
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
    def change(stage: str, own: Callable[[dict], object]) -> None:
        edit_json(project / "metrics" / stage / "dense.json", own)

    is_own = {"level": 1, "precision": "int8", "backend": "onnxruntime"}.items()
    change(
        "precision",
        lambda m: [g.update(backend="tensorrt") for g in m["graphs"] if is_own <= g.items()],
    )
    change("build", lambda m: [e.update(precision="int8") for e in m["engines"]])
    edit_check(project, FAILED | {"backend": "tensorrt"}, check="precision", **dict(is_own))
    manifest = json.loads((made(precision="int8") / "manifest.json").read_text())
    assert manifest["engines"] == []
    assert manifest["skipped"]["tensorrt"].startswith("its graph: its check failed: max_rel")


def test_a_failure_leaves_the_last_bundle_as_it_was(project: Path) -> None:
    folder = made()
    archive = folder.with_name(f"{NAME}.tar.gz")
    before = archive.read_bytes(), (folder / "manifest.json").read_bytes()
    (project / "artifacts/build/dense/fp32/tensorrt/level_1.engine").unlink()
    with pytest.raises(ArtifactError):
        made()
    assert (archive.read_bytes(), (folder / "manifest.json").read_bytes()) == before
    names = [NAME, archive.name, f"{archive.name}.sha256"]
    assert sorted(path.name for path in folder.parent.iterdir()) == names


@pytest.mark.parametrize(
    "name",
    [
        f"{NAME}/thesis.txt",
        f"{NAME}/manifest.json",
        f"{NAME}/engines/.git/config",
        NAME,
        f"{NAME}.tar.gz",
        f"{NAME}.tar.gz/thesis.txt",
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_bundle_takes_the_place_of_nothing_but_a_bundle(
    project: Path, name: str, *, earlier: bool
) -> None:
    if earlier:
        folder = made()
        if name == NAME:
            shutil.rmtree(folder)
        if name.startswith(f"{NAME}.tar.gz"):
            folder.with_name(f"{NAME}.tar.gz").unlink()
    mine = project / "bundles" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("[1]")
    with pytest.raises(ArtifactError, match="with --into"):
        bundle("dense", None, None, Path("bundles"))
    assert mine.read_text() == "[1]"


def test_a_bundle_replaces_an_earlier_one_with_what_was_built_in_it(project: Path) -> None:
    folder = made()
    (folder / "built").mkdir()
    (folder / "built" / "tensorrt.plan").write_text("")
    (project / "bundles" / "other.txt").write_text("mine")
    made()
    assert not (folder / "built").exists()
    assert (project / "bundles" / "other.txt").exists()
    shutil.rmtree(folder)
    folder.mkdir()
    made()  # an empty folder is nothing to lose


def test_the_archives_hash_is_beside_it(project: Path) -> None:
    made()
    subprocess.run(["sha256sum", "--check", f"{NAME}.tar.gz.sha256"], check=True, cwd="bundles")


@pytest.mark.usefixtures("project")
def test_what_cannot_be_signed_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused_to_sign(message: str, key: str) -> None:
        with pytest.raises(ShoalError, match=message):
            bundle("dense", None, None, Path("bundles"), Path(key))
        assert not list(Path().glob("bundles/*"))

    refused_to_sign("--sign none: there is no such key", "none")
    if shutil.which("ssh-keygen"):
        refused_to_sign("ssh-keygen cannot sign with params.yaml: ", "params.yaml")
    monkeypatch.setenv("PATH", "")
    refused_to_sign("ssh-keygen is not here", "params.yaml")


def test_two_at_once_both_end_well(project: Path) -> None:
    command = [sys.executable, "-m", "stages.bundle", "dense", "--into", "bundles"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    names = [NAME, f"{NAME}.tar.gz", f"{NAME}.tar.gz.sha256"]
    assert sorted(path.name for path in Path("bundles").iterdir()) == names
    manifest = json.loads(Path(f"bundles/{NAME}/manifest.json").read_text())
    files = {p for p in Path("bundles", NAME).rglob("*") if p.is_file()}
    assert len(files) == len(manifest["files"]) + 1


def test_a_bundle_of_an_older_network_is_called_old(project: Path) -> None:
    for precision in ("fp32", "int8"):
        made(precision=precision, into=f"artifacts/bundle/{precision}")
        folder = f"artifacts/bundle/{precision}/dense-l1-{precision}"
        shutil.move(folder, "artifacts/bundle")
    Path("artifacts/bundle/none").mkdir()
    Path("artifacts/bundle/none/manifest.json").write_text("[]")
    assert old_bundles() == []
    edit_check(project, {"sha256": "new"}, check="precision", backend="onnxruntime")
    (old,) = old_bundles()
    assert old.folder == "artifacts/bundle/dense-l1-int8"
    assert old.remedy == "python -m pipeline bundle dense --level 1 --precision int8"
    (project / "metrics" / "verify" / "dense.json").unlink()
    assert len(old_bundles()) == 2
