import gzip
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from models.errors import DataError
from pipeline.core.params import Prepare
from pipeline.data.published import fashion_mnist as module
from pipeline.data.published.fashion_mnist import CLASSES, SHA256, fetch, read_files

LABELS = "t10k-labels-idx1-ubyte"


@pytest.fixture
def copied(fashion_mnist, tmp_path):
    """Links to the four files, to damage one of."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for name in SHA256:
        (folder / f"{name}.gz").symlink_to(fashion_mnist / f"{name}.gz")
    return folder


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_the_published_images_are_split_as_asked(fashion_mnist):
    params = Prepare(
        source="fashion_mnist", path=str(fashion_mnist), image_size=28, validation_fraction=0.2
    )
    source = module.fashion_mnist(params)
    assert source.classes == list(CLASSES)
    assert not source.has_colour()
    counts = {s: np.bincount(m.labels).tolist() for s, m in source.splits.items()}
    assert counts == {"train": [4800] * 10, "validation": [1200] * 10, "test": [1000] * 10}
    assert source.splits["test"].read(np.arange(5)).shape == (5, 1, 28, 28)
    # Every one of the 60,000 is in train or validation, once, with its own label.
    files = read_files(fashion_mnist)
    published = rows_of(files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"])
    parts = [source.splits[s] for s in ("train", "validation")]
    got = [rows_of(m.read(np.arange(len(m.labels))), m.labels) for m in parts]
    assert sorted(published) == sorted([*got[0], *got[1]])


def rows_of(images, labels):
    return [
        hashlib.md5(image.tobytes()).digest() + bytes([label])
        for image, label in zip(images, labels, strict=True)
    ]


def test_uncompressed_files_do_as_well(copied):
    for name in SHA256:
        content = gzip.decompress((copied / f"{name}.gz").read_bytes())
        (copied / f"{name}.gz").unlink()
        (copied / name).write_bytes(content)
    assert read_files(copied)["t10k-images-idx3-ubyte"].shape == (10000, 28, 28)


def test_other_contents_are_refused_with_both_hashes(copied):
    path = copied / f"{LABELS}.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[100] ^= 1
    replace(path, gzip.compress(content))
    with pytest.raises(DataError) as caught:
        read_files(copied)
    assert str(caught.value) == (
        f"{path} is not the published file: sha256 of its uncompressed contents is "
        f"{hashlib.sha256(content).hexdigest()}, expected {SHA256[LABELS]}; replace it"
    )


@pytest.mark.parametrize("damage", [lambda c: c[:2000], lambda c: b"no gzip", lambda c: b""])
def test_a_damaged_archive_is_named(copied, damage):
    path = copied / f"{LABELS}.gz"
    replace(path, damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path} is not "):
        read_files(copied)


def test_a_named_folder_is_the_only_place_looked_at(copied):
    (copied / f"{LABELS}.gz").unlink()
    params = Prepare(source="fashion_mnist", path=str(copied), image_size=28)
    with pytest.raises(DataError) as caught:
        module.fashion_mnist(params)
    assert str(caught.value) == f"{copied} has no file {LABELS}.gz or {LABELS}"


def test_when_no_way_works_each_is_listed(tmp_path, monkeypatch):
    """Neither apt nor a network: an answer within seconds, with what to do."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataError) as caught:
        fetch(tmp_path / "downloads")
    lines = str(caught.value).splitlines()
    assert lines[0] == "Fashion-MNIST could not be fetched in any way:"
    assert "an earlier download: " in lines[1]
    assert lines[2] == "  - apt-get download: apt-get is not on this machine"
    assert "with package lists of its own: apt-get is not on this machine" in lines[3]
    assert "torchvision: RuntimeError: Error downloading" in lines[4]
    assert lines[5].endswith("into a folder and name that folder in prepare.path")
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.fixture
def mirror(fashion_mnist):
    """An HTTP proxy that answers any address with the file of that name."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return str(fashion_mnist / Path(path).name)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def repacked(fashion_mnist, tmp_path, monkeypatch):
    """Make torchvision accept the md5 of our archives, which may be packed anew (Debian's are)."""
    names = [f"{name}.gz" for name in SHA256]
    md5 = [(name, hashlib.md5((fashion_mnist / name).read_bytes()).hexdigest()) for name in names]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        f"from torchvision.datasets import FashionMNIST\nFashionMNIST.resources = {md5}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


@pytest.mark.usefixtures("repacked")
def test_torchvision_replaces_a_damaged_download_where_apt_is_not(tmp_path, monkeypatch, mirror):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("http_proxy", mirror)
    monkeypatch.delenv("no_proxy", raising=False)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / f"{LABELS}.gz").write_bytes(b"half a downl")
    assert fetch(downloads)[LABELS].shape == (10000,)
    assert {path.name for path in downloads.iterdir()} == {f"{name}.gz" for name in SHA256}
    monkeypatch.delenv("http_proxy")
    assert fetch(downloads)[LABELS].shape == (10000,)  # needs no network now


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="not a Debian-like system")
@pytest.mark.parametrize("lists", ["missing", "present"])
def test_debian_package_with_and_without_package_lists(
    tmp_path, fashion_mnist, monkeypatch, capsys, lists
):
    """Real apt on a repository of our own, with a package made of the real files."""
    apt_config = debian_repository(tmp_path, fashion_mnist)
    monkeypatch.setenv("APT_CONFIG", str(apt_config))
    if lists == "present":
        subprocess.run(["apt-get", "-qq", "update"], check=True, env=os.environ)
    assert fetch(tmp_path / "downloads")[LABELS].shape == (10000,)
    message = "Fashion-MNIST: fetching it by apt-get download"
    own_lists = f"{message} with package lists of its own"
    expected = [message] if lists == "present" else [message, own_lists]
    assert capsys.readouterr().out.splitlines() == expected


def debian_repository(tmp_path: Path, files: Path) -> Path:
    """Make a repository that holds the one package; return the configuration apt knows it by."""
    package, repository = tmp_path / "package", tmp_path / "repository"
    (package / module.IN_PACKAGE).mkdir(parents=True)
    for name in SHA256:
        shutil.copy(files / f"{name}.gz", package / module.IN_PACKAGE)
    (package / "DEBIAN").mkdir()
    control = (
        f"Package: {module.PACKAGE}\nVersion: 1\nArchitecture: all\n"
        "Maintainer: a test <test@example.org>\nDescription: images\n"
    )
    (package / "DEBIAN" / "control").write_text(control)
    repository.mkdir()
    deb = repository / f"{module.PACKAGE}_1_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", package, deb], check=True, capture_output=True)
    (repository / "Packages").write_text(
        f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\n"
        f"SHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n"
    )
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{tmp_path}/state/lists";\nDir::Cache "{tmp_path}/cache";\n'
        'APT::Sandbox::User "root";\n'
    )
    return tmp_path / "apt.conf"
