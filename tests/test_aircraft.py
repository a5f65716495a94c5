"""FGVC-Aircraft: three published lists, variants with spaces and slashes, no banners."""

from pathlib import Path

import numpy as np
import published
import pytest

from models.errors import DataError
from pipeline.decoding import decode
from pipeline.layouts.aircraft import aircraft
from pipeline.params import Prepare
from pipeline.sources import SPLITS, Source


def source(root: Path) -> Source:
    return aircraft(Prepare(source="aircraft", path=str(root), image_size=16))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return published.aircraft(tmp_path)


def test_the_published_splits_are_kept_and_banners_cut_off(root: Path) -> None:
    found = source(root)
    assert found.classes == ["707-320", "Falcon 2000", "F/A-18"]
    for number, split in enumerate(SPLITS):
        material = found.splits[split]
        assert material.labels.tolist() == [0, 1, 2]
        for row in range(3):
            whole = decode(root / f"data/images/{number}{row:06}.jpg", root)
            assert whole.shape == (3, 60, 40)
            np.testing.assert_array_equal(material.read(np.array([row]))[0], whole[:, :40])


def test_an_image_no_higher_than_a_banner_keeps_a_row(root: Path) -> None:
    published.write_image(root / "data/images/0000000.jpg", 0, height=12)
    assert source(root).splits["train"].read(np.array([0])).shape == (1, 3, 1, 20)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Falcon 2000", "Falcon 3000", "line 2: variant 'Falcon 3000' is not in data/variants.txt"),
        ("1000001 ", "1000009 ", "1000009.jpg is listed in validation but missing; unpack"),
        ("1000001 ", "0000001 ", "0000001.jpg is listed twice, in train and in validation"),
        ("Falcon 2000", "707-320", "class 'Falcon 2000' has no image in validation"),
        ("1000001 Falcon 2000", "1000001", "line 2: variant '' is not in"),
    ],
)
def test_a_list_that_does_not_fit(root: Path, old: str, new: str, message: str) -> None:
    path = root / "data/images_variant_val.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError) as caught:
        source(root)
    assert message in str(caught.value)
