"""CIFAR-10's batches: read as Python 2 wrote them, and never a way to run code."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import published
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DataError
from pipeline.layouts.cifar10 import cifar10
from pipeline.params import Prepare
from pipeline.sources import Source


def source(root: Path) -> Source:
    return cifar10(Prepare(source="cifar10", path=str(root), image_size=32))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return published.cifar10(tmp_path)


def rewrite(root: Path, name: str, **changes: object) -> None:
    batch = published.batch(1) | {key.encode(): value for key, value in changes.items()}
    (root / name).write_bytes(published.python2_pickle(batch))


def test_the_pickles_are_as_python_2_wrote_them(root: Path) -> None:
    content = (root / "data_batch_1").read_bytes()
    assert content.startswith(b"\x80\x02}")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert b"_codecs" not in content


def test_pixels_labels_and_names_are_those_of_the_files(root: Path) -> None:
    found = source(root)
    assert found.classes == ["airplane", "automobile"]
    assert found.has_colour()
    test = found.splits["test"]
    expected = published.batch(6)
    assert test.labels.tolist() == expected[b"labels"]
    pixels = test.read(np.arange(20))
    assert pixels.shape == (20, 3, 32, 32)
    np.testing.assert_array_equal(pixels.reshape(20, -1), expected[b"data"])


def test_train_and_validation_are_the_five_batches(root: Path) -> None:
    found = source(root)
    got = [
        (row.tobytes(), label)
        for split in ("train", "validation")
        for row, label in zip(
            found.splits[split].read(np.arange(len(found.splits[split].labels))),
            found.splits[split].labels,
            strict=True,
        )
    ]
    batches = [published.batch(number) for number in range(1, 6)]
    expected = [
        (row.tobytes(), label)
        for batch in batches
        for row, label in zip(batch[b"data"], batch[b"labels"], strict=True)
    ]
    assert sorted(got) == sorted(expected)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_does_not_run(root: Path, tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    content = pickle.dumps(published.batch(1) | {b"labels": Hostile(trap)}, protocol)
    (root / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3 is damaged or not .*it asks for"):
        source(root)
    assert not trap.exists()
    pickle.loads(content)  # the trap is one
    assert trap.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 1] * 9 + [2, 0]}, "label 18 is 2; needs 0 to 1, the places in"),
        ({"labels": [0, 1] * 9 + [0, -1]}, "label 19 is -1; needs 0 to 1"),
        ({"labels": [0, 1] * 9 + [0, 1.0]}, "label 19 is 1.0; needs 0 to 1"),
        ({"labels": [0, 1]}, "data is no array of uint8 (2, 3072), a row for each label; unpack"),
        ({"data": np.zeros((20, 384))}, "data is no array of uint8 (20, 3072)"),
        ({"data": np.zeros((20, 3073), np.uint8)}, "data is no array of uint8 (20, 3072)"),
        ({"data": np.zeros((10, 6144), np.uint8)}, "data is no array of uint8 (20, 3072)"),
        ({"data": np.asfortranarray(np.eye(20, 3072, dtype=np.uint8))}, "data is no array"),
        ({"data": np.dtype(np.uint8)}, "data is no array of uint8 (20, 3072)"),
        ({"labels": None}, "holds no labels of the right type, so it is not a file of CIFAR-10"),
        ({"data": [1, 2]}, "holds no data of the right type"),
    ],
)
def test_a_batch_of_another_form_is_refused(root: Path, changes: dict, message: str) -> None:
    rewrite(root, "test_batch", **changes)
    with pytest.raises(DataError) as caught:
        source(root)
    assert str(caught.value).startswith(str(root / "test_batch"))
    assert message in str(caught.value)


@pytest.mark.parametrize("names", [[], [b"airplane"], [1, 2], [b"cat", b"cat"]])
def test_names_that_are_none(root: Path, names: list) -> None:
    (root / "batches.meta").write_bytes(published.python2_pickle({b"label_names": names}))
    with pytest.raises(DataError, match="needs two names or more"):
        source(root)


def test_a_truncated_batch_is_named(root: Path) -> None:
    content = (root / "data_batch_2").read_bytes()
    (root / "data_batch_2").write_bytes(content[:-50])
    with pytest.raises(DataError, match=r"data_batch_2 is damaged or not the published file"):
        source(root)


@settings(max_examples=300)
@given(data=st.data())
def test_damage_is_either_harmless_or_reported(data: st.DataObject, tmp_path_factory) -> None:
    """No other exception than DataError, whatever bytes outside the pixels are changed."""
    root = tmp_path_factory.getbasetemp() / "fuzzed" / "cifar-10-batches-py"
    if not root.exists():
        published.cifar10(root.parent)
    content = bytearray(published.python2_pickle(published.batch(6, count=4)))
    pixels = content.index(struct.pack("<i", 4 * 3072))
    places = [*range(pixels + 4), *range(len(content) - 60, len(content))]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    (root / "test_batch").write_bytes(content)
    try:
        found = source(root)
    except DataError as e:
        assert "test_batch" in str(e)  # noqa: PT017
    else:
        assert set(found.splits["test"].labels.tolist()) <= {0, 1}
