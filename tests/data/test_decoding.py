import contextlib
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.errors import DataError, OutOfMemoryError
from pipeline.data import decoding
from pipeline.data.decoding import decode
from pipeline.data.reading import Reading, Turns
from pipeline.data.source import UnreadableImageError


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return decode(tmp_path / name, tmp_path)


ORIENTED = {  # EXIF tag 0x0112 -> how a viewer turns the stored pixels
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_orientation_is_honoured(tmp_path, orientation):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = saved(tmp_path, Image.fromarray(pixels), "x.png", exif=exif)
    np.testing.assert_array_equal(got, ORIENTED[orientation](pixels)[None])


def test_forms_of_pixels(tmp_path):
    """Colour stays, palettes are looked up, transparent is black, 16 bits lose the lower 8."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    channels_first = np.moveaxis(rgb, -1, 0)
    np.testing.assert_array_equal(saved(tmp_path, Image.fromarray(rgb), "a.png"), channels_first)
    few = Image.fromarray(rgb).quantize(8)
    wanted = np.moveaxis(np.asarray(few.convert("RGB")), -1, 0)
    np.testing.assert_array_equal(saved(tmp_path, few, "b.png"), wanted)

    alpha = np.where(np.arange(35).reshape(5, 7) % 2, 255, 0).astype(np.uint8)
    rgba = Image.fromarray(np.dstack([rgb, alpha]))
    np.testing.assert_array_equal(saved(tmp_path, rgba, "c.png"), channels_first * (alpha > 0))
    grey_alpha = Image.merge("LA", [Image.fromarray(rgb[:, :, 0]), Image.fromarray(alpha)])
    wanted = rgb[None, :, :, 0] * (alpha > 0)
    np.testing.assert_array_equal(saved(tmp_path, grey_alpha, "d.png"), wanted)

    deep = rng.integers(0, 65536, (5, 7), dtype=np.uint16)
    for name in ("e.png", "e.tif", "e.pgm"):
        np.testing.assert_array_equal(
            saved(tmp_path, Image.fromarray(deep), name), deep[None] // 256
        )
    black_white = Image.fromarray(alpha).convert("1")
    np.testing.assert_array_equal(saved(tmp_path, black_white, "f.png"), alpha[None])


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.bmp", "x.tif", "x.jp2", "x.avif", "x.tga"])
def test_usual_formats(tmp_path, name):
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    pixels = saved(tmp_path, Image.fromarray(np.dstack([ramp, ramp.T, ramp])), name)
    assert pixels.shape == (3, 64, 64)
    assert abs(pixels[1].astype(int) - ramp.T).mean() < 6


def test_cmyk_becomes_rgb(tmp_path):
    pixels = saved(tmp_path, Image.new("RGB", (8, 8), (250, 10, 10)).convert("CMYK"), "x.jpg")
    assert abs(pixels[:, 4, 4].astype(int) - [250, 10, 10]).max() < 30


def test_pixels_of_unknown_range_are_refused(tmp_path):
    for mode, reason in (("F", "floating-point pixels"), ("I", "do not fit into 16 bits")):
        image = Image.new(mode, (4, 4), 70000)
        with pytest.raises(UnreadableImageError, match=reason):
            saved(tmp_path, image, f"{mode}.tif")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"just text", b"\x89PNG\r\n\x1a\n"])
def test_a_corrupt_image_is_named_relative_to_the_root(tmp_path, content):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "x.png").write_bytes(content)
    with pytest.raises(UnreadableImageError) as caught:
        decode(tmp_path / "cat" / "x.png", tmp_path)
    assert caught.value.file == "cat/x.png"
    assert str(caught.value) == (
        f"cat/x.png cannot be read as an image: {caught.value.reason}; replace or remove it, "
        "or set prepare.on_corrupt: skip"
    )


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd files in many ways, and reads on
@settings(max_examples=200)
@given(data=st.data())
def test_damage_is_either_harmless_or_reported(data, tmp_path_factory):
    """No other exception than UnreadableImageError, whatever bytes are cut or changed."""
    folder = tmp_path_factory.getbasetemp()
    suffix = data.draw(st.sampled_from([".png", ".jpg", ".gif", ".bmp", ".webp", ".ppm"]))
    path = folder / f"damaged{suffix}"
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    image.save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(UnreadableImageError):
        assert decode(path, folder).dtype == np.uint8


def test_an_image_too_large_to_be_honest_is_refused(tmp_path):
    """A header that claims 100,000 × 100,000 pixels (a decompression bomb)."""
    size = struct.pack("<ii", 100_000, 100_000)
    Image.new("L", (4, 4)).save(tmp_path / "x.bmp")
    content = (tmp_path / "x.bmp").read_bytes()
    (tmp_path / "x.bmp").write_bytes(content[:18] + size + content[26:])
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        decode(tmp_path / "x.bmp", tmp_path)


def test_a_limit_of_pixels_names_the_file_and_the_option(tmp_path):
    Image.new("L", (1500, 1000)).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", tmp_path, Reading(max_megapixels=1.5)).shape == (
        1,
        1000,
        1500,
    )
    with pytest.raises(UnreadableImageError) as caught:
        decode(tmp_path / "x.png", tmp_path, Reading(max_megapixels=1.4))
    assert "x.png cannot be read as an image: ValueError: 1500×1000 pixels are " in str(
        caught.value
    )
    assert "more than prepare.max_megapixels = 1.4 allows; replace" in str(caught.value)


def test_a_shortage_of_memory_names_the_file(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "x.png")

    def finish(pixels):
        raise MemoryError  # as Pillow does

    with pytest.raises(
        OutOfMemoryError, match=r"\(an allocation failed\); x.png was being read: make it smaller"
    ):
        decode(tmp_path / "x.png", tmp_path, finish=finish)


def test_what_is_held_at_once_stays_below_the_limit():
    turns, held, most = Turns(10), [], []

    def hold(amount):
        with turns.holding(amount):
            held.append(amount)
            most.append(sum(held))
            time.sleep(0.001)
            held.remove(amount)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, [3, 4, 50, 2, 9, 1, 10, 5] * 3))
    assert not held
    assert max(value for value in most if value != 50) <= 10
    assert most.count(50) == 3  # one alone always may


def test_files_are_held_until_they_are_finished(tmp_path):
    Image.new("L", (40, 40)).save(tmp_path / "x.png")
    reading, inside = Reading(turns=Turns(1600)), []

    def finish(pixels):
        inside.append(pixels.shape)
        time.sleep(0.001)
        assert len(inside) == 1
        inside.pop()
        return pixels

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(
            lambda _: decode(tmp_path / "x.png", tmp_path, reading, finish), range(8)
        ):
            pass


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_upper_8_of_the_bits_that_are_used(tmp_path, bits):
    deep = np.arange(0, 2**bits, 2 ** (bits - 8), dtype=np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "x.png")
    pixels = decode(tmp_path / "x.png", tmp_path, Reading(bits=bits))
    np.testing.assert_array_equal(pixels[0], np.arange(256).reshape(16, 16))
    with pytest.raises(UnreadableImageError, match=r"values 0 to .* do not fit into 11 bits"):
        Image.fromarray(np.array([[0, 2048]], dtype=np.uint16)).save(tmp_path / "x.png")
        decode(tmp_path / "x.png", tmp_path, Reading(bits=11))


@pytest.mark.parametrize("ground", [("black", 0), ("grey", 128), ("white", 255)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_shows_through_transparent_parts(tmp_path, monkeypatch, mode, ground):
    monkeypatch.setattr(decoding, "STRIP_PIXELS", 14)  # two rows
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (5, 7, 4), dtype=np.uint8))
    image = rgba.quantize(9) if mode == "P" else rgba.convert(mode)
    image.save(tmp_path / "x.png")
    pixels = decode(tmp_path / "x.png", tmp_path, Reading(transparent=ground[0]))
    behind = Image.new("RGBA", (7, 5), (ground[1],) * 3 + (255,))
    with Image.open(tmp_path / "x.png") as read:
        wanted = Image.alpha_composite(behind, read.convert("RGBA"))
    wanted = wanted.convert("L" if mode == "LA" else "RGB")
    np.testing.assert_array_equal(pixels, np.moveaxis(np.atleast_3d(np.asarray(wanted)), -1, 0))


def test_a_file_the_system_does_not_give_is_never_skipped(tmp_path):
    (tmp_path / "x.png").symlink_to(tmp_path / "missing.png")
    with pytest.raises(DataError, match=r"cannot read .*x.png: No such file") as caught:
        decode(tmp_path / "x.png", tmp_path)
    assert not isinstance(caught.value, UnreadableImageError)
