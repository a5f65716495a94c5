"""One image file to pixels: decoding, and whether it has colour.

Large files are held few at a time, whatever the number of threads.
"""

import errno
import struct
import zlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from models.errors import DataError, enough_memory, printable
from pipeline.data.reading import Reading
from pipeline.data.source import Finish, UnreadableImageError, as_read

GREY_MODES = ("1", "L", "LA", "La", "F", "I")  # and those of 16 bits, I;16 and so on
# What Pillow's decoders raise on damaged files, beside an OSError of their own.
DECODING_ERRORS = (
    *(ValueError, RuntimeError, TypeError, LookupError, SyntaxError, EOFError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


STRIP_PIXELS = 2**20
Image.MAX_IMAGE_PIXELS = None  # `Reading.max_megapixels` is the limit, which a user can raise


def decode(
    path: Path,
    root: Path,
    reading: Reading | None = None,
    finish: Finish = as_read,
) -> UInt8[np.ndarray, "..."]:
    """Return what `finish` makes of an image's pixels.

    They are upright by the EXIF orientation, grey (1, h, w) or colour (3, h, w). Through
    transparent parts shows `transparent`; 16 bits become the upper 8; of an animation the first
    frame is used.

    Raises:
        UnreadableImageError: damaged, too large, or in a form whose range is unknown; its file is
            named relative to `root`.
        DataError: the file system does not give the file's bytes.
        OutOfMemoryError: the memory is too short for it.
    """
    name = printable(path.relative_to(root).as_posix())
    remedy = f"{name} was being read: make it smaller, or lower prepare.max_megapixels and skip it"
    with enough_memory(remedy), ExitStack() as turn:
        return finish(_decoded(path, name, reading or Reading(), turn))


def _decoded(
    path: Path, name: str, reading: Reading, turn: ExitStack
) -> UInt8[np.ndarray, "c h w"]:
    if _is_special(path):
        raise UnreadableImageError(name, "a pipe, a socket or a device, not a file")
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > reading.max_megapixels * 1e6:
                raise ValueError(
                    f"{width}×{height} pixels are a decompression bomb, or more than "
                    f"prepare.max_megapixels = {reading.max_megapixels:g} allows"
                )
            turn.enter_context(reading.turns.holding(width * height))
            return _to_array(image, name, reading)
    except UnidentifiedImageError as e:
        raise UnreadableImageError(name, "not an image, or damaged at its start") from e
    except OSError as e:
        # Any code but that of a damaged offset means the disk or the rights: that is never skipped.
        if e.errno not in (None, errno.EINVAL):
            raise DataError(f"cannot read {printable(str(path))}: {e.strerror}") from e
        raise UnreadableImageError(name, str(e)) from e
    except DECODING_ERRORS as e:
        raise UnreadableImageError(name, f"{type(e).__name__}: {e}") from e


def examples(names: Sequence[str]) -> str:
    """Return the first names in one line."""
    return ", ".join(map(printable, names[:3])) + ", …" * (len(names) > 3)


def _is_special(path: Path) -> bool:
    """Return whether it has a name but no contents: opening a pipe would wait for ever."""
    return path.exists() and not path.is_file()


def _to_array(image: Image.Image, name: str, reading: Reading) -> UInt8[np.ndarray, "c h w"]:
    has_16_bits = any(
        ";16" in str(tile) for tile in getattr(image, "tile", ())
    )  # unknown once they are read
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        return _upper_8_bits(np.asarray(image), name, reading)[None]
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store them with 8 or 16 bits")
    mode = "RGB" if _is_colour(image) else "L"
    shown = image
    if image.has_transparency_data:
        shown = _on_ground(image, reading.transparent, mode)
    elif image.mode != mode:
        shown = image.convert(mode)
    if shown.getcolors(1):
        reading.flat[name] = bool((np.asarray(image.convert("RGBA"))[..., 3] < 255).any())
    pixels = np.asarray(shown)
    if has_16_bits:  # Pillow gave their upper 8
        if reading.bits not in (None, 16):
            raise ValueError("colour of 16 bits is read as its upper 8; store it with 8 bits")
        reading.largest_in_colour.append(256 * int(pixels.max()) + 255)
    return pixels[None] if mode == "L" else np.moveaxis(pixels, -1, 0)  # (h, w, 3) -> (3, h, w)


def _on_ground(image: Image.Image, ground: str, mode: str) -> Image.Image:
    """Return what shows of an image on a ground; in strips, as it takes 16 bytes for a pixel."""
    flat = Image.new(mode, image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image.crop((0, top, image.width, bottom)).convert("RGBA")
        ground_strip = Image.new("RGBA", strip.size, ground)
        flat.paste(Image.alpha_composite(ground_strip, strip).convert(mode), (0, top))
    return flat


def _upper_8_bits(pixels: np.ndarray, name: str, reading: Reading) -> UInt8[np.ndarray, "h w"]:
    bits, low, high = reading.bits or 16, int(pixels.min()), int(pixels.max())
    if low < 0 or high >= 2**bits:
        raise ValueError(f"values {low} to {high} do not fit into {bits} bits")
    if low == high:
        reading.flat[name] = False
    reading.largest.append(high)
    return (pixels >> (bits - 8)).astype(np.uint8)


def has_colour(path: Path) -> bool:
    """Return what a file's header says; a damaged file is reported when it is decoded."""
    with suppress(OSError, *DECODING_ERRORS):
        if not _is_special(path):
            with Image.open(path) as image:
                return _is_colour(image)
    return False


def _is_colour(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette()).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return image.mode.partition(";")[0] not in GREY_MODES
