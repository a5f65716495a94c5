import os
import unicodedata

import numpy as np
import pytest
from PIL import Image
from published import images_in, read

from models.errors import DataError
from pipeline.data.source import SPLITS

FULL = {split: {"cat": 2, "dog": 3} for split in ("train", "val", "test")}


def source(root):
    return read("image_folder", root)


def test_images_come_by_class_and_path(write_images):
    found = source(write_images(FULL))
    root = write_images({"more": {}})
    assert found.classes == ["cat", "dog"]
    assert found.splits["validation"].labels.tolist() == [0, 0, 1, 1, 1]
    expected = [
        np.asarray(Image.open(path)).tobytes() for path in sorted((root / "val").glob("*/*"))
    ]
    assert [pixels for pixels, _ in images_in(found, "validation")] == expected


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev", "Val", "VALID", "Dev"])
def test_only_absent_splits_are_parted_from_train(write_images, name):
    found = source(write_images({"train": {"cat": 10, "dog": 20}, name: {"cat": 1, "dog": 2}}))
    counts = {split: np.bincount(found.splits[split].labels).tolist() for split in SPLITS}
    assert counts == {"train": [9, 18], "validation": [1, 2], "test": [1, 2]}


def test_splits_in_capitals(write_images):
    found = source(write_images(dict.fromkeys(("Train", "Val", "TEST"), FULL["train"])))
    assert [len(found.splits[split].labels) for split in SPLITS] == [5, 5, 5]


@pytest.mark.parametrize("name", ["eval", "testing", "holdout", "validation_set"])
def test_a_split_by_another_name_is_not_ignored(write_images, name):
    root = write_images({"train": {"cat": 10, "dog": 20}, "val": FULL["val"], name: {"cat": 4}})
    with pytest.raises(DataError) as caught:
        source(root)
    assert str(caught.value) == (
        f"{root / name} has classes of train/, and there is no test/: rename it if it is one of "
        f"them, else move it out of {root}"
    )
    (root / name).rename(root / "test")
    write_images({"test": {"dog": 1}, name: {"cat": 1}})
    assert len(source(root).splits["test"].labels) == 5  # all splits are there: it is told


def test_derived_splits_hold_every_image_once(write_images):
    root = write_images({"train": {"cat": 10, "dog": 20}})
    found = source(root)
    got = [pixels for pixels, _ in images_in(found, *SPLITS)]
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
        f"{root / 'train'}: not used, hidden: 2 images (cat/.thumbnails/x.png, cat/.x.png)\n"
        f"{root / 'train'}: not used, no image's suffix: 1 × .db, 1 × .txt\n"
    )


def test_a_hidden_class_is_told(write_images, capsys):
    tree = {".net": 4, "java": 2, "python": 3}
    found = source(write_images(dict.fromkeys(("train", "val", "test"), tree)))
    assert found.classes == ["java", "python"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    names = ".net/000.png, .net/001.png, .net/002.png, …"
    assert lines[0].endswith(f"/train: not used, hidden: 4 images ({names})")


def test_a_hidden_split_and_hidden_files_are_told(write_images, capsys):
    root = write_images({"train": {"cat": 10, "dog": 20}, ".val": {"cat": 1, "dog": 2}})
    (root / "train" / "._cat.png").write_bytes(b"")
    (root / ".DS_Store").write_bytes(b"")
    source(root)
    assert capsys.readouterr().out == (
        f"{root}: not used, hidden: 3 images (.val/cat/000.png, .val/dog/000.png, "
        ".val/dog/001.png)\n"
        f"{root / 'train'}: not used, hidden: 1 images (._cat.png)\n"
    )


def linked(write_images, link, target):
    """The images of a tree where train/cat also has a link; `target` is relative to the root."""
    root = write_images(FULL | {"elsewhere/birds": {"more": 4}})
    (root / "train" / link).symlink_to(root / target)
    return np.bincount(source(root).splits["train"].labels).tolist()


def test_a_linked_sub_folder_is_followed(write_images):
    assert linked(write_images, "cat/more", "elsewhere/birds") == [6, 3]


@pytest.mark.parametrize("link", ["train/cat", "train", ".", ".."])
def test_a_link_that_leads_back_is_told_and_not_followed(write_images, capsys, link):
    assert linked(write_images, "cat/loop", link) == [2, 3]
    assert "train/cat/loop: not followed" in capsys.readouterr().out


def test_a_folder_that_is_linked_twice_counts_once(write_images, capsys):
    root = write_images(FULL | {"elsewhere": {"more": 4}})
    for name in ("one", "two"):
        (root / "train" / "cat" / name).symlink_to(root / "elsewhere" / "more")
    (root / "elsewhere" / "more" / "up").symlink_to(root / "elsewhere")
    assert np.bincount(source(root).splits["train"].labels).tolist() == [6, 3]
    told = capsys.readouterr().out
    assert "cat/two: not followed" in told
    assert "cat/one/up: not followed" in told


@pytest.mark.parametrize("link", ["val", "train/emu", "train/cat/more"])
def test_a_link_to_nothing_is_an_error(write_images, link):
    """Else validation would be drawn from train, and a class or images would be missing."""
    root = write_images({"train": FULL["train"]})
    (root / link).symlink_to("/mnt/not there")
    with pytest.raises(DataError, match=f"{link} is a link to nothing; restore /mnt/not there, or"):
        source(root)


def test_a_class_that_leads_back_to_all_of_them_is_none(write_images, capsys):
    root = write_images(FULL)
    (root / "train" / "all").symlink_to(root / "train")
    assert source(root).classes == ["cat", "dog"]
    assert "train/all: not followed" in capsys.readouterr().out


def test_a_folder_that_cannot_be_listed_is_an_error(write_images, monkeypatch):
    root = write_images(FULL)
    for name in ("closed", ".Trash-closed"):
        (root / "train" / "cat" / name).mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot read .*train/cat/closed: Permission denied"):
        source(root)
    (root / "train" / "cat" / "closed").rmdir()
    assert len(source(root).splits["train"].labels) == 5


@pytest.mark.parametrize("name", ["cafe\u0301", "\u212bngstro\u0308m"])
def test_unicode_forms_of_a_name_are_one_class(write_images, name):
    """As in a data set whose parts were unpacked on macOS and on Linux."""
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD", "NFC")]
    tree = dict(zip(("train", "val", "test"), ({form: 2, "dog": 3} for form in forms), strict=True))
    found = source(write_images(tree))
    assert sorted(found.classes) == sorted([forms[0], "dog"])
    assert [len(found.splits[split].labels) for split in SPLITS] == [5, 5, 5]
    write_images({"train": {forms[1]: 1}})
    with pytest.raises(DataError, match=r"has '.*\\u030.*' and '.*\\x.*', one name in two Unicode"):
        source(write_images({}))


@pytest.mark.parametrize(("name", "other"), [("Cat", "cat"), ("cat ", "cat"), ("ﬁsh", "fish")])
def test_names_that_only_look_alike_are_shown_escaped(write_images, name, other):
    tree = FULL | {"train": {name: 2, "dog": 3}, "val": {other: 2, "dog": 3}}
    with pytest.raises(DataError) as caught:
        source(write_images(tree))
    shown = sorted((name, other))[::-1]
    assert "{!a} there looks alike but is not {!a}; rename one".format(*shown) in str(caught.value)


def test_images_in_sub_folders_belong_to_their_class(write_images):
    root = write_images(FULL)
    (root / "train" / "cat" / "deep" / "er").mkdir(parents=True)
    Image.new("L", (3, 3)).save(root / "train" / "cat" / "deep" / "er" / "A.JPG")
    assert np.bincount(source(root).splits["train"].labels).tolist() == [3, 3]


BAD_TREES = {
    "has no folder train/ with one folder per class in it; its folders: training": {
        "training": {"cat": 1}
    },
    "/train/<class>/; looked for .avif, .bmp": {"train": {"cat": 0, "dog": 0}},
    " is not a folder": {},
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


def test_colour_is_read_from_headers(write_images, tmp_path):
    root = write_images(FULL)
    assert not source(root).has_colour()
    grey_palette = Image.new("L", (4, 4)).convert("P")
    grey_palette.save(root / "test" / "dog" / "palette.png")
    (root / "train" / "dog" / "broken.png").write_bytes(b"no header")
    assert not source(root).has_colour()
    Image.new("RGB", (4, 4)).quantize(4).save(root / "test" / "dog" / "palette.gif")
    Image.new("RGB", (4, 4), "red").quantize(4).save(root / "test" / "dog" / "colour.gif")
    assert source(root).has_colour()
