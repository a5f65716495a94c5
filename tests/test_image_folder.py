import numpy as np
import pytest
from PIL import Image

from models.errors import DataError
from pipeline.image_folder import image_folder
from pipeline.params import Prepare
from pipeline.sources import SPLITS

FULL = {split: {"cat": 2, "dog": 3} for split in ("train", "val", "test")}


def source(root):
    return image_folder(Prepare(source="image_folder", path=str(root), image_size=16))


def all_pixels(source, split):
    material = source.splits[split]
    return [material.read(np.array([row]))[0] for row in range(len(material.labels))]


def test_images_come_by_class_and_path(write_images):
    found = source(write_images(FULL))
    root = write_images({"more": {}})
    assert found.classes == ["cat", "dog"]
    assert found.splits["validation"].labels.tolist() == [0, 0, 1, 1, 1]
    expected = [np.asarray(Image.open(path)) for path in sorted((root / "val").glob("*/*"))]
    for pixels, wanted in zip(all_pixels(found, "validation"), expected, strict=True):
        np.testing.assert_array_equal(pixels, wanted[None])


@pytest.mark.parametrize("name", ["val", "validation"])
def test_only_absent_splits_are_parted_from_train(write_images, name):
    found = source(write_images({"train": {"cat": 10, "dog": 20}, name: {"cat": 1, "dog": 2}}))
    counts = {split: np.bincount(found.splits[split].labels).tolist() for split in SPLITS}
    assert counts == {"train": [9, 18], "validation": [1, 2], "test": [1, 2]}


def test_derived_splits_hold_every_image_once(write_images):
    root = write_images({"train": {"cat": 10, "dog": 20}})
    found = source(root)
    got = [p.tobytes() for split in SPLITS for p in all_pixels(found, split)]
    expected = [np.asarray(Image.open(path)).tobytes() for path in root.glob("train/*/*")]
    assert sorted(got) == sorted(expected)


def test_hidden_files_are_ignored_and_others_counted_aloud(write_images, capsys):
    root = write_images(FULL)
    (root / "train" / ".cache").mkdir()
    (root / "train" / "cat" / ".x.png").write_bytes(b"")
    (root / "train" / "cat" / ".thumbnails").mkdir()
    (root / "train" / "cat" / ".thumbnails" / "x.png").write_bytes(b"")
    (root / "train" / "cat" / "notes.txt").write_text("two cats")
    (root / "train" / "dog" / "Thumbs.db").write_bytes(b"")
    (root / "masks").mkdir()
    assert np.bincount(source(root).splits["train"].labels).tolist() == [2, 3]
    assert capsys.readouterr().out == (
        f"{root}: not used: masks/\n"
        f"{root / 'train'}: not used, no image's suffix: 1 × .db, 1 × .txt\n"
    )


def test_images_in_sub_folders_belong_to_their_class(write_images):
    root = write_images(FULL)
    (root / "train" / "cat" / "deep" / "er").mkdir(parents=True)
    Image.new("L", (3, 3)).save(root / "train" / "cat" / "deep" / "er" / "A.JPG")
    assert np.bincount(source(root).splits["train"].labels).tolist() == [3, 3]


BAD_TREES = {
    "has no folder train/ with one folder per class in it; its folders: training": {
        "training": {"cat": 1}
    },
    "no image at all in ": {"train": {"cat": 0, "dog": 0}},
    "class 'dog' is empty: no image in ": {"train": {"cat": 9, "dog": 0}},
    "class 'emu' is empty: no image in ": {**FULL, "val": {"cat": 1, "dog": 1, "emu": 0}},
    "class 'emu' is in train but not in validation; every split needs every class": {
        **FULL,
        "train": {"cat": 1, "dog": 1, "emu": 1},
    },
    "class 'emu' is in test but not in train; every split needs every class": {
        **FULL,
        "test": {"cat": 1, "dog": 1, "emu": 1},
    },
    "has both val/ and validation/; keep one of them": {**FULL, "validation": FULL["val"]},
    "holds one class, 'cat'; needs at least two folders": {"train": {"cat": 9}},
    "class 'dog' has too few images in train to split (1)": {"train": {"cat": 9, "dog": 1}},
}


@pytest.mark.parametrize("message", BAD_TREES)
def test_a_bad_tree_is_one_clear_error(write_images, message):
    with pytest.raises(DataError) as caught:
        source(write_images(BAD_TREES[message]))
    assert message in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"prepare.path = '.*nowhere' is not a folder"):
        source(tmp_path / "nowhere")


def test_an_empty_train_folder(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no image at all"):
        source(tmp_path)


def test_an_image_outside_the_classes(write_images):
    root = write_images(FULL)
    Image.new("L", (3, 3)).save(root / "train" / "stray.png")
    with pytest.raises(
        DataError, match=r"stray.png is in no class; images belong in .*train/<class>"
    ):
        source(root)


def test_an_empty_class_says_what_files_it_has(write_images):
    root = write_images({"train": {"cat": 9, "dog": 0}})
    (root / "train" / "dog" / "a.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"\(files there: 1 × .heic\); add images or remove"):
        source(root)


def test_colour_is_told_from_headers(write_images, tmp_path):
    root = write_images(FULL)
    assert not source(root).has_colour()
    grey_palette = Image.new("L", (4, 4)).convert("P")
    grey_palette.save(root / "test" / "dog" / "palette.png")
    (root / "train" / "dog" / "broken.png").write_bytes(b"no header")
    assert not source(root).has_colour()
    Image.new("RGB", (4, 4)).quantize(4).save(root / "test" / "dog" / "palette.gif")
    Image.new("RGB", (4, 4), "red").quantize(4).save(root / "test" / "dog" / "colour.gif")
    assert source(root).has_colour()
