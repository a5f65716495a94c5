"""One image file to pixels: decoding, and telling whether it has colour."""

import errno
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from models.errors import DataError
from pipeline.sources import UnreadableImageError

GREY_MODES = ("1", "L", "LA", "La", "F")  # and those of 16 and 32 bits, I;16 and so on
# What Pillow's decoders raise on damaged files, beside an OSError of their own.
DECODING_ERRORS = (
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    SyntaxError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode(path: Path, root: Path) -> UInt8[np.ndarray, "c h w"]:
    """Return an image's pixels, upright by its EXIF orientation, grey (1) or colour (3).

    Transparent parts become black, as padding is; 16 bits become the upper 8; of an animation
    counts the first frame.

    Raises:
        UnreadableImageError: damaged, or in a form whose range is unknown; its file is named
            relative to `root`.
        DataError: the file system does not give the file's bytes.
    """
    name = printable(path.relative_to(root).as_posix())
    if _is_special(path):
        raise UnreadableImageError(name, "a pipe, a socket or a device, not a file")
    try:
        with Image.open(path) as image:
            return _to_array(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as e:
        raise UnreadableImageError(name, "not an image, or damaged at its start") from e
    except OSError as e:
        # Any code but that of a damaged offset means the disk or the rights: that is never skipped.
        if e.errno not in (None, errno.EINVAL):
            raise DataError(f"cannot read {printable(str(path))}: {e.strerror}") from e
        raise UnreadableImageError(name, str(e)) from e
    except DECODING_ERRORS as e:
        raise UnreadableImageError(name, f"{type(e).__name__}: {e}") from e


def printable(text: str) -> str:
    """Return a text in one line, what is no text in it escaped: a file's name may hold anything."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _is_special(path: Path) -> bool:
    """Tell what has a name but no contents to read: opening a pipe would wait for ever."""
    return path.exists() and not path.is_file()


def _to_array(image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
    if image.mode.startswith("I"):
        return _upper_8_of_16_bits(np.asarray(image))[None]
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store them with 8 or 16 bits")
    mode = "RGB" if _is_colour(image) else "L"
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    pixels = np.asarray(image.convert(mode))
    return pixels[None] if mode == "L" else np.moveaxis(pixels, -1, 0)  # (h, w, 3) -> (3, h, w)


def _upper_8_of_16_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"values {pixels.min()} to {pixels.max()} do not fit into 16 bits")
    return (pixels >> 8).astype(np.uint8)


def has_colour(path: Path) -> bool:
    """Tell from a file's header; a damaged file has none, and is reported when it is decoded."""
    if _is_special(path):
        return False
    try:
        with Image.open(path) as image:
            return _is_colour(image)
    except (OSError, *DECODING_ERRORS):
        return False


def _is_colour(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette()).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return image.mode not in GREY_MODES and not image.mode.startswith("I")
