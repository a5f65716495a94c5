"""From an image file to the network's input, by the rules in preprocessing.json.

Bit for bit what the training pipeline does with the same file.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edge.files import Bundle, BundleError, checked

Pixels = NDArray[np.uint8]  # (c, h, w)
Input = NDArray[np.float32]  # (1, c, size, size)

GREY_MODES = ("1", "L", "LA", "La", "F")  # and those of 16 and 32 bits, I;16 and so on
# What Pillow's decoders raise on damaged files.
DECODING_ERRORS = (
    OSError,
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


@dataclass(frozen=True)
class Rules:
    """How an image becomes an input.

    Attributes:
        size: height and width of the input.
        channels: 1 (grey) or 3 (RGB).
        fit: "pad" (shrink to fit, black around it) or "crop" (the central square, scaled).
        mean: per channel, of pixels scaled to 0..1.
        std: the same.
    """

    size: int
    channels: int
    fit: str
    mean: list[float]
    std: list[float]


def read_rules(bundle: Bundle) -> Rules:
    """Return the rules in the bundle's preprocessing.json."""
    values = json.loads(checked(bundle, "preprocessing.json").read_text(encoding="utf-8"))
    return Rules(**{name: values[name] for name in Rules.__dataclass_fields__})


def load_image(path: Path, rules: Rules) -> Input:
    """Return an image file, of whatever size and kind, as one input of the network.

    Raises:
        BundleError: no such file, not an image, or a damaged one.
    """
    return normalise(_fitted(_with_channels(_decode(path), rules.channels), rules), rules)


def normalise(pixels: Pixels, rules: Rules) -> Input:
    """Return (pixels / 255 − mean) / std, in float32, as x · scale + shift."""
    means, stds = (np.array(v).reshape(-1, 1, 1) for v in (rules.mean, rules.std))
    scale, shift = (1 / (255 * stds)).astype(np.float32), (-means / stds).astype(np.float32)
    normalised: Input = (pixels.astype(np.float32) * scale + shift)[None]
    return normalised


def _decode(path: Path) -> Pixels:
    """Return the pixels, upright by EXIF, grey or RGB; transparent parts become black."""
    try:
        with Image.open(path) as image:
            return _to_array(ImageOps.exif_transpose(image))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as e:
        raise BundleError(f"cannot read {path}: {e.strerror}") from e
    except UnidentifiedImageError as e:
        raise BundleError(f"{path} is not an image, or damaged at its start") from e
    except DECODING_ERRORS as e:
        raise BundleError(f"{path} is damaged: {e}") from e


def _to_array(image: Image.Image) -> Pixels:
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


def _upper_8_of_16_bits(pixels: NDArray[np.int32]) -> NDArray[np.uint8]:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"values {pixels.min()} to {pixels.max()} do not fit into 16 bits")
    return (pixels >> 8).astype(np.uint8)


def _is_colour(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette()).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return image.mode not in GREY_MODES and not image.mode.startswith("I")


def _with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Make grey images colour, or colour ones grey by the luma of ITU-R 601."""
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return pixels.repeat(3, axis=0)
    red, green, blue = pixels.astype(np.uint32)
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    grey: Pixels = luma[None].astype(np.uint8)
    return grey


def _fitted(pixels: Pixels, rules: Rules) -> Pixels:
    return FITS[rules.fit](pixels, rules.size)


def _pad(pixels: Pixels, size: int) -> Pixels:
    """Shrink to fit into the square where larger, aspect kept; fill up with black around."""
    height, width = pixels.shape[1:]
    scale = min(1, size / max(height, width))
    pixels = _resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    height, width = pixels.shape[1:]
    padded = np.zeros((len(pixels), size, size), dtype=np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    padded[:, top : top + height, left : left + width] = pixels
    return padded


def _crop(pixels: Pixels, size: int) -> Pixels:
    """Cut out the central square and scale it: the shorter side becomes `size`."""
    height, width = pixels.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resize(pixels[:, top : top + side, left : left + side], size, size)


FITS = {"pad": _pad, "crop": _crop}


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale by a bicubic filter, which Pillow widens when shrinking (no aliasing)."""
    if pixels.shape[1:] == (height, width):
        return pixels
    grey = len(pixels) == 1
    image = Image.fromarray(pixels[0] if grey else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    scaled = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    fitted: Pixels = scaled[None] if grey else np.moveaxis(scaled, -1, 0)
    return fitted
