"""From an image file to the network's input, by the rules in preprocessing.json.

Bit for bit what the training pipeline does with the same file.
"""

import errno
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edge.checks import BundleError
from edge.files import Bundle, checked, read_json

Pixels = NDArray[np.uint8]  # (c, h, w)
Input = NDArray[np.float32]  # (1, c, size, size)

GREY_MODES = ("1", "L", "LA", "La", "F")  # and those of 16 and 32 bits, I;16 and so on
# A larger file would take gigabytes before it is shrunk: no photograph, or a decompression bomb.
MAX_PIXELS = 89_000_000
Image.MAX_IMAGE_PIXELS = None  # `MAX_PIXELS` is the limit
# What Pillow's decoders raise on damaged files.
DECODING_ERRORS = (
    *(OSError, ValueError, RuntimeError, TypeError, LookupError, SyntaxError, EOFError),
    *(OverflowError, struct.error, zlib.error, Image.DecompressionBombError),
)


@dataclass(frozen=True)
class Rules:
    """How an image becomes an input."""

    size: int  # height and width of the input
    channels: int  # 1 (grey) or 3 (RGB)
    fit: str  # "pad" (shrink to fit, black around it) or "crop" (the central square, scaled)
    mean: list[float]  # per channel, of pixels scaled to 0..1
    std: list[float]
    transparent: str = "black"  # the colour that shows through transparent parts
    bits: int = 16  # that files of 16-bit values use


# Of preprocessing.json: what is read here.
RULES = {
    **{"size": int, "channels": int, "fit": str, "mean": [float], "std": [float]},
    **{"transparent": str, "bits": int},
}


def read_rules(bundle: Bundle) -> Rules:
    """Return the rules in the bundle's preprocessing.json.

    Raises:
        BundleError: it is missing, altered, or no rules for the network's input.
    """
    values = read_json(checked(bundle, "preprocessing.json"), RULES)
    rules = Rules(**{name: values[name] for name in Rules.__dataclass_fields__})
    if problem := _no_rules(rules, bundle.manifest["input"]["shape"][1:]):
        raise BundleError(f"preprocessing.json is damaged: {problem}; unpack the bundle again")
    return rules


def read_labels(bundle: Bundle) -> list[str]:
    """Return the classes by label.

    Raises:
        BundleError: labels.txt is missing, altered, or no text.
    """
    try:
        return checked(bundle, "labels.txt").read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as e:
        raise BundleError(f"labels.txt is damaged: {e}; unpack the bundle again") from e


def _no_rules(rules: Rules, shape: list[int]) -> str | None:
    """Return in words what is wrong with the values, for an input (c, h, w); None if nothing is."""
    if [rules.channels, rules.size, rules.size] != shape:
        return f"{rules.channels} channels of size {rules.size} are not the network's {shape}"
    if rules.channels not in (1, 3):
        return f"channels must be 1 or 3, is {rules.channels}"
    if rules.fit not in FITS or rules.transparent not in GROUNDS or not 8 <= rules.bits <= 16:
        return (
            f"fit {rules.fit!r}, transparent {rules.transparent!r} or bits {rules.bits} is none of "
            f"{', '.join(FITS)}; {', '.join(GROUNDS)}; 8 to 16"
        )
    if not len(rules.mean) == len(rules.std) == rules.channels or min(rules.std) <= 0:
        return f"mean and std must be {rules.channels} numbers, std above 0"
    return None


def load_image(path: Path, rules: Rules) -> Input:
    """Return an image file, of whatever size and kind, as one input of the network.

    Raises:
        BundleError: no such file, not an image, a damaged one, or one too large for this machine.
    """
    try:
        return normalise(
            _fitted(_with_channels(_decode(path, rules), rules.channels), rules), rules
        )
    except MemoryError as e:
        raise BundleError(f"{path} is too large for the memory of this machine") from e


def normalise(pixels: Pixels, rules: Rules) -> Input:
    """Return (pixels / 255 − mean) / std, in float32, as x · scale + shift."""
    means, stds = (np.array(v).reshape(-1, 1, 1) for v in (rules.mean, rules.std))
    scale, shift = (1 / (255 * stds)).astype(np.float32), (-means / stds).astype(np.float32)
    normalised: Input = (pixels.astype(np.float32) * scale + shift)[None]
    return normalised


def _decode(path: Path, rules: Rules) -> Pixels:
    """Return the pixels, upright by EXIF, grey or RGB."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise BundleError(f"{path} is no file, but a pipe, a socket or a device")
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BundleError(
                    f"{path} has {width}x{height} pixels, more than the {MAX_PIXELS:,} that are "
                    "read; make it smaller"
                )
            return _to_array(image, rules)
    except UnidentifiedImageError as e:
        raise BundleError(f"{path} is not an image, or damaged at its start") from e
    except OSError as e:
        if e.errno not in (None, errno.EINVAL):  # the latter of a damaged offset
            raise BundleError(f"cannot read {path}: {e.strerror}") from e
        raise BundleError(f"{path} is damaged: {e}") from e
    except DECODING_ERRORS as e:
        raise BundleError(f"{path} is damaged: {e}") from e


def _to_array(image: Image.Image, rules: Rules) -> Pixels:
    # Unknown once the pixels are read.
    has_16_bits = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        return _upper_8_bits(np.asarray(image), rules.bits)[None]
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store them with 8 or 16 bits")
    if has_16_bits and rules.bits != 16:  # Pillow gives their upper 8
        raise ValueError("colour of 16 bits is read as its upper 8; store it with 8 bits")
    mode = "RGB" if _is_colour(image) else "L"
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, rules.transparent)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[None] if mode == "L" else np.moveaxis(pixels, -1, 0)  # (h, w, 3) -> (3, h, w)


def _upper_8_bits(pixels: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high >= 2**bits:
        raise ValueError(f"values {low} to {high} do not fit into {bits} bits")
    return (pixels >> (bits - 8)).astype(np.uint8)


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
    luma = np.full_like(pixels[:1], 32768, dtype=np.uint32)
    for channel, weight in enumerate((19595, 38470, 7471)):
        luma += np.multiply(pixels[channel], weight, dtype=np.uint32)
    grey: Pixels = (luma >> 16).astype(np.uint8)
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
GROUNDS = ("black", "grey", "white")


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale by a bicubic filter, which Pillow widens when shrinking (no aliasing)."""
    if pixels.shape[1:] == (height, width):
        return pixels
    grey = len(pixels) == 1
    image = Image.fromarray(pixels[0] if grey else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    scaled = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    fitted: Pixels = scaled[None] if grey else np.moveaxis(scaled, -1, 0)
    return fitted
