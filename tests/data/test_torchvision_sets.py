"""CIFAR-10, FGVC-Aircraft, DTD and Flowers-102: what torchvision reads, and that it is safe."""

import os
import pickle
from pathlib import Path

import numpy as np
import published
import pytest
from published import Write, images_in, read

from models.errors import DataError
from pipeline.data.decoding import decode
from pipeline.data.source import SPLITS

FILES = {  # classes; and the images of each split, in its order
    "aircraft": (
        ["707-320", "Falcon 2000", "F/A-18"],
        [[f"data/images/{s}{row:06}.jpg" for row in range(3)] for s in range(3)],
    ),
    "dtd": (
        ["banded", "blotchy"],
        [[f"images/{c}/{c}_{s:04}.jpg" for c in ("banded", "blotchy")] for s in range(3)],
    ),
    "flowers102": (
        ["flower 001", "flower 002", "flower 003"],
        [
            [f"jpg/image_{number:05}.jpg" for number in numbers]
            for numbers in (range(1, 4), range(4, 7), range(7, 13))
        ],
    ),
}
IMAGES = {"aircraft": "data/images", "dtd": "images", "flowers102": "jpg"}


def message_of(source: str, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(source, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- image files ----------------------------------------------------------------------------


@pytest.mark.parametrize("source", FILES)
def test_published_splits_classes_and_pixels_are_kept(
    source: str, tmp_path: Path, write: Write
) -> None:
    root = write(source, tmp_path).rename(tmp_path / "other name")
    there = sorted(root.rglob("*"))
    found = read(source, root)
    classes, files = FILES[source]
    assert found.classes == classes
    for split, expected in zip(SPLITS, files, strict=True):
        material = found.splits[split]
        assert material.labels.tolist() == [row % len(classes) for row in range(len(expected))]
        for row, name in enumerate(expected):
            pixels = decode(root / name, root)
            if source == "aircraft":
                assert pixels.shape == (3, 60, 40)
                pixels = pixels[:, :40]  # the banner is cut off
            np.testing.assert_array_equal(material.read(np.array([row]))[0], pixels)
    assert sorted(root.rglob("*")) == there


def test_an_image_no_higher_than_a_banner_keeps_a_row(tmp_path: Path, write: Write) -> None:
    root = write("aircraft", tmp_path)
    published.write_image(root / "data/images/0000000.jpg", 0, height=12)
    train = read("aircraft", root).splits["train"]
    assert train.read(np.array([0])).shape == (1, 3, 1, 20)


@pytest.mark.parametrize("source", FILES)
def test_images_in_no_list_are_counted(
    source: str, tmp_path: Path, write: Write, capsys: pytest.CaptureFixture
) -> None:
    root = write(source, tmp_path)
    published.write_image(root / IMAGES[source] / "image_99999.jpg", 9)
    read(source, root)
    folder = root / IMAGES[source]
    assert capsys.readouterr().out == f"{folder}: not used, in no list: 1 images\n"


LISTS = {"aircraft": "data/images_variant_val.txt", "dtd": "labels/val1.txt"}


@pytest.mark.parametrize(
    ("source", "old", "new", "message"),
    [
        ("aircraft", "Falcon 2000", "Falcon 3000", "(KeyError: 'Falcon 3000'); unpack"),
        ("aircraft", "1000001 ", "1000009 ", "9.jpg is listed in validation but missing"),
        ("aircraft", "1000001 ", "0000001 ", "listed twice, in train and in validation"),
        ("aircraft", "Falcon 2000", "707-320", "'Falcon 2000' has no image in validatio"),
        ("aircraft", "1000001 Falcon 2000", "1000001", "(ValueError: not enough values"),
        (
            "aircraft",
            "1000001 ",
            "/1000001 ",
            "1000001.jpg is listed in validation but lies outside",
        ),
        (
            "aircraft",
            "1000001 ",
            "../../../1000001 ",
            "1000001.jpg is listed in validation but lies outside",
        ),
        ("dtd", "blotchy/blotchy_0001.jpg", "", "(ValueError: not enough values to unpack"),
        ("dtd", "blotchy/blotchy_0001.jpg\n", "", "'blotchy' has no image in validation"),
        ("dtd", "blotchy_0001.jpg", "x.jpg", "x.jpg is listed in validation but missing"),
        ("dtd", "banded_0001", "banded_0000", "listed twice, in train and in validation"),
        ("dtd", "blotchy/", "", "(ValueError: not enough values to unpack"),
        ("dtd", "blotchy/", "../", "class '..' has no image in train"),
        ("dtd", "blotchy/", "../blotchy/", "(ValueError: too many values to unpack"),
    ],
)
def test_a_list_that_does_not_fit(
    tmp_path: Path, write: Write, source: str, old: str, new: str, message: str
) -> None:
    root = write(source, tmp_path)
    path = root / LISTS[source]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert message in message_of(source, root)


@pytest.mark.parametrize("name", ["imagelabels.mat", "setid.mat"])
@pytest.mark.parametrize("keep", [0, -1])
def test_a_mat_file_that_is_not_the_published_one(
    name: str, keep: int, tmp_path: Path, write: Write
) -> None:
    root = write("flowers102", tmp_path)
    (root / name).write_bytes((root / name).read_bytes()[:keep])
    assert message_of("flowers102", root) == (
        f"{root}: imagelabels.mat or setid.mat is damaged or not the published file (its md5 "
        "differs); unpack the archive again"
    )


# --- CIFAR-10's pickles ---------------------------------------------------------------------


def test_pixels_labels_and_names_are_those_of_the_files(tmp_path: Path, write: Write) -> None:
    found = read("cifar10", write("cifar10", tmp_path))
    assert found.classes == ["airplane", "automobile"]
    assert found.has_colour()
    test, expected = found.splits["test"], published.batch(6)
    assert test.labels.tolist() == expected["labels"]
    pixels = test.read(np.arange(20))
    assert pixels.shape == (20, 3, 32, 32)
    np.testing.assert_array_equal(pixels.reshape(20, -1), expected["data"])


def test_train_and_validation_are_the_five_batches(tmp_path: Path, write: Write) -> None:
    found = read("cifar10", write("cifar10", tmp_path))
    got = images_in(found, "train", "validation")
    expected = [
        (row.tobytes(), label)
        for batch in map(published.batch, range(1, 6))
        for row, label in zip(batch["data"], batch["labels"], strict=True)
    ]
    assert sorted(got) == sorted(expected)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["data_batch_1", "batches.meta"])
def test_a_hostile_pickle_does_not_run(name: str, tmp_path: Path, write: Write) -> None:
    root, trap = write("cifar10", tmp_path), tmp_path / "trap"
    content = pickle.dumps(published.batch(1) | {"labels": Hostile(trap)})
    (root / name).write_bytes(content)
    message = message_of("cifar10", root)
    assert message.startswith(f"{root / name} is damaged or not the published file: its md5 is not")
    assert message.endswith("unpack the archive again")
    assert not trap.exists()
    pickle.loads(content)  # the trap is one
    assert trap.exists()


def test_nothing_is_unpickled_before_every_file_is_known(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write("cifar10", tmp_path)
    (root / "batches.meta").write_bytes((root / "batches.meta").read_bytes()[:-1])
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    assert "batches.meta is damaged" in message_of("cifar10", root)
