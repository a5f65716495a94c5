import json
import shutil
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from models.errors import ArtifactError
from pipeline.data import Split, batch_sizes, batches, drawn, load, subset
from pipeline.distributed import WHOLE, Share

PLAIN = {"mean": [0.0], "std": [1 / 255], "device": "cpu"}  # normalised = the pixel itself


def numbered(n, size=4):
    """Images and labels that show their row."""
    rows = torch.arange(n)
    images = rows.to(torch.uint8).reshape(-1, 1, 1, 1).expand(n, 1, size, size).contiguous()
    return Split(images, rows)


def seeded(seed=0):
    return Generator().manual_seed(seed)


# --- load -----------------------------------------------------------------------------------


def test_load_opens_what_prepare_wrote(prepared):
    data = load(prepared)
    manifest = json.loads((prepared / "manifest.json").read_text())
    for split in ("train", "validation", "test"):
        images, labels = getattr(data, split).images, getattr(data, split).labels
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert images.shape == (500, 1, 32, 32)
        np.testing.assert_array_equal(images.numpy(), np.load(prepared / f"{split}_images.npy"))
        np.testing.assert_array_equal(labels.numpy(), np.load(prepared / f"{split}_labels.npy"))
    for key in ("classes", "mean", "std", "image_size", "channels"):
        assert getattr(data, key) == manifest[key]


def test_the_normalised_train_images_have_mean_0_and_deviation_1(prepared):
    data = load(prepared)
    loader = batches(data.train, 64, mean=data.mean, std=data.std, device="cpu")
    images = torch.cat([x for x, _ in loader])
    assert images.dtype == torch.float32
    assert images.double().mean().item() == pytest.approx(0, abs=1e-5)
    assert images.double().std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_writing_to_loaded_images_leaves_the_file_alone(prepared):
    before = (prepared / "test_images.npy").read_bytes()
    load(prepared).test.images.fill_(7)
    assert (prepared / "test_images.npy").read_bytes() == before


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def other_length(path):
    np.save(path, np.load(path)[:-1])


def other_type(path):
    np.save(path, np.load(path).astype(np.int32))


def not_an_array(path):
    path.write_bytes(b"text")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"is damaged \(.*\); delete it and run `dvc repro`"),
        (other_length, r"holds .*\(499,.*, but its manifest says .*\(500,.*; delete the folder"),
        (other_type, "holds int32 .*, but its manifest says"),
        (not_an_array, r"is damaged \(.*\); delete it"),
        (lambda path: path.unlink(), "is missing; `dvc repro` makes it"),
    ],
)
@pytest.mark.parametrize("name", ["train_images.npy", "validation_labels.npy"])
def test_damaged_files_are_named(prepared, tmp_path, name, damage, message):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    damage(folder / name)
    with pytest.raises(ArtifactError, match=f"{name} {message}"):
        load(folder)


def test_a_manifest_without_a_key(prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["std"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"manifest.json is damaged \(KeyError\('std'\)\)"):
        load(folder)


def test_nothing_prepared(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest.json is missing; `dvc repro` makes it"):
        load(tmp_path)


# --- batches --------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 2**31), st.booleans())
def test_every_image_comes_once_with_its_label(n, batch_size, seed, shuffled):
    generator = seeded(seed) if shuffled else None
    got = list(batches(numbered(n), batch_size, **PLAIN, generator=generator))
    sizes = [len(labels) for _, labels in got]
    assert sizes == batch_sizes(n, batch_size)
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] <= batch_size + 1
    labels = [label for _, batch in got for label in batch.tolist()]
    assert sorted(labels) == list(range(n))
    if not shuffled:
        assert labels == list(range(n))
    for images, batch in got:
        assert torch.equal(images[:, 0, 0, 0].round().long(), batch)


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**31), st.booleans())
def test_drawn_rows_give_what_their_subset_gives(n, wanted, seed, shuffled):
    split = numbered(n)
    in_place, copied = (
        [
            labels.tolist()
            for _, labels in batches(
                source, 7, **PLAIN, generator=seeded(seed) if shuffled else None, rows=rows
            )
        ]
        for source, rows in (
            (split, drawn(split, wanted, seed)),
            (subset(split, wanted, seed), None),
        )
    )
    assert in_place == copied


@pytest.mark.parametrize(
    ("n", "sizes"), [(129, [129]), (257, [128, 129]), (130, [128, 2]), (1, [1])]
)
def test_a_single_image_left_over_joins_the_batch_before_it(n, sizes):
    assert [len(labels) for _, labels in batches(numbered(n), 128, **PLAIN)] == sizes


@given(st.integers(1, 200), st.integers(2, 40), st.integers(1, 9), st.integers(0, 99))
def test_processes_share_the_batches_that_one_alone_would_see(n, batch_size, processes, seed):
    def loader(share):
        return batches(numbered(n), batch_size, **PLAIN, generator=seeded(seed), share=share)

    parts = [list(loader(Share(rank, processes))) for rank in range(processes)]
    together = [
        [label for _, labels in step for label in labels.tolist()]
        for step in zip(*parts, strict=True)
    ]
    alone = [labels.tolist() for _, labels in loader(WHOLE)]
    assert [len(step) for step in together] == batch_sizes(n, batch_size, processes)
    assert list(chain(*together)) == list(chain(*alone))
    assert together[:-1] == alone[: len(together) - 1]
    if len(together) > 1 and batch_size >= 2 * processes:
        assert all(len(labels) >= 2 for part in parts for _, labels in part)


def labels_of(loader):
    return torch.cat([labels for _, labels in loader]).tolist()


def test_the_generator_alone_decides_the_order():
    split = numbered(200)
    one, again, other = (
        labels_of(batches(split, 32, **PLAIN, generator=seeded(seed))) for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    generator = seeded(1)
    assert labels_of(batches(split, 32, **PLAIN, generator=generator)) == one
    assert labels_of(batches(split, 32, **PLAIN, generator=generator)) != one  # the next epoch


def test_normalisation_is_per_channel():
    images = torch.randint(0, 256, (5, 3, 4, 4), generator=seeded(), dtype=torch.uint8)
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]
    ((got, _),) = batches(Split(images, torch.zeros(5).long()), 8, mean=mean, std=std, device="cpu")
    wanted = (images.double() / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(
        std
    ).reshape(3, 1, 1)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-6)


def test_augment_needs_a_generator():
    with pytest.raises(ValueError, match="pass a generator"):
        next(batches(numbered(4), 2, **PLAIN, augment=lambda images, _: images))


def test_subset_is_a_seeded_sample_without_repetition():
    split = numbered(100)
    one, again, other = (subset(split, 30, seed).labels.tolist() for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert len(set(one)) == 30
    drawn = subset(split, 30, 0)
    assert torch.equal(drawn.images[:, 0, 0, 0].long(), drawn.labels)
    assert sorted(subset(split, 1000, 0).labels.tolist()) == list(range(100))
