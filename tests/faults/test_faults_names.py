"""Names and archives made by someone who means harm: nothing is run, left, or written elsewhere."""

import ast
import contextlib
import io
import os
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT
from reported import metrics, summary_of
from tiny_project import edit_json, write_project

from models.errors import DataError, WeightsError
from models.weights.loading import read_weights
from pipeline.core.params import Prepare
from pipeline.data.prepare import prepare
from pipeline.data.published import fashion_mnist
from pipeline.data.published.archive import checked_splits
from pipeline.report.markdown import summary_markdown
from stages.bundle import bundle

HARMLESS = [
    "<script>alert(1)</script>".replace("/", "∕"),
    "a b'c\"d;$(touch ran)`touch ran`",
    "--help",
    "%s{0}\\n",
    "日本語-été-🙂",
    "a" * 255,
    "con",
    "|cell|",
]
REFUSED = ["a\nb", "a\rb", "\x1b[31mred", "a\x7f", "a\u2028b", os.fsdecode(b"a\xff"), " "]


def write_images(root: Path, *classes: str) -> Prepare:
    rng = np.random.default_rng(0)
    for name in classes:
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (9, 9), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return Prepare(source="image_folder", path=str(root), image_size=8)


def prepared(params: Prepare, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    return prepare(params, folder)


@pytest.mark.fault("hostile name of a file or class")
@pytest.mark.parametrize("name", HARMLESS)
def test_a_strange_class_is_a_class(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a shell would write, if one took the name for a command
    manifest = prepared(write_images(tmp_path / "images", name, "other"), tmp_path / "out")
    assert manifest["classes"] == sorted([name, "other"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]


@pytest.mark.fault("hostile name of a file or class")
@pytest.mark.parametrize("name", REFUSED)
def test_a_class_that_is_no_label_is_told(name: str, tmp_path: Path) -> None:
    params = write_images(tmp_path / "images", name, "other")
    with pytest.raises(DataError, match=r"are no text .*rename its folder") as error:
        prepared(params, tmp_path / "out")
    assert str(error.value).isprintable()


@pytest.mark.fault("hostile name of a file or class")
@pytest.mark.parametrize("name", ["a\nb.png", os.fsdecode(b"\xff.png"), "<b>.png", "-rf.png"])
def test_a_strange_file_is_an_image(name: str, tmp_path: Path) -> None:
    params = write_images(tmp_path / "images", "one", "other")
    (tmp_path / "images/train/one/0.png").rename(tmp_path / "images/train/one" / name)
    assert sum(prepared(params, tmp_path / "out")["counts"]["train"].values()) > 0


@pytest.mark.fault("hostile name of a file or class")
@pytest.mark.parametrize("on_corrupt", ["fail", "skip"])
def test_a_strange_file_that_is_damaged_is_told_in_text(on_corrupt: str, tmp_path: Path) -> None:
    params = write_images(tmp_path / "images", "one", "other")
    (tmp_path / "images/train/one" / os.fsdecode(b"\xff\n<b>.png")).write_bytes(b"none")
    params = params.model_copy(update={"on_corrupt": on_corrupt})
    if on_corrupt == "skip":
        assert len(prepared(params, tmp_path / "out")["skipped"]) == 1
        return
    with pytest.raises(DataError) as error:
        prepared(params, tmp_path / "out")
    assert str(error.value).isprintable()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _gone(path: Path) -> None:
    path.symlink_to("gone.png")


def _secret(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.fault("hostile name of a file or class")
@pytest.mark.parametrize("make", [_pipe, _socket, _endless, _loop, _gone, _secret])
def test_what_is_no_image_is_told_and_waited_for_by_nobody(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    params = write_images(tmp_path / "images", "one", "other")
    make(tmp_path / "images/train/one/x.png")
    with pytest.raises(DataError, match=r"x\.png"):
        prepared(params, tmp_path / "out")


def test_a_link_to_a_folder_above_is_not_walked_in_circles(tmp_path: Path) -> None:
    params = write_images(tmp_path / "images", "one", "other")
    (tmp_path / "images/train/one/deeper").symlink_to(tmp_path / "images")
    counts = prepared(params, tmp_path / "out")["counts"]
    assert sum(sum(split.values()) for split in counts.values()) == 12


@pytest.mark.fault("path that leads out of a data set")
@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg"])
def test_a_list_that_names_files_elsewhere_is_an_error(name: str, tmp_path: Path) -> None:
    listed = {"train": [(tmp_path / "set" / name, 0)]}
    with pytest.raises(DataError, match=r"is listed in train but lies outside of .*/set; restore"):
        checked_splits(tmp_path / "set", listed, ["a"])


@pytest.mark.fault("hostile text in a report")
@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a|b", "a\n\n# b", "<img src=x>"])
def test_the_summary_shows_hostile_text_as_text(text: str) -> None:
    own = metrics()
    own.build.not_available["openvino"] = text
    own.train.train["strategy"]["name"] = text
    markdown = summary_markdown(summary_of({"dense": own}), {"dense": own})
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert "\n# b" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("| dense")]
    assert not any("a|b" in line for line in tables)


@pytest.mark.fault("hostile text in a report")
def test_a_bundle_of_hostile_classes_holds_them_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    hostile = ["../../up", "<script>alert(1)</script>", "/root", "$(touch ran)", "a" * 300]

    def rename(value: dict[str, Any]) -> None:
        value["classes"] = hostile
        for split, counts in value.get("counts", {}).items():
            value["counts"][split] = dict(zip(hostile, counts.values(), strict=True))

    edit_json(tmp_path / "artifacts/prepare/manifest.json", rename)
    edit_json(tmp_path / "artifacts/train/dense/model.json", rename)
    bundle("dense", None, None, tmp_path / "bundles")
    [archive] = (tmp_path / "bundles").glob("*.tar.gz")
    texts = {}
    with tarfile.open(archive) as opened:
        for member in opened:
            assert member.isfile()
            top, *below = member.name.split("/")
            assert (top, ".." in below) == (archive.name.removesuffix(".tar.gz"), False)
            if below in (["labels.txt"], ["README.md"]):
                texts[below[0]] = opened.extractfile(member).read().decode()
    assert texts["labels.txt"].splitlines() == hostile
    assert "<script" not in texts["README.md"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("archive whose members lead elsewhere")
@pytest.mark.parametrize("name", ["archive/../../out.txt", "../out.txt", "{outside}/out.txt"])
def test_weights_in_an_archive_that_leads_elsewhere_write_nothing(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    torch.save({"w": torch.zeros(2)}, folder / "w.pth")
    with zipfile.ZipFile(folder / "w.pth", "a") as archive:
        archive.writestr(name.format(outside=tmp_path), "harm")
    before = sorted(tmp_path.rglob("*"))
    with contextlib.suppress(WeightsError):
        assert list(read_weights(folder / "w.pth").state) == ["w"]
    assert sorted(tmp_path.rglob("*")) == before


def _hostile_package(path: Path, member: tarfile.TarInfo, *more: tarfile.TarInfo) -> None:
    """Write a Debian package, an archive of archives, with members that dpkg was not to write."""

    def packed(*entries: tarfile.TarInfo) -> bytes:
        found = io.BytesIO()
        with tarfile.open(fileobj=found, mode="w:gz") as archive:
            for entry in entries:
                archive.addfile(entry, io.BytesIO(b"x" * entry.size))
        return found.getvalue()

    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": packed(tarfile.TarInfo("./control")),
        "data.tar.gz": packed(member, *more),
    }
    data = b"!<arch>\n"
    for name, content in parts.items():
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        data += content + b"\n" * (len(content) % 2)
    path.write_bytes(data)


@pytest.mark.fault("archive whose members lead elsewhere")
@pytest.mark.parametrize("kind", ["up", "absolute", "link"])
def test_a_package_that_leads_elsewhere_writes_nothing_there(kind: str, tmp_path: Path) -> None:
    work, package = tmp_path / "a" / "work", tmp_path / "hostile.deb"
    work.mkdir(parents=True)
    file = tarfile.TarInfo("./link/out.txt")
    file.size = 1
    members = [file]
    if kind == "link":
        link = tarfile.TarInfo("./link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        members = [link, file]
    else:
        file.name = "../../out.txt" if kind == "up" else str(tmp_path / "out.txt")
    _hostile_package(package, *members)
    copy = ["sh", "-c", f"cp {package} {fashion_mnist.PACKAGE}_1_all.deb"]
    with pytest.raises(DataError) as error:
        fashion_mnist.read_files(fashion_mnist._from_debian(work, copy))
    assert len(str(error.value).splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "hostile.deb"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["work"]


def test_nothing_else_unpacks_archives() -> None:
    """What starts to do so belongs into the tests above."""
    for folder in ("models", "pipeline", "stages", "scripts", "benchmarks"):
        for source in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(source.read_text(encoding="utf-8"))
            names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert not names & {"extract", "extractall", "unpack_archive", "extractfile"}, source
