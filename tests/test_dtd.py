"""DTD: the first published split, and lists that must agree with the images."""

from pathlib import Path

import numpy as np
import published
import pytest

from models.errors import DataError
from pipeline.decoding import decode
from pipeline.layouts.dtd import dtd
from pipeline.params import Prepare
from pipeline.sources import SPLITS, Source


def source(root: Path) -> Source:
    return dtd(Prepare(source="dtd", path=str(root), image_size=16))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return published.dtd(tmp_path)


def test_the_first_published_split_is_kept(root: Path) -> None:
    found = source(root)
    assert found.classes == ["banded", "blotchy"]
    for number, split in enumerate(SPLITS):
        material = found.splits[split]
        assert material.labels.tolist() == [0, 1]
        for row, name in enumerate(found.classes):
            expected = decode(root / f"images/{name}/{name}_{number:04}.jpg", root)
            np.testing.assert_array_equal(material.read(np.array([row]))[0], expected)


def test_images_in_no_list_are_told(root: Path, capsys: pytest.CaptureFixture) -> None:
    published.write_image(root / "images/banded/banded_0009.jpg", 9)
    source(root)
    assert capsys.readouterr().out == f"{root / 'images'}: not used, in no list: 1 images\n"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("banded/banded_0001.jpg\n", "class 'blotchy' has no image in validation"),
        ("banded/banded_0001.jpg\nblotchy/x.jpg\n", "x.jpg is listed in validation but missing"),
        ("banded/banded_0000.jpg\n", "banded_0000.jpg is listed twice, in train and in validation"),
        ("banded_0001.jpg\n", "line 1: 'banded_0001.jpg'; needs <class>/<file>"),
        (
            "../banded/banded_0001.jpg\n",
            "line 1: '../banded/banded_0001.jpg' leads out of the data set",
        ),
        ("", "val1.txt is empty; restore the published one"),
    ],
)
def test_a_list_that_does_not_fit(root: Path, lines: str, message: str) -> None:
    (root / "labels/val1.txt").write_text(lines)
    with pytest.raises(DataError) as caught:
        source(root)
    assert message in str(caught.value)
