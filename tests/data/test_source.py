import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataError
from pipeline.data.source import stratified_split

CLASSES = ["ant", "bee", "cat", "dog"]


@st.composite
def labels(draw):
    counts = [draw(st.integers(8, 60)) for _ in CLASSES]
    rows = np.repeat(np.arange(len(CLASSES)), counts)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(rows)


@given(labels(), st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.integers(0, 2**32))
def test_parts_are_disjoint_complete_sorted_and_stratified(labels, validation, test, seed):
    fractions = {"validation": validation, "test": test}
    parts = stratified_split(labels, fractions, CLASSES, seed)

    assert list(parts) == ["train", "validation", "test"]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    for rows in parts.values():
        assert (np.diff(rows) > 0).all()
    for label in range(len(CLASSES)):
        size = (labels == label).sum()
        for part, fraction in fractions.items():
            taken = (labels[parts[part]] == label).sum()
            assert taken >= 1
            assert abs(taken - fraction * size) <= 1
    again = stratified_split(labels, fractions, CLASSES, seed)
    assert all((parts[part] == again[part]).all() for part in parts)


def test_another_seed_gives_another_split():
    labels = np.repeat(np.arange(4), 50)
    one, two = (stratified_split(labels, {"test": 0.5}, CLASSES, seed)["test"] for seed in (0, 1))
    assert len(one) == len(two)
    assert (one != two).any()


def test_without_fractions_train_keeps_everything():
    parts = stratified_split(np.array([1, 0, 1]), {}, ["a", "b"], seed=0)
    assert list(parts) == ["train"]
    assert parts["train"].tolist() == [0, 1, 2]


def test_a_class_too_small_to_split_is_named():
    labels = np.array([0] * 10 + [1] * 2)
    with pytest.raises(DataError) as caught:
        stratified_split(labels, {"validation": 0.1, "test": 0.1}, ["ant", "bee"], seed=0)
    assert str(caught.value) == (
        "class 'bee' has too few images in train to split (2): validation takes 1 and test "
        "takes 1, which leaves none to train on; add images, or lower "
        "prepare.validation_fraction or prepare.test_fraction"
    )
