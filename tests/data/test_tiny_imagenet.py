"""Tiny-ImageNet-200: val/ is test, and annotations, ids and folders must agree."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import published
import pytest
from published import images_in, read

from models.errors import DataError
from pipeline.data.decoding import decode
from pipeline.data.source import Source


def source(root: Path) -> Source:
    return read("tiny_imagenet", root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return published.tiny_imagenet(tmp_path)


def test_classes_are_named_by_id_and_first_word(root: Path) -> None:
    assert source(root).classes == [
        "n01443537 goldfish",
        "n02124075 Egyptian cat",
        "n04067472 reel",
    ]


def test_val_with_its_annotations_is_test(root: Path) -> None:
    test = source(root).splits["test"]
    assert test.labels.tolist() == [1, 1, 0, 0, 2, 2]
    for row, number in enumerate((0, 3, 1, 4, 2, 5)):
        expected = decode(root / f"val/images/val_{number}.JPEG", root)
        np.testing.assert_array_equal(test.read(np.array([row]))[0], expected)


def test_train_and_validation_are_the_train_folder(root: Path) -> None:
    got = images_in(source(root), "train", "validation")
    expected = [
        (decode(path, root).tobytes(), label)
        for label, wnid in enumerate(sorted(published.WNIDS))
        for path in (root / "train" / wnid).rglob("*.JPEG")
    ]
    assert sorted(got) == sorted(expected)


def test_images_without_annotation_are_counted(root: Path, capsys: pytest.CaptureFixture) -> None:
    published.write_image(root / "val/images/val_99.JPEG", 99)
    assert len(source(root).splits["test"].labels) == 6
    assert capsys.readouterr().out == f"{root / 'val/images'}: not used, in no list: 1 images\n"


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return change


ANNOTATIONS = "val/val_annotations.txt"
SPOILT = {
    "23': class 'n99' is not in wnids.txt; needs <file>, tab, <wnid>": edit(
        ANNOTATIONS, "val_1.JPEG\tn01443537", "val_1.JPEG\tn99"
    ),
    "val_0.JPEG n02124075\\t0\\t0\\t19\\t23': class '0' is not in wnids.txt": edit(
        ANNOTATIONS, "val_0.JPEG\tn02124075", "val_0.JPEG n02124075"
    ),
    "val_7.JPEG is listed in test but missing": edit(ANNOTATIONS, "val_5.JPEG", "val_7.JPEG"),
    "val_4.JPEG is listed twice, in test and in test": edit(
        ANNOTATIONS, "val_5.JPEG", "val_4.JPEG"
    ),
    "class n04067472 is in train/ but not in wnids.txt": edit("wnids.txt", "n04067472\n", ""),
    "class n05 is in wnids.txt but not in train/": lambda root: (
        edit("wnids.txt", "n04067472\n", "n04067472\nn05\n")(root),
        edit("words.txt", "n00001740\tentity", "n05\tentity")(root),
    ),
    "words.txt has no line for n04067472": edit("words.txt", "n04067472", "n04067473"),
    "class 'n04067472 reel' has no image in test": edit(ANNOTATIONS, "n04067472", "n01443537"),
    "wnids.txt is empty": lambda root: (root / "wnids.txt").write_text("\n"),
    "wnids.txt is not a text file": lambda root: (root / "wnids.txt").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("message", SPOILT)
def test_lists_that_do_not_agree_are_one_clear_error(root: Path, message: str) -> None:
    SPOILT[message](root)
    with pytest.raises(DataError) as caught:
        source(root)
    assert message in str(caught.value)
