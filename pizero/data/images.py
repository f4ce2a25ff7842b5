"""Pictures of any size as the square that a model reads."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def resize_with_pad(
    image: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Scale an image into a `size` x `size` square, keeping its shape, with black bars around it.

    Bilinear with antialiasing (PIL), new sides truncated to integers, the odd pixel at the bottom or right:
    what openpi's data pipeline and client do. An image of that size already is returned as it is.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    ratio = max(width / size, height / size)
    new_height, new_width = int(height / ratio), int(width / ratio)
    scaled = Image.fromarray(image).resize((new_width, new_height), resample=Image.Resampling.BILINEAR)
    canvas = np.zeros((size, size, 3), dtype=np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = np.asarray(scaled)
    return canvas


def decode_picture(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Return the pixels of a PNG or JPEG file, RGB."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
