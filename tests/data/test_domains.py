"""PACS and VLCS: domains are pooled, each split has its share of each, copies do not leak."""

import shutil
from pathlib import Path

import published
import pytest
from published import images_in, read

from models.errors import DataError
from pipeline.data.decoding import decode
from pipeline.data.source import SPLITS, Source


def read_all(found: Source, split: str) -> set[bytes]:
    return {pixels for pixels, _ in images_in(found, split)}


def pixels(root: Path, pattern: str) -> set[bytes]:
    return {decode(path, root).tobytes() for path in root.glob(pattern)}


def test_every_split_has_its_share_of_every_class_in_every_domain(tmp_path: Path) -> None:
    root = published.pacs(tmp_path)
    found = read("pacs", root, validation_fraction=0.2, test_fraction=0.3)
    assert found.classes == ["dog", "elephant"]
    for split, share in (("train", 5), ("validation", 2), ("test", 3)):
        got = read_all(found, split)
        for domain in published.PACS_DOMAINS:
            for name in found.classes:
                assert len(got & pixels(root, f"{domain}/{name}/*")) == share


@pytest.mark.parametrize("name", ["pacs", "vlcs"])
def test_the_parts_are_the_whole(name: str, tmp_path: Path) -> None:
    root = published.WRITERS[name](tmp_path)
    found = read(name, root)
    assert set.union(*(read_all(found, split) for split in SPLITS)) == pixels(root, "*/*/*")


def test_a_class_missing_in_a_domain_is_named(tmp_path: Path) -> None:
    root = published.pacs(tmp_path)
    (root / "photo" / "dog").rename(root / "photo" / "dogs")
    with pytest.raises(
        DataError, match=r"'art_painting/dogs' has too few images in train .* \(0\)"
    ):
        read("pacs", root)


def test_folds_inside_the_domains_are_kept(tmp_path: Path) -> None:
    root = published.vlcs_with_folds(tmp_path)
    found = read("vlcs", root)
    assert found.classes == ["0", "1"]
    for split, fold in (("train", "train"), ("validation", "crossval"), ("test", "test")):
        assert read_all(found, split) == pixels(root, f"*/{fold}/*/*")
    assert len(read_all(found, "train")) == 16


def test_copies_of_other_splits_are_removed_from_train(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = published.vlcs_with_folds(tmp_path)
    expected = read("vlcs", root)
    capsys.readouterr()
    shutil.copy(root / "SUN/crossval/1/2.jpg", root / "SUN/train/1/copy.jpg")
    shutil.copy(root / "SUN/test/0/3.jpg", root / "LABELME/train/1/other.jpg")
    shutil.copy(root / "PASCAL/test/0/3.jpg", root / "PASCAL/crossval/0/3.jpg")
    found = read("vlcs", root)
    for split in SPLITS:
        assert read_all(found, split) == read_all(expected, split)
    assert capsys.readouterr().out == (
        "validation: not used, copies of images in test: 1 images\n"
        "train: not used, copies of images in validation or test: 2 images\n"
    )


def test_a_domain_without_a_fold_is_named(tmp_path: Path) -> None:
    root = published.vlcs_with_folds(tmp_path)
    shutil.rmtree(root / "PASCAL" / "crossval")
    with pytest.raises(
        DataError, match=r"PASCAL has no crossval/; VLCS is expected as Caltech101/"
    ):
        read("vlcs", root)
