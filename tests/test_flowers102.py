"""Flowers-102: numbers, labels and splits come from the two .mat files."""

from pathlib import Path

import numpy as np
import published
import pytest
from scipy.io import savemat

from models.errors import DataError
from pipeline.decoding import decode
from pipeline.layouts.flowers102 import flowers102
from pipeline.params import Prepare
from pipeline.sources import Source

LABELS = np.arange(12, dtype=np.uint8) % 3 + 1
SETS = {"trnid": np.array([1, 2, 3]), "valid": np.array([4, 5, 6]), "tstid": np.arange(7, 13)}


def source(root: Path) -> Source:
    return flowers102(Prepare(source="flowers102", path=str(root), image_size=16))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return published.flowers102(tmp_path)


def test_the_published_splits_are_kept(root: Path) -> None:
    found = source(root)
    assert found.classes == ["flower 001", "flower 002", "flower 003"]
    for split, numbers in (("train", (1, 2, 3)), ("validation", (4, 5, 6)), ("test", range(7, 13))):
        material = found.splits[split]
        assert material.labels.tolist() == [(number - 1) % 3 for number in numbers]
        for row, number in enumerate(numbers):
            expected = decode(root / f"jpg/image_{number:05}.jpg", root)
            np.testing.assert_array_equal(material.read(np.array([row]))[0], expected)


def test_images_of_no_split_are_told(root: Path, capsys: pytest.CaptureFixture) -> None:
    published.write_image(root / "jpg/image_00013.jpg", 13)
    source(root)
    assert capsys.readouterr().out == f"{root / 'jpg'}: not used, in no list: 1 images\n"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"labels": LABELS - 1}, "imagelabels.mat: a label is 0; they start at 1"),
        ({"labels": np.where(LABELS == 3, 5, LABELS)}, "class 'flower 003' has no image in train"),
        ({"labels": LABELS[:5]}, "setid.mat names image 6; imagelabels.mat has labels for 1 to 5"),
        ({"labels": LABELS * 1.0}, "'labels' holds float64 (1, 12); needs whole numbers"),
        ({"labels": LABELS[:0]}, "needs whole numbers"),
        ({"names": LABELS}, "imagelabels.mat holds no 'labels'; restore the published file"),
    ],
)
def test_labels_out_of_range(root: Path, labels: dict, message: str) -> None:
    savemat(root / "imagelabels.mat", labels)
    with pytest.raises(DataError) as caught:
        source(root)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"valid": np.array([3, 4, 5])}, "00003.jpg is listed twice, in train and in validation"),
        ({"trnid": np.array([0, 2, 3])}, "setid.mat names image 0; imagelabels.mat has labels"),
        ({"tstid": np.arange(7, 14)}, "setid.mat names image 13"),
        ({"trnid": np.array([1, 2])}, "class 'flower 003' has no image in train"),
    ],
)
def test_splits_that_cannot_be(root: Path, sets: dict, message: str) -> None:
    savemat(root / "setid.mat", SETS | sets)
    with pytest.raises(DataError) as caught:
        source(root)
    assert message in str(caught.value)


def test_a_listed_image_that_is_missing(root: Path) -> None:
    (root / "jpg/image_00008.jpg").unlink()
    with pytest.raises(DataError, match=r"image_00008.jpg is listed in test but missing; unpack"):
        source(root)


@pytest.mark.parametrize("content", [b"", b"text", b"MATLAB 5.0 MAT-file" + b"\xff" * 300])
def test_a_damaged_mat_file(root: Path, content: bytes) -> None:
    (root / "setid.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"setid.mat is not a whole MATLAB file"):
        source(root)


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_mat_files(root: Path, compressed: bool) -> None:
    """Wherever it is cut, the error is ours."""
    savemat(root / "setid.mat", SETS, do_compression=compressed)
    whole = (root / "setid.mat").read_bytes()
    for end in range(0, len(whole) - 8, 7):
        (root / "setid.mat").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"setid.mat (is not a whole|holds no)"):
            source(root)
