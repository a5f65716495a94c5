"""Fashion-MNIST (arXiv 1708.07747): 60,000 + 10,000 grey images of 28×28 pixels, 10 classes, MIT.

The four idx files come from the folder the user names or, with none named, from the first of:
an earlier download, the Debian package `dataset-fashion-mnist`, torchvision's download. Whatever
the way, the sha256 of the uncompressed contents is checked.
"""

import contextlib
import gzip
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from models.errors import DataError
from pipeline.core.artifacts import CACHE
from pipeline.core.params import Prepare
from pipeline.data.source import Labels, Pixels, Source, array_source

DOWNLOADS = CACHE / "downloads"
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SHA256 = {  # of the uncompressed files
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"
IN_PACKAGE = Path("usr/share/datasets/fashion-mnist")
TIME_LIMIT_S = 300  # of one command; apt and torchvision give up on a silent host long before
HOST_TIME_LIMIT_S = 15
APT = [
    "apt-get",
    "--quiet",
    "-oAcquire::Retries=0",
    f"-oAcquire::http::Timeout={HOST_TIME_LIMIT_S}",
    f"-oAcquire::https::Timeout={HOST_TIME_LIMIT_S}",
    # As root apt would download as user _apt, who may not enter the folder; no effect otherwise.
    "-oAPT::Sandbox::User=root",
]

Idx = UInt8[np.ndarray, "..."]


def fashion_mnist(params: Prepare) -> Source:
    """Return Fashion-MNIST, its train split split by `validation_fraction`."""
    named = None if params.path is None else Path(params.path).expanduser()
    files = fetch(DOWNLOADS) if named is None else read_files(named)
    return array_source(params, list(CLASSES), _pair(files, "train"), _pair(files, "t10k"))


def _pair(files: dict[str, Idx], part: str) -> tuple[Pixels, Labels]:
    images, labels = files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"]
    return images[:, None], labels.astype(np.int64)  # (n, 28, 28) -> (n, 1, 28, 28)


def fetch(downloads: Path) -> dict[str, Idx]:
    """Return the four files by name, taking them into `downloads` where they are not there yet.

    Raises:
        DataError: no way worked; lists each way and why it failed.
    """
    try:
        return read_files(downloads)
    except DataError as e:
        failures = [f"an earlier download: {e}"]
    downloads.mkdir(parents=True, exist_ok=True)
    for way, get in WAYS.items():
        print(f"Fashion-MNIST: fetching it by {way}", flush=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=downloads) as work:
            try:
                folder = get(Path(work).absolute())
                files = read_files(folder)
            except DataError as e:
                failures.append(f"{way}: {e}")
                continue
            for name in files:
                (folder / f"{name}.gz").replace(downloads / f"{name}.gz")
            return files
    raise DataError(
        "Fashion-MNIST could not be fetched in any way:\n  - " + "\n  - ".join(failures) + "\n"
        f"put {', '.join(f'{name}.gz' for name in SHA256)} into a folder "
        "and name that folder in prepare.path"
    )


def read_files(folder: Path) -> dict[str, Idx]:
    """Read the four files, compressed or not: images (n, 28, 28) and labels (n,), by file name.

    Raises:
        DataError: a file is missing, damaged, or does not have the published sha256.
    """
    files = {}
    for name, expected in SHA256.items():
        path, content = _content(folder, name)
        got = hashlib.sha256(content).hexdigest()
        if got != expected:
            raise DataError(
                f"{path} is not the published file: sha256 of its uncompressed contents is {got}, "
                f"expected {expected}; replace it"
            )
        files[name] = _parse_idx(content)
    return files


def _content(folder: Path, name: str) -> tuple[Path, bytes]:
    path = folder / f"{name}.gz"
    try:
        if path.exists():
            return path, gzip.decompress(path.read_bytes())
        return folder / name, (folder / name).read_bytes()
    except FileNotFoundError as e:
        raise DataError(f"{folder} has no file {path.name} or {name}") from e
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise DataError(f"{path} is not a whole gzip file: {e}; replace it") from e
    except OSError as e:
        raise DataError(f"cannot read {e.filename}: {e.strerror}") from e


def _parse_idx(content: bytes) -> Idx:
    """Parse idx with unsigned bytes: 0, 0, type, dimensions; then the sizes; then the values."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _from_debian_with_own_lists(work: Path) -> Path:
    """Do as `_from_debian` where apt's package lists are missing or old: fetch lists of our own."""
    for folder in ("state", "lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    own = [f"-oDir::State={work}/state", f"-oDir::State::lists={work}/lists"]
    apt = [*APT, *own, f"-oDir::Cache={work}/cache", "-oAcquire::Languages=none"]
    with contextlib.suppress(DataError):  # of another repository; the download shows it
        _run([*apt, "update"], work)
    return _from_debian(work, apt)


def _from_debian(work: Path, apt: list[str] = APT) -> Path:
    """Download and unpack the Debian package without installing it; needs no root."""
    _run([*apt, "download", PACKAGE], work)
    for package in work.glob(f"{PACKAGE}_*.deb"):
        _run(["dpkg", "-x", str(package), str(work)], work)
    return work / IN_PACKAGE


def _from_torchvision(work: Path) -> Path:
    """Let torchvision download, in a process of its own so that its time can be limited."""
    code = (
        f"import socket; socket.setdefaulttimeout({HOST_TIME_LIMIT_S})\n"
        "from torchvision.datasets import FashionMNIST\n"
        "FashionMNIST('.', download=True)"
    )
    _run([sys.executable, "-c", code], work)
    return work / "FashionMNIST" / "raw"


WAYS: dict[str, Callable[[Path], Path]] = {
    "apt-get download": _from_debian,
    "apt-get download with package lists of its own": _from_debian_with_own_lists,
    "torchvision": _from_torchvision,
}


def _run(command: list[str], work: Path) -> None:
    """Run a command in `work`; `DataError` with its own last words where it fails."""
    log = work / "log.txt"  # not a pipe: a killed command's children would keep a pipe open
    try:
        with log.open("w") as output:
            subprocess.run(
                command,
                cwd=work,
                env=os.environ | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=TIME_LIMIT_S,
                check=True,
            )
    except FileNotFoundError as e:
        raise DataError(f"{command[0]} is not on this machine") from e
    except subprocess.TimeoutExpired as e:
        raise DataError(f"{command[0]} took longer than {TIME_LIMIT_S} s") from e
    except subprocess.CalledProcessError as e:
        # The last error of apt (``E: ...``) or Python (``SomeError: ...``).
        *_, last = re.split(r"^(?=E: |\w*Error\b)", log.read_text(errors="replace"), flags=re.M)
        raise DataError(" ".join(last.split()) or str(e)) from e
