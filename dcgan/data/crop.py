"""The crop rule: how an image of any size becomes S x S pixels."""

from __future__ import annotations

import re

import cv2
import numpy as np

from ..errors import DataError
from .decode import Limits


def fit_image(image: np.ndarray, size: int, crop: str = "tutorial", max_pixels: int = Limits.max_pixels) -> np.ndarray:
    """uint8 [S, S, 3] from uint8 [H, W, 3]: the short side becomes S = `size`, then S x S pixels are cut out.

    crop: `tutorial` - at the left, 10/64 of S below the top, as for CelebA's 64 x 78;  `center`;  `X,Y` - so many
    pixels of the resized image from its left and its top. Moved back inside where it would run out of the image.
    Shrinking averages areas, enlarging is bilinear. Raises DataError if the image is so elongated that it would
    become larger than `max_pixels`, ValueError for another `crop`.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    new_height, new_width = (max(size, round(side * size / short)) for side in (height, width))
    if new_height * new_width > max(max_pixels, size * size):
        raise DataError(f"too elongated: {width} x {height} pixels would become {new_width} x {new_height}")
    if short != size:
        how = cv2.INTER_AREA if short > size else cv2.INTER_LINEAR
        image = cv2.resize(image, (new_width, new_height), interpolation=how)
    x, y = crop_origin(crop, size, new_height, new_width)
    return image[y : y + size, x : x + size]


def crop_origin(crop: str, size: int, height: int, width: int) -> tuple[int, int]:
    """Left and top of the S x S pixels, S = `size`, that are cut out of a resized image. Raises ValueError."""
    if crop == "tutorial":
        x, y = 0, round(10 * size / 64)
    elif crop == "center":
        x, y = (width - size) // 2, (height - size) // 2
    else:
        found = re.fullmatch(r" *([0-9]{1,9}) *, *([0-9]{1,9}) *", crop)
        if not found:
            raise ValueError(f"crop must be tutorial, center, or X,Y in pixels (0,10 for instance), received {crop!r}")
        x, y = int(found.group(1)), int(found.group(2))
    return min(x, width - size), min(y, height - size)
