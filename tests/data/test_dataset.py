import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from torch import Generator

from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.core import artifacts
from pipeline.core.distributed import WHOLE, Share
from pipeline.data.dataset import EVALUATION_BATCH, Dataset, Split, batch_sizes, load


def of(split, mean=(0.0,), std=(1 / 255,)):
    """A data set of one split, normalised to the pixels themselves."""
    return Dataset(split, split, split, ["a", "b"], list(mean), list(std), 4, 1)


def batches(split, batch_size, **options):
    return of(split).batches(split, batch_size, **options)


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
    images = data.normalised(data.train)
    assert images.dtype == torch.float32
    assert images.double().mean().item() == pytest.approx(0, abs=1e-5)
    assert images.double().std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_writing_to_loaded_images_leaves_the_file_alone(prepared):
    before = (prepared / "test_images.npy").read_bytes()
    images = load(prepared).test.images
    for rows in (slice(0, 9), torch.arange(9), 3):
        images[rows].fill_(7)
    with pytest.raises(ValueError, match="read-only"):
        images.numpy().fill(7)
    assert (prepared / "test_images.npy").read_bytes() == before


WITH_LITTLE_MEMORY = """
import re, resource, sys, warnings
from pathlib import Path
import torch
from models.errors import ShoalError
from pipeline.data.dataset import load
limit, megabytes, folder = sys.argv[1:]
warnings.simplefilter("error")
field = {"DATA": "VmData", "AS": "VmSize"}[limit]
used = int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
bytes_ = used * 1024 + int(megabytes) * 2**20
resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (bytes_, bytes_))
try:
    data = load(Path(folder))
except ShoalError as e:
    sys.exit(f"error: {e}")
images, labels = next(data.batches(data.train, 2, rows=torch.tensor([0, len(data.train) - 1])))
print(len(data.train), images.shape[0], labels.tolist())
"""


def sparse(prepared, folder, images):
    """A copy with that many train images, 1×32×32, in a file that holds nothing but its header."""
    shutil.copytree(prepared, folder)
    with (folder / "train_images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (images, 1, 32, 32)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + images * 1024)
    np.save(folder / "train_labels.npy", np.arange(images) % 10)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["counts"]["train"] = {"all": images}
    for name in ("train_images.npy", "train_labels.npy"):
        manifest["sha256"][name] = file_sha256(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("limit", "answer"),
    [
        ("DATA", r"300000 2 \[0, 9\]"),  # what is mapped for reading alone counts as no data
        ("AS", r"error: .*train_images.npy has 307,200,128 bytes, more than this process may map"),
    ],
)
def test_images_may_exceed_the_memory_but_not_the_address_space(prepared, tmp_path, limit, answer):
    folder = sparse(prepared, tmp_path / "large", 300_000)
    command = [sys.executable, "-c", WITH_LITTLE_MEMORY, limit, "150", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    [line] = (done.stdout + done.stderr).splitlines()
    assert re.match(answer, line)
    assert done.returncode == (answer[0] == "e")


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_value_altered_after_prepare_is_noticed(prepared, tmp_path, split, kind):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    load(folder)
    path = folder / f"{split}_{kind}.npy"
    np.save(path, np.roll(np.load(path), 1, axis=0))
    with pytest.raises(ArtifactError, match=f"{path.name} has changed since it was written"):
        load(folder)


def test_an_unchanged_file_is_hashed_once(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, hashed = shutil.copytree(prepared, tmp_path / "copy"), []
    path = folder / "test_labels.npy"
    monkeypatch.setattr(artifacts, "SETTLED_NS", -(10**18))  # as if written long ago
    monkeypatch.setattr(artifacts, "file_sha256", lambda p: hashed.append(p.name) or file_sha256(p))
    load(folder)
    assert len(hashed) == 6
    load(folder)
    assert len(hashed) == 6
    times = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as an unpacked archive has it
    with pytest.raises(ArtifactError, match=r"test_labels.npy has changed"):
        load(folder)
    (tmp_path / ".cache" / "sha256.json").write_text("[1")
    with pytest.raises(ArtifactError, match=r"test_labels.npy has changed"):
        load(folder)


def test_what_was_just_written_is_hashed_again(prepared, tmp_path, monkeypatch):
    """A second write at the same time of the clock would not show in the file's times."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(artifacts, "SETTLED_NS", 10**18)
    load(shutil.copytree(prepared, tmp_path / "copy"))
    assert not (tmp_path / ".cache" / "sha256.json").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def other_length(path):
    np.save(path, np.load(path)[:-1])


def other_type(path):
    np.save(path, np.load(path).astype(np.int32))


def not_an_array(path):
    path.write_bytes(b"text")


CHANGED = "has changed since it was written .*; delete its folder and run `dvc repro"
MISSING = "is missing; `dvc repro` makes it"


def no_header(path):
    path.write_bytes(path.read_bytes().replace(b"}", b"{"))


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((damage, CHANGED) for damage in (truncate, other_length, other_type, not_an_array)),
        *((damage, CHANGED) for damage in (no_header, lambda path: path.write_bytes(b""))),
        *((damage, MISSING) for damage in (a_folder, lambda path: path.unlink())),
    ],
)
@pytest.mark.parametrize("name", ["train_images.npy", "validation_labels.npy"])
def test_damaged_files_are_named(prepared, tmp_path, name, damage, message):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    damage(folder / name)
    with pytest.raises(ArtifactError, match=f"{name} {message}"):
        load(folder)


@pytest.mark.parametrize("damage", [other_length, other_type])
def test_files_of_another_preparation_than_the_manifest_says(prepared, tmp_path, damage):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    path = folder / "test_labels.npy"
    damage(path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][path.name] = file_sha256(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"holds int.*, but its manifest says int64 \(500,"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("std"), r"is not what this version of Shoal writes \(std: Field required"),
        (lambda m: m.pop("sha256"), r"is not what .* \(sha256: Field required"),
        (lambda m: m.update(counts=[]), r"is not what .* \(counts: "),
        (lambda m: m["counts"].pop("test"), r"is not what .* \(counts.test: Field required"),
        (lambda m: m.update(image_size="x"), r"is not what .* \(image_size: "),
        (lambda m: m.update(mean=[]), "has not one mean and std for each of 1 channels; delete"),
    ],
)
def test_a_manifest_of_another_form(prepared, tmp_path, change, message):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=rf"manifest.json {message}"):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "1"])
def test_a_manifest_that_is_none(prepared, tmp_path, content):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"manifest.json (is not|holds no) .*`dvc repro`"):
        load(folder)


def test_nothing_prepared(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest.json is missing; `dvc repro` makes it"):
        load(tmp_path)


# --- batches --------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 2**31), st.booleans())
def test_every_image_comes_once_with_its_label(n, batch_size, seed, shuffled):
    generator = seeded(seed) if shuffled else None
    got = list(batches(numbered(n), batch_size, generator=generator))
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
                source, 7, generator=seeded(seed) if shuffled else None, rows=rows
            )
        ]
        for source, rows in (
            (split, split.draw(wanted, seed)),
            (split.sample(wanted, seed), None),
        )
    )
    assert in_place == copied


@pytest.mark.parametrize(
    ("n", "sizes"), [(129, [129]), (257, [128, 129]), (130, [128, 2]), (1, [1])]
)
def test_a_single_image_left_over_joins_the_batch_before_it(n, sizes):
    assert [len(labels) for _, labels in batches(numbered(n), 128)] == sizes


@given(st.integers(1, 200), st.integers(2, 40), st.integers(1, 9), st.integers(0, 99))
def test_processes_share_the_batches_that_one_alone_would_see(n, batch_size, processes, seed):
    def loader(share):
        return batches(numbered(n), batch_size, generator=seeded(seed), share=share)

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
        labels_of(batches(split, 32, generator=seeded(seed))) for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    generator = seeded(1)
    assert labels_of(batches(split, 32, generator=generator)) == one
    assert labels_of(batches(split, 32, generator=generator)) != one  # the next epoch


def test_normalisation_is_per_channel():
    images = torch.randint(0, 256, (5, 3, 4, 4), generator=seeded(), dtype=torch.uint8)
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]
    split = Split(images, torch.zeros(5).long())
    got = of(split).normalised_by(mean, std).normalised(split)
    wanted = (images.double() / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(
        std
    ).reshape(3, 1, 1)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-6)


def test_augment_needs_a_generator():
    with pytest.raises(ValueError, match="pass a generator"):
        next(batches(numbered(4), 2, augment=lambda images, _: images))


def test_a_sample_is_seeded_and_without_repetition():
    split = numbered(100)
    one, again, other = (split.sample(30, seed).labels.tolist() for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert len(set(one)) == 30
    sample = split.sample(30)
    assert torch.equal(sample.images[:, 0, 0, 0].long(), sample.labels)
    assert sorted(split.sample(1000).labels.tolist()) == list(range(100))


@pytest.mark.parametrize("rows", [slice(2, 4), torch.tensor([2, 3])])
def test_rows_of_a_split_keep_their_labels(rows):
    part = numbered(9)[rows]
    assert part.labels.tolist() == part.images[:, 0, 0, 0].tolist() == [2, 3]


# --- accuracy -------------------------------------------------------------------------------


def test_accuracy_is_that_of_batches_of_one_size():
    data = of(Split(numbered(600).images, torch.arange(600) % 2))
    sizes = []

    def always_the_first(images):
        sizes.append(len(images))
        return torch.tensor([[1.0, 0.0]]).expand(len(images), 2)

    assert data.validation_accuracy_pct(always_the_first) == 50
    assert sizes == [EVALUATION_BATCH, EVALUATION_BATCH, 88]
    assert data.accuracy_pct(data.test[:1], always_the_first, "cpu") == 100


@pytest.mark.parametrize(
    ("size", "expected"), [(28, 256), (32, 256), (64, 256), (96, 113), (224, 20), (256, 16)]
)
def test_fewer_large_images_are_evaluated_at_once(size: int, expected: int):
    data = dataclasses.replace(of(numbered(600)), image_size=size)
    assert data.evaluation_batch == expected
    assert len(next(data.batches(data.train))[0]) == expected
    assert dataclasses.replace(data, image_size=4096).evaluation_batch == 4
