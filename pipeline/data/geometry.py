"""Images of any size and number of channels to the ones that a network takes."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.data.source import Pixels

Fit = Callable[[Pixels, int], Pixels]


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Return grey images as colour, or colour ones as grey by the luma of ITU-R 601."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.repeat(3, axis=1)
    luma = np.full_like(pixels[:, :1], 32768, dtype=np.uint32)
    for channel, weight in enumerate((19595, 38470, 7471)):
        luma += np.multiply(pixels[:, channel : channel + 1], weight, dtype=np.uint32)
    return (luma >> 16).astype(np.uint8)


def _pad(pixels: Pixels, size: int) -> Pixels:
    """Shrink to fit into the square where larger, aspect kept; fill up with black around."""
    scale = min(1, size / max(pixels.shape[2:]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[2:])
    top, left = (size - height) // 2, (size - width) // 2
    padded = np.zeros((*pixels.shape[:2], size, size), dtype=np.uint8)
    padded[:, :, top : top + height, left : left + width] = _resize(pixels, height, width)
    return padded


def _crop(pixels: Pixels, size: int) -> Pixels:
    """Cut out the central square and scale it: the shorter side becomes `size`."""
    height, width = pixels.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resize(pixels[:, :, top : top + side, left : left + side], size, size)


FITS: dict[str, Fit] = {"pad": _pad, "crop": _crop}


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale every image by a bicubic filter, which Pillow widens when shrinking (no aliasing)."""
    if pixels.shape[2:] == (height, width):
        return pixels
    bicubic = Image.Resampling.BICUBIC
    channels = (Image.fromarray(channel) for image in pixels for channel in image)
    scaled = [np.asarray(channel.resize((width, height), bicubic)) for channel in channels]
    return np.stack(scaled).reshape(*pixels.shape[:2], height, width)
