"""What holds for every published layout: splits, levels, missing entries, damaged images."""

from pathlib import Path

import numpy as np
import pytest
from published import WRITERS, Write, images_in, read, vlcs_with_folds

from models.errors import DataError
from pipeline.core.params import Prepare
from pipeline.data.prepare import SOURCES, prepare
from pipeline.data.source import SPLITS

FILES = [name for name in WRITERS if name != "cifar10"]  # those with a file for each image

# Per split: images of each class, in label order.
COUNTS = {
    "cifar10": {"train": [45, 45], "validation": [5, 5], "test": [10, 10]},
    "tiny_imagenet": {"train": [9, 9, 9], "validation": [1, 1, 1], "test": [2, 2, 2]},
    "pacs": {"train": [32, 32], "validation": [4, 4], "test": [4, 4]},
    "vlcs": {"train": [32, 32], "validation": [4, 4], "test": [4, 4]},
    "flowers102": {"train": [1, 1, 1], "validation": [1, 1, 1], "test": [2, 2, 2]},
    "dtd": {"train": [1, 1], "validation": [1, 1], "test": [1, 1]},
    "aircraft": {"train": [1, 1, 1], "validation": [1, 1, 1], "test": [1, 1, 1]},
}
# One required entry each, and words of the layout that the message must hold.
REQUIRED = {
    "cifar10": ("data_batch_4", "cifar-10-batches-py/ with data_batch_1 to"),
    "tiny_imagenet": ("val/val_annotations.txt", "train/<wnid>/images/*.JPEG"),
    "pacs": ("sketch", "art_painting/, cartoon/, photo/ and sketch/"),
    "vlcs": ("SUN09", "or CALTECH/, LABELME/"),
    "flowers102": ("setid.mat", "jpg/image_00001.jpg"),
    "dtd": ("labels/val1.txt", "images/<class>/*.jpg and labels/train1.txt"),
    "aircraft": ("data/images_variant_test.txt", "data/images/*.jpg, data/variants.txt"),
}


def run(source: str, root: Path, target: Path, **options: object) -> dict:
    target.mkdir(exist_ok=True)
    values = {"source": source, "path": str(root), "image_size": 16, "fit": "crop"} | options
    return prepare(Prepare.model_validate(values), target)


def test_every_source_but_the_first_two_has_a_layout_here() -> None:
    assert {*WRITERS, "fashion_mnist", "image_folder"} == SOURCES.keys()


@pytest.mark.parametrize("source", WRITERS)
def test_it_is_prepared_with_its_splits(source: str, tmp_path: Path, write: Write) -> None:
    manifest = run(source, write(source, tmp_path), tmp_path / "out")
    counts = {split: list(manifest["counts"][split].values()) for split in SPLITS}
    assert counts == COUNTS[source]
    assert manifest["channels"] == 3
    assert manifest["skipped"] == []


@pytest.mark.parametrize("source", [*WRITERS, "folds"])
def test_no_image_is_in_two_splits(source: str, tmp_path: Path, write: Write) -> None:
    root = vlcs_with_folds(tmp_path) if source == "folds" else write(source, tmp_path)
    name = "vlcs" if source == "folds" else source
    seen = [pixels for pixels, _ in images_in(read(name, root), *SPLITS)]
    assert len(seen) == len(set(seen)) > 0


@pytest.mark.parametrize("source", ["cifar10", "tiny_imagenet", "pacs", "vlcs"])
def test_drawn_splits_follow_the_seed(source: str, tmp_path: Path, write: Write) -> None:
    root = write(source, tmp_path)
    first, again, other = (
        run(source, root, tmp_path / f"out{i}", seed=seed) for i, seed in enumerate((3, 3, 4))
    )
    assert first == again
    assert first["sha256"]["validation_images.npy"] != other["sha256"]["validation_images.npy"]


@pytest.mark.parametrize(
    ("source", "level"), [("dtd", "parent"), ("vlcs", "grandparent"), ("cifar10", "child")]
)
def test_a_path_one_or_two_levels_off_is_corrected(source: str, level: str, tmp_path: Path) -> None:
    root = WRITERS[source](tmp_path / "data" / "sets")
    (root / "extra").mkdir()
    off = {"parent": root.parent, "grandparent": root.parent.parent, "child": root / "extra"}[level]
    with pytest.raises(DataError) as caught:
        run(source, off, tmp_path / "out")
    assert f" lies in {root}, not in {off}: set prepare.path to it" in str(caught.value)


@pytest.mark.parametrize("source", WRITERS)
def test_a_missing_entry_is_named_with_the_whole_layout(source: str, tmp_path: Path) -> None:
    root = WRITERS[source](tmp_path)
    entry, layout = REQUIRED[source]
    (root / entry).rename(root / ".hidden")
    with pytest.raises(DataError) as caught:
        run(source, root, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith(f"{root} has no {entry}; ")
    assert layout in message
    assert "\n" not in message


@pytest.mark.parametrize("source", WRITERS)
def test_a_path_that_is_no_folder(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere' is not a folder; it has to hold .*: "):
        run(source, tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize("source", FILES)
def test_a_corrupt_image_is_fatal_or_skipped(source: str, tmp_path: Path, write: Write) -> None:
    root = write(source, tmp_path)
    material = read(source, root).splits["train"]
    wanted = material.read(np.array([0]))
    for path in (file for file in root.rglob("*") if file.suffix in {".jpg", ".JPEG"}):
        whole = path.read_bytes()
        path.write_bytes(whole[:30])
        try:
            material.read(np.array([0]))
        except DataError as e:  # found the file of the first training image
            assert str(e).startswith(f"{path.relative_to(root).as_posix()} cannot be read")  # noqa: PT017
            break
        path.write_bytes(whole)
    else:
        pytest.fail("no file of the first training image")
    with pytest.raises(DataError, match=r"cannot be read as an image: .* prepare.on_corrupt: skip"):
        run(source, root, tmp_path / "out")
    if COUNTS[source]["train"][0] > 1:
        manifest = run(source, root, tmp_path / "out", on_corrupt="skip")
        assert [item["file"] for item in manifest["skipped"]] == [path.relative_to(root).as_posix()]
    path.write_bytes(whole)
    np.testing.assert_array_equal(material.read(np.array([0])), wanted)
