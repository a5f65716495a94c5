import json
import shutil
import struct
import tracemalloc
from zlib import compress, crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.errors import DataError
from models.hashing import file_sha256
from pipeline.core.params import Prepare
from pipeline.data.geometry import FITS
from pipeline.data.prepare import SOURCES, _channel_statistics, prepare
from pipeline.data.published.fashion_mnist import read_files
from pipeline.data.reading import Reading

SPLITS = ("train", "validation", "test")
FULL = {split: {"cat": 4, "dog": 6} for split in ("train", "val", "test")}


def prepared_arrays(folder):
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


@pytest.fixture
def run(tmp_path):
    """Prepare an image folder; return the manifest and the arrays."""

    def run(root, **options):
        target = tmp_path / "out"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        defaults = {"source": "image_folder", "path": str(root), "image_size": 16}
        return prepare(Prepare(**(defaults | options)), target), prepared_arrays(target)

    return run


def test_all_of_fashion_mnist(fashion_mnist, tmp_path):
    """54,000 + 6,000 + 10,000 images padded to 32, statistics as NumPy gives them."""
    params = Prepare(source="fashion_mnist", path=str(fashion_mnist), image_size=32)
    manifest = prepare(params, tmp_path)
    arrays = prepared_arrays(tmp_path)

    assert arrays["train_images"].shape == (54000, 1, 32, 32)
    assert arrays["validation_images"].shape == (6000, 1, 32, 32)
    published = read_files(fashion_mnist)
    np.testing.assert_array_equal(
        arrays["test_images"][:, 0],
        np.pad(published["t10k-images-idx3-ubyte"], [(0, 0), (2, 2), (2, 2)]),
    )
    np.testing.assert_array_equal(arrays["test_labels"], published["t10k-labels-idx1-ubyte"])
    pixels = arrays["train_images"].astype(np.float64) / 255
    assert manifest["mean"] == pytest.approx([pixels.mean()], rel=1e-12)
    assert manifest["std"] == pytest.approx([pixels.std()], rel=1e-12)
    assert manifest["counts"]["train"]["Ankle boot"] == 5400


def test_manifest_says_what_is_there(run, write_images, tmp_path):
    manifest, arrays = run(write_images(FULL), validation_fraction=0.3)
    counts = {"cat": 4, "dog": 6}
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest == {
        "source": "image_folder",
        "classes": ["cat", "dog"],
        "image_size": 16,
        "fit": "pad",
        "transparent": "black",
        "bits": 16,
        "channels": 1,
        "mean": manifest["mean"],
        "std": manifest["std"],
        "counts": dict.fromkeys(SPLITS, counts),
        "skipped": [],
        "warnings": [],
        "sha256": {f"{n}.npy": file_sha256(tmp_path / "out" / f"{n}.npy") for n in sorted(arrays)},
    }
    assert {name: (a.dtype.name, a.shape) for name, a in arrays.items()} == {
        **{f"{split}_images": ("uint8", (10, 1, 16, 16)) for split in SPLITS},
        **{f"{split}_labels": ("int64", (10,)) for split in SPLITS},
    }


@pytest.mark.parametrize("source", ["image_folder", "fashion_mnist"])
def test_the_same_seed_gives_the_same_bytes(run, write_images, fashion_mnist, source):
    root = write_images({"train": {"cat": 40, "dog": 60}})
    options = {"source": source, "path": str(root)}
    if source == "fashion_mnist":
        options |= {"path": str(fashion_mnist), "limit": 100}
    first, again, other = (run(root, **options, seed=seed)[0] for seed in (3, 3, 4))
    assert first == again
    assert first["sha256"].keys() == other["sha256"].keys()
    assert first["sha256"]["train_images.npy"] != other["sha256"]["train_images.npy"]


# --- corrupt images -------------------------------------------------------------------------


def test_a_corrupt_image_is_fatal_by_default(run, write_images):
    root = write_images(FULL)
    (root / "val" / "dog" / "003.png").write_bytes(b"\x89PNG")
    with pytest.raises(
        DataError, match=r"^val/dog/003.png cannot be read as an image: not an imag"
    ):
        run(root)


def test_corrupt_images_are_skipped_and_counted_on_request(run, write_images):
    root = write_images(FULL)
    whole = (root / "train" / "dog" / "001.png").read_bytes()
    (root / "train" / "dog" / "001.png").write_bytes(whole[:-40])
    (root / "train" / "cat" / "000.png").write_bytes(b"")
    manifest, arrays = run(root, on_corrupt="skip")
    assert manifest["skipped"] == [
        {"file": "train/cat/000.png", "reason": "not an image, or damaged at its start"},
        {"file": "train/dog/001.png", "reason": manifest["skipped"][1]["reason"]},
    ]
    assert manifest["counts"]["train"] == {"cat": 3, "dog": 5}
    kept = [*[("cat", i) for i in (1, 2, 3)], *[("dog", i) for i in (0, 2, 3, 4, 5)]]
    assert arrays["train_labels"].tolist() == [0] * 3 + [1] * 5
    assert len(arrays["train_images"]) == len(kept)
    for image, (name, i) in zip(arrays["train_images"], kept, strict=True):
        pixels = np.asarray(Image.open(root / "train" / name / f"{i:03}.png"))
        np.testing.assert_array_equal(image[0], np.pad(pixels, [(3, 4), (2, 2)]))


def test_a_class_of_which_nothing_is_left(run, write_images):
    root = write_images(FULL)
    for path in (root / "test" / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        run(root, on_corrupt="skip")
    assert str(caught.value) == (
        "class 'cat' has no image left in test: all of its images were skipped as unreadable "
        "(4 skipped in test, the first test/cat/000.png); replace them"
    )


# --- limit ----------------------------------------------------------------------------------


def test_limit_takes_evenly_from_the_classes(run, write_images):
    root = write_images({split: {"a": 3, "b": 20, "c": 20} for split in ("train", "val", "test")})
    manifest, arrays = run(root, limit=12)
    whole = run(root)[1]
    for split in SPLITS:
        counts = manifest["counts"][split]
        assert sum(counts.values()) == 12
        assert counts["a"] == 3  # all there are
        assert sorted(counts.values()) == [3, 4, 5]
        drawn, there = labelled(arrays, split), labelled(whole, split)
        assert len(drawn) == 12
        assert drawn < there


def labelled(arrays, split):
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].tolist()
    return {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)}


def test_a_limit_above_what_is_there_changes_nothing(run, write_images):
    root = write_images(FULL)
    assert run(root, limit=10)[0] == run(root)[0]


def test_a_limit_below_the_number_of_classes(run, write_images):
    with pytest.raises(
        DataError, match="limit = 1 is less than the 2 classes; every class needs an"
    ):
        run(write_images(FULL), limit=1)


# --- channels and statistics ----------------------------------------------------------------


def test_one_colour_image_makes_all_of_them_colour(run, write_images):
    root = write_images(FULL)
    rng = np.random.default_rng(1)
    colour = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(colour).save(root / "test" / "dog" / "000.png")
    manifest, arrays = run(root)
    assert manifest["channels"] == 3
    np.testing.assert_array_equal(arrays["test_images"][4], np.moveaxis(colour, -1, 0))
    grey = arrays["train_images"]
    assert (grey == grey[:, :1]).all()
    assert manifest["mean"] == pytest.approx([(grey[:, 0] / 255).mean()] * 3)

    manifest, arrays = run(root, channels=1)
    assert manifest["channels"] == 1
    luma = np.asarray(Image.fromarray(colour).convert("L"))
    np.testing.assert_array_equal(arrays["test_images"][4, 0], luma)


def test_statistics_per_channel(run, write_images):
    root = write_images({"train": {"cat": 0, "dog": 0}})
    rng = np.random.default_rng(2)
    for i in range(20):
        pixels = (rng.random((16, 16, 3)) * [50, 100, 255]).astype(np.uint8)
        Image.fromarray(pixels).save(root / "train" / ("cat", "dog")[i % 2] / f"{i}.png")
    manifest, arrays = run(root)
    train = arrays["train_images"] / 255
    assert manifest["mean"] == pytest.approx(train.mean(axis=(0, 2, 3)).tolist(), rel=1e-12)
    assert manifest["std"] == pytest.approx(train.std(axis=(0, 2, 3)).tolist(), rel=1e-12)


def test_images_of_one_flat_colour_are_refused(run, write_images):
    root = write_images(FULL)
    for path in root.glob("train/*/*"):
        Image.new("RGB", (16, 16), (7, 200, 0)).save(path)
    with pytest.raises(DataError, match="channel 0 has the same value in all pixels of all train"):
        run(root)


def drawn_in_alpha(root, names):
    """Make images black, what is drawn on them in their transparency alone."""
    rng = np.random.default_rng(4)
    for name in names:
        rgba = np.zeros((16, 16, 4), dtype=np.uint8)
        rgba[..., 3] = rng.integers(0, 256, (16, 16))
        Image.fromarray(rgba).save(root / name)
    return root


def test_drawings_in_transparency_alone(run, write_images):
    root = write_images(FULL)
    names = [path.relative_to(root) for path in root.glob("train/*/*")]
    with pytest.raises(DataError) as caught:
        run(drawn_in_alpha(root, names))
    assert str(caught.value).endswith(
        "there is nothing to learn from: 10 have transparent parts: choose another ground for "
        "them than prepare.transparent = 'black'"
    )
    manifest, arrays = run(root, transparent="white")
    assert manifest["transparent"] == "white"
    assert manifest["warnings"] == []
    assert len(np.unique(arrays["train_images"])) > 200


def test_images_that_became_one_colour_are_counted(run, write_images, capsys):
    root = drawn_in_alpha(write_images(FULL), ["train/cat/001.png", "test/dog/004.png"])
    Image.new("RGBA", (9, 12), "white").save(root / "val" / "cat" / "000.png")  # opaque
    [warning] = run(root)[0]["warnings"]
    assert warning == (
        "3 images are of one colour (test/dog/004.png, train/cat/001.png, val/cat/000.png); 2 of "
        "them have transparent parts, through which shows prepare.transparent = 'black'"
    )
    assert f"warning: {warning}" in capsys.readouterr().err


# --- bits -----------------------------------------------------------------------------------


def deep(root, bits, shape=(12, 9)):
    """Make images of 16 bits, which use some of them."""
    rng = np.random.default_rng(5)
    for path in sorted(root.glob("*/*/*.png")):
        Image.fromarray(rng.integers(0, 2**bits, shape, dtype=np.uint16)).save(path)
    Image.fromarray(np.full((12, 9), 2**bits - 1, dtype=np.uint16)).save(path)
    return root


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_unused_bits_are_an_error_that_names_the_range(run, write_images, bits):
    root = deep(write_images(FULL), bits)
    with pytest.raises(DataError) as caught:
        run(root)
    assert str(caught.value) == (
        f"30 files of 16 bits hold values of 0 to {2**bits - 1}, which are {bits} bits; "
        f"set prepare.bits: {bits} (or 16, where the images are that dark)"
    )
    manifest, arrays = run(root, bits=bits)
    assert manifest["bits"] == bits
    assert len(np.unique(arrays["train_images"])) > 200
    assert arrays["train_images"].max() == 255
    if bits > 8:
        dark = run(root, bits=16)[1]["train_images"]
        assert dark.max() == 2**bits - 1 >> 8


def test_what_uses_16_bits_needs_no_option(run, write_images):
    assert run(deep(write_images(FULL), 15))[0]["bits"] == 16


def test_colour_of_16_bits_that_uses_12(run, write_images):
    """Pillow reads its upper 8 bits, whatever is asked for."""
    root = write_images(FULL)
    rng = np.random.default_rng(6)
    for path in root.glob("*/*/*.png"):
        rgb = rng.integers(0, 2**12, (12, 9, 3)).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in rgb)
        path.write_bytes(png(9, 12, 16, 2, rows))
    message = (
        r"30 files of 16 bits hold values of 0 to 4095, which are 12 bits; as colour of 16 bits"
    )
    with pytest.raises(DataError, match=message):
        run(root)
    with pytest.raises(DataError, match="colour of 16 bits is read as its upper 8; store it"):
        run(root, bits=12)
    assert run(root, bits=16)[1]["train_images"].max() == 15


def png(width, height, depth, colour, rows):
    """The bytes of a PNG; Pillow cannot write colour of 16 bits."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# --- copies ---------------------------------------------------------------------------------


def test_splits_that_are_copies_of_each_other(run, write_images, capsys):
    root = write_images({"train": FULL["train"]})
    for split in ("val", "test"):
        shutil.copytree(root / "train", root / split)
    some = (
        "({0}/cat/000.png = train/cat/000.png, {0}/cat/001.png = train/cat/001.png, "
        "{0}/cat/002.png = train/cat/002.png, …)"
    )
    leaks = [
        "10 of 10 validation images are in train too " + some.format("val"),
        "10 of 10 test images are in train too " + some.format("test"),
    ]
    manifest, _ = run(root)
    assert manifest["warnings"] == leaks
    assert capsys.readouterr().err.splitlines() == [f"warning: {leak}" for leak in leaks]
    with pytest.raises(DataError) as caught:
        run(root, on_leak="fail")
    assert str(caught.value) == (
        "; ".join(leaks) + "; remove the copies, or set prepare.on_leak: warn"
    )


@pytest.mark.parametrize("target", ["train/dog/copy.png", "test/dog/copy.tif"])
def test_an_image_in_two_classes(run, write_images, target):
    """Also as another file of the same pixels; a copy in its own class and split is no leak."""
    root = write_images(FULL)
    with Image.open(root / "train/cat/003.png") as image:
        image.save(root / target)
        image.save(root / "train" / "cat" / "again.png")
    found = run(root)[0]["warnings"]
    assert found[-1] == f"1 images are in two classes ({target} = train/cat/003.png)"
    assert len(found) == 1 + target.startswith("test")


def test_a_source_in_memory_names_copies_by_number(run, fashion_mnist):
    source = SOURCES["fashion_mnist"](
        Prepare(source="fashion_mnist", path=str(fashion_mnist), image_size=8)
    )
    rows = [source.splits[split].name(3).split() for split in SPLITS]
    assert [words[:2] for words in rows] == [
        ["train", "image"],
        ["train", "image"],
        ["test", "image"],
    ]
    assert rows[2][2] == "3"


# --- memory ---------------------------------------------------------------------------------


def test_small_chunks_give_the_same_bytes(run, fashion_mnist, monkeypatch):
    options = {"source": "fashion_mnist", "limit": 300}
    whole = run(fashion_mnist, **options)[0]
    for size in (1000, 1):
        monkeypatch.setattr("pipeline.data.prepare.CHUNK_BYTES", size)
        monkeypatch.setattr("pipeline.data.prepare.BUFFER_BYTES", 3 * size)
        assert run(fashion_mnist, **options)[0] == whole


def test_statistics_take_little_memory(run, write_images, monkeypatch, tmp_path):
    """A value is counted as 8 bytes: all of these at once are 80 MB."""
    monkeypatch.setattr("pipeline.data.prepare.CHUNK_BYTES", 2**18)
    root = write_images(FULL)
    tracemalloc.start()
    manifest, arrays = run(root, image_size=1024)
    shape = arrays["train_images"].shape
    del arrays
    tracemalloc.reset_peak()
    found = _channel_statistics(tmp_path / "out" / "train_images.npy", Reading())
    assert shape == (10, 1, 1024, 1024)
    assert found == (manifest["mean"], manifest["std"])
    assert tracemalloc.get_traced_memory()[1] - tracemalloc.get_traced_memory()[0] < 20e6
    tracemalloc.stop()


# --- geometry -------------------------------------------------------------------------------

sides = st.integers(1, 60)
targets = st.integers(8, 40)


@given(sides, sides, targets, st.sampled_from([1, 3]))
def test_pad_keeps_aspect_never_enlarges_and_centres(height, width, size, channels):
    pixels = np.full((2, channels, height, width), 200, dtype=np.uint8)
    padded = FITS["pad"](pixels, size)
    assert padded.shape == (2, channels, size, size)
    rows, columns = (
        np.flatnonzero(padded[0, 0].any(axis=1)),
        np.flatnonzero(padded[0, 0].any(axis=0)),
    )
    scale = min(1, size / height, size / width)
    for found, side in ((rows, height), (columns, width)):
        assert abs(len(found) - max(1, side * scale)) <= 0.5
        before, after = found[0], size - 1 - found[-1]
        assert after - before in (0, 1)
    assert (padded[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 200).all()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(20, 40), st.integers(0, 99))
def test_pad_leaves_pixels_that_fit_untouched(height, width, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 3, height, width), dtype=np.uint8)
    (top, bottom), (left, right) = ((d // 2, d - d // 2) for d in (size - height, size - width))
    wanted = np.pad(pixels, [(0, 0), (0, 0), (top, bottom), (left, right)])
    np.testing.assert_array_equal(FITS["pad"](pixels, size), wanted)


@given(st.integers(8, 60), st.integers(8, 60), targets, st.sampled_from([1, 3]))
def test_crop_scales_the_central_square(height, width, size, channels):
    """On ramps across x and y, each pixel shows the place it was taken from."""
    side = min(height, width)
    for axis, length in ((2, height), (3, width)):
        ramp = np.arange(length, dtype=np.uint8).reshape((-1, 1) if axis == 2 else (1, -1))
        pixels = np.broadcast_to(3 * ramp, (1, channels, height, width)).copy()
        cropped = FITS["crop"](pixels, size)
        assert cropped.shape == (1, channels, size, size)
        shown = cropped.mean(axis=tuple({0, 1, 2, 3} - {axis})) / 3
        places = (length - side) // 2 + (np.arange(size) + 0.5) * side / size - 0.5
        inner = slice(size // 4, -(size // 4))  # at the borders the filter sees less
        np.testing.assert_allclose(shown[inner], places[inner], atol=0.6)


# --- the stage ------------------------------------------------------------------------------


def test_the_stage_writes_artifacts_and_metrics(run_prepare_stage, write_images, tmp_path):
    done = run_prepare_stage(source="image_folder", path=str(write_images(FULL)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "prepared image_folder: 10 train, 10 validation, 10 test images of 1×16×16 in 2 classes, "
        "0 skipped"
    )
    manifest = (tmp_path / "artifacts" / "prepare" / "manifest.json").read_bytes()
    assert manifest == (tmp_path / "metrics" / "prepare.json").read_bytes()


def test_the_stage_fails_with_one_line(run_prepare_stage, write_images, tmp_path):
    root = write_images(FULL)
    (root / "train" / "cat" / "002.png").write_bytes(b"spoilt")
    done = run_prepare_stage(source="image_folder", path=str(root))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: train/cat/002.png cannot be read as an image: ")
    assert not (tmp_path / "metrics").exists()
    assert list((tmp_path / "artifacts").iterdir()) == []
