"""What was planted, altered or damaged in a bundle on the device: never run, named in one line."""

import copy
import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_side import assert_one_message, run
from PIL import Image
from places import ROOT
from stage_process import run_stage
from tiny_project import CLASSES, edit_json

from models.hashing import file_sha256

SCRIPTS = str(ROOT / "pipeline" / "bundle" / "device")
PLANTED = "from pathlib import Path\nPath('{}').touch()\n"
SAMPLE = "samples/sample_bag.png"


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)


def rehash(folder: Path, *names: str) -> None:
    """Let the manifest say of files what they are now, as an attacker would."""
    facts = {
        name: {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size}
        for name in names
    }
    edit_json(folder / "manifest.json", lambda manifest: manifest["files"].update(facts))


def bytecode(folder: Path, planted: Path) -> Path:
    """Put bytecode of other code beside edge/files.py that Python takes for its own."""
    source = folder / "edge" / "files.py"
    evil = planted.with_suffix(".py")
    evil.write_text(source.read_text() + PLANTED.format(planted))
    target = Path(importlib.util.cache_from_source(str(source)))
    py_compile.compile(str(evil), str(target), doraise=True)
    content, stat = bytearray(target.read_bytes()), source.stat()
    content[8:16] = int(stat.st_mtime).to_bytes(4, "little") + stat.st_size.to_bytes(4, "little")
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    "name",
    [
        "edge/__pycache__",
        *("json.py", "runpy.py", "argparse.py", "pathlib.py", "numpy/__init__.py"),
        *("edge/files/__init__.py", "edge/__init__/__init__.py"),
        *("built/sitecustomize.py", "sitecustomize.py", ".hidden", "engines/more.plan"),
    ],
)
def test_code_that_the_manifest_does_not_list_is_not_run_and_named(
    python: Path, unpacked: Path, tmp_path: Path, name: str
) -> None:
    planted = tmp_path / "planted"
    if name == "edge/__pycache__":
        name = bytecode(unpacked, planted).relative_to(unpacked).as_posix()
    else:
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).write_text(PLANTED.format(planted))
    done = run(python, unpacked / "run.py", str(unpacked / SAMPLE))
    assert done.returncode == 0, done.stderr
    done = run(python, unpacked / "verify.py")
    assert_one_message(done, f"{name} is not of this bundle; remove it")
    assert not planted.exists()


def test_the_scripts_run_isolated_and_write_nothing(python: Path, unpacked: Path) -> None:
    before = sorted(unpacked.rglob("*"))
    for script, *arguments in (["verify.py"], ["run.py", str(unpacked / SAMPLE)]):
        for flags in (["-I", "-B"], [], ["-P"] if sys.version_info >= (3, 11) else []):
            command = [python, *flags, unpacked / script, *arguments]
            subprocess.run(command, cwd=unpacked, check=True, capture_output=True)
    assert sorted(unpacked.rglob("*")) == before


@pytest.mark.parametrize("name", ["edge/images.py", "edge/own.py", "edge/__init__.py"])
def test_a_missing_or_damaged_script_is_one_message(
    python: Path, unpacked: Path, name: str
) -> None:
    (unpacked / name).write_text("def broken(")
    assert_one_message(run(python, unpacked / "verify.py"), "unpack the bundle again")
    (unpacked / name).unlink()
    assert_one_message(run(python, unpacked / "run.py", "x"), "unpack the bundle again")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../../outside", "samples//x", "."]
)
def test_no_path_of_the_manifest_leaves_the_folder(python: Path, unpacked: Path, name: str) -> None:
    (unpacked.parent / "outside").write_text("secret")
    facts = {"sha256": "0" * 64, "bytes": 6}
    edit_json(unpacked / "manifest.json", lambda manifest: manifest["files"].update({name: facts}))
    done = run(python, unpacked / "verify.py")
    assert_one_message(done, f"{name}")
    assert file_sha256(unpacked.parent / "outside") not in done.stderr


def test_links_and_what_is_no_plain_file_are_refused(
    python: Path, unpacked: Path, tmp_path: Path
) -> None:
    for name in ("model.onnx", "samples", "manifest.json"):
        there, elsewhere = unpacked / name, tmp_path / name
        there.rename(elsewhere)
        there.symlink_to(elsewhere)
        message = "is or lies in a link" if name != "manifest.json" else "no plain file"
        assert_one_message(run(python, unpacked / "verify.py"), name, message)
        there.unlink()
        elsewhere.rename(there)
    (unpacked / "more").symlink_to(tmp_path)
    (unpacked / "built").symlink_to(tmp_path)
    done = run(python, unpacked / "verify.py")
    assert_one_message(done, "more is not of this bundle", "built is not of this bundle")
    os.mkfifo(unpacked / "pipe")
    (unpacked / "labels.txt").unlink()
    os.mkfifo(unpacked / "labels.txt")
    done = run(python, unpacked / "verify.py")
    assert_one_message(done, "labels.txt is no plain file", "pipe is not of this bundle")


WRONG = (None, [], {}, "x", "../x", -1, 0, 1.5, True, 10**400, [[]], {"": None}, float("nan"))


def mutants(value: Any) -> Iterator[Any]:
    """Yield copies of a JSON value, each with one part of another type, or without it."""
    yield from WRONG
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(min(1, len(value))):
            for part in mutants(value[key]):
                changed = copy.copy(value)
                changed[key] = part
                yield changed
            changed = copy.copy(value)
            del changed[key]
            yield changed


def read_all(folder: Path) -> bool:
    """Read what verify.py reads, bar the hashes; return whether it is refused as it should be."""
    from edge.backends import BACKENDS
    from edge.checks import BundleError
    from edge.files import open_bundle
    from edge.golden import read_golden
    from edge.images import normalise, read_rules
    from edge.ort import graph_for
    from edge.runtime import NotHereError
    from edge.trt import _plan

    try:
        bundle = open_bundle(folder)
        rules, golden = read_rules(bundle), read_golden(bundle)
        normalise(np.zeros((rules.channels, rules.size, rules.size), np.uint8), rules)
        for backend in BACKENDS:
            assert golden[graph_for(bundle, backend)["golden"]].ndim == 2
            assert bundle.manifest["tolerances"][backend]["cosine"] is not None
        with suppress(NotHereError):
            _plan(bundle, "tensorrt")
    except BundleError:
        return True
    return False


@pytest.mark.usefixtures("edge")
def test_every_wrong_type_in_the_manifest_is_refused_or_harmless(unpacked: Path) -> None:
    path = unpacked / "manifest.json"
    manifest = json.loads(path.read_text())
    read = ("format", "engines", "graphs", "input", "samples", "tolerances", "level", "precision")
    kept = ("preprocessing.json", "golden.npz", "labels.txt", "model.onnx")
    small = {key: manifest[key] for key in read}
    files = {*kept, *(e["file"] for e in small["engines"]), *(s["file"] for s in small["samples"])}
    small["files"] = {name: manifest["files"][name] for name in sorted(files)}
    path.write_text(json.dumps(small))
    assert not read_all(unpacked)
    outcomes = []
    for mutant in mutants(small):
        path.write_text(json.dumps(mutant))
        outcomes.append(read_all(unpacked))
    assert outcomes.count(True) > 0.8 * len(outcomes) > 500


@pytest.mark.usefixtures("edge")
def test_every_wrong_type_in_the_preprocessing_is_refused_or_harmless(unpacked: Path) -> None:
    path = unpacked / "preprocessing.json"
    rules = json.loads(path.read_text())
    outcomes = []
    for mutant in mutants(rules):
        path.write_text(json.dumps(mutant))
        rehash(unpacked, path.name)
        outcomes.append(read_all(unpacked))
    assert outcomes.count(True) > 100


@pytest.mark.usefixtures("edge")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "2 channels of size 12 are not the network's"),
        ({"size": 10**9}, "channels of size 1000000000 are not"),
        ({"fit": "stretch"}, "fit 'stretch'"),
        ({"transparent": "#fff"}, "transparent '#fff'"),
        ({"bits": 7}, "bits 7"),
        ({"std": [0.0]}, "std above 0"),
        ({"mean": [0.1, 0.2]}, "mean and std must be 1 numbers"),
    ],
)
def test_rules_that_are_none_are_named(
    unpacked: Path, change: dict[str, Any], message: str
) -> None:
    from edge.checks import BundleError
    from edge.files import open_bundle
    from edge.images import read_rules

    edit_json(unpacked / "preprocessing.json", lambda rules: rules.update(change))
    rehash(unpacked, "preprocessing.json")
    with pytest.raises(BundleError) as error:
        read_rules(open_bundle(unpacked))
    assert message in str(error.value)


def damaged_golden(path: Path) -> Iterator[None]:
    arrays = dict(np.load(path))
    for change in (
        {"images": arrays["images"][:1]},
        {"images": arrays["images"].astype(np.float64)},
        {"images": arrays["images"][..., :5]},
        {"logits": arrays["logits"][0]},
        {"logits": arrays["logits"][:, :3]},
        {"logits": arrays["logits"].astype(np.int64)},
    ):
        np.savez(path, **arrays | change)
        yield
    np.savez(path, images=arrays["images"])
    yield
    np.savez_compressed(path, **arrays, bomb=np.zeros(1 << 24, np.uint8))
    yield
    np.savez(path, images=arrays["images"], logits=np.array([{}], object), allow_pickle=True)
    yield
    for content in (b"", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'"):
        path.write_bytes(content)
        yield


@pytest.mark.usefixtures("edge")
def test_golden_arrays_that_do_not_fit_are_refused(unpacked: Path) -> None:
    for _ in damaged_golden(unpacked / "golden.npz"):
        rehash(unpacked, "golden.npz")
        assert read_all(unpacked)


@pytest.mark.parametrize("text", [b"", b"bag\n", b"a\n" * 9, b"\xff\n" * 5])
def test_labels_that_do_not_fit_the_network_are_refused_by_both(
    python: Path, unpacked: Path, text: bytes
) -> None:
    (unpacked / "labels.txt").write_bytes(text)
    rehash(unpacked, "labels.txt")
    for script, *arguments in (["verify.py"], ["run.py", str(unpacked / SAMPLE)]):
        assert_one_message(run(python, unpacked / script, *arguments), "labels.txt")


@pytest.mark.parametrize("content", ["[" * 100_000, "NaN", '"\\ud800"', " " * (1 << 25)])
def test_json_that_python_stumbles_over_is_one_message(
    python: Path, unpacked: Path, content: str
) -> None:
    (unpacked / "manifest.json").write_text(content)
    assert_one_message(run(python, unpacked / "verify.py"), "manifest.json", "is damaged")


def test_names_cannot_command_the_terminal(python: Path, unpacked: Path, tmp_path: Path) -> None:
    labels = [f"\x1b]0;{name}\x07\u202e" for name in CLASSES]
    (unpacked / "labels.txt").write_text("".join(f"{name}\n" for name in labels))
    rehash(unpacked, "labels.txt")
    image = tmp_path / "a\x1b[31m\n.png"
    shutil.copy(unpacked / SAMPLE, image)
    done = run(python, unpacked / "run.py", str(image))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.isprintable()
    assert r"a\x1b[31m\n.png" in line
    assert r"\x1b]0;bag\x07\u202e" in line
    assert_one_message(run(python, unpacked / "run.py", str(image) + "\x1b"), r"\x1b")
    edit_json(unpacked / "manifest.json", lambda manifest: manifest.update(precision="\x1b[2J"))
    assert "\x1b" not in run(python, unpacked / "verify.py").stdout


def test_plain_terminals_and_closed_pipes_are_no_error(python: Path, unpacked: Path) -> None:
    sample = str(unpacked / SAMPLE)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run(python, unpacked / "run.py", sample, "--top", "9", **plain)
    assert done.returncode == 0, done.stderr
    assert r"\xe9t\xe9" in done.stdout
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as closed:
        command = [python, unpacked / "run.py", sample]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_image_too_large_for_a_device_is_not_decoded(
    python: Path, unpacked: Path, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (13_300, 13_300)).save(bomb)
    done = run(python, unpacked / "run.py", str(bomb))
    assert_one_message(done, "bomb.png has 13300x13300 pixels, more than the 89,000,000")


def test_a_plan_that_was_not_proven_is_not_preferred(python: Path, unpacked: Path) -> None:
    manifest = unpacked / "manifest.json"
    edit_json(manifest, lambda values: values.update(engines=[]))
    (unpacked / "built").mkdir()
    plan, record = unpacked / "built/tensorrt.plan", unpacked / "built/tensorrt.json"
    plan.write_bytes(b"planted")
    arguments = (str(unpacked / SAMPLE), "--backend", "tensorrt")
    message = "built/tensorrt.plan is not proven: run verify.py"
    assert_one_message(run(python, unpacked / "run.py", *arguments), message)
    proof = {"plan": file_sha256(plan), "manifest": file_sha256(manifest)}
    record.write_text(json.dumps(proof))
    assert_one_message(run(python, unpacked / "run.py", *arguments), "no CUDA device")
    plan.write_bytes(b"replaced")
    assert_one_message(run(python, unpacked / "run.py", *arguments), message)
    for content in ("[]", "{}", "{", '{"plan": 1, "manifest": 2}'):
        record.write_text(content)
        assert_one_message(run(python, unpacked / "run.py", *arguments), "tensorrt.json is damaged")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two keys, ours and another, and whom the device trusts."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
        public = (folder / f"{name}.pub").read_text()
        trusted = f'{name}@example.org namespaces="shoal-bundle" {public}'
        (folder / f"trust_{name}").write_text(trusted)
    return folder


@pytest.fixture
def signed(keys: Path, bundled: Path, tmp_path: Path) -> Path:
    into = tmp_path / "signed"
    arguments = ("dense", "--into", str(into), "--sign", str(keys / "ours"))
    done = run_stage("bundle", *arguments, cwd=bundled)
    assert done.returncode == 0, done.stderr
    return into / "dense-l1-fp32"


def test_a_signature_is_verified_without_shoal(python: Path, signed: Path, keys: Path) -> None:
    done = run(python, signed / "verify.py", "--signers", str(keys / "trust_ours"))
    assert done.returncode == 0, done.stderr
    assert 'signature: passed, Good "shoal-bundle" signature for ours@example.org' in done.stdout
    archive = signed.with_name(f"{signed.name}.tar.gz")
    signature = archive.with_name(f"{archive.name}.sig")
    command = ["ssh-keygen", "-Y", "verify", "-f", str(keys / "trust_ours"), "-s", str(signature)]
    with archive.open("rb") as content:
        names = ["-n", "shoal-bundle", "-I", "ours@example.org"]
        subprocess.run([*command, *names], stdin=content, check=True)
    assert b"PRIVATE KEY" not in archive.read_bytes()
    assert run(python, signed / "verify.py").returncode == 0


def test_what_nobody_trusted_has_signed_is_refused(
    python: Path, signed: Path, unpacked: Path, keys: Path, tmp_path: Path
) -> None:
    def refuse(folder: Path, signers: Path, message: str, **environment: str) -> None:
        arguments = ("--signers", str(signers))
        assert_one_message(run(python, folder / "verify.py", *arguments, **environment), message)

    ours = keys / "trust_ours"
    refuse(signed, keys / "trust_other", "has signed this bundle (no signer is named)")
    refuse(signed, tmp_path / "none", "is no file of allowed signers")
    refuse(signed, ours, "ssh-keygen is not here", PATH="")
    refuse(unpacked, ours, "the bundle is not signed: manifest.json.sig cannot be read: No such")
    edit_json(signed / "manifest.json", lambda manifest: manifest.update(level=0))
    refuse(signed, ours, "nobody in")
    (signed / "manifest.json.sig").write_text("no signature")
    refuse(signed, ours, "nobody in")


def test_a_bundle_made_again_without_a_key_has_no_old_signature(
    signed: Path, bundled: Path
) -> None:
    done = run_stage("bundle", "dense", "--into", str(signed.parent), cwd=bundled)
    assert done.returncode == 0, done.stderr
    assert not list(signed.parent.rglob("*.sig"))
