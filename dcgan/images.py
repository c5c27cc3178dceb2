"""Images as numbers: float [-1, 1] <-> uint8, titles, PNG files. Always RGB, channels first, top row first.

What inference needs too (`to_uint8`, `grid`, `encode`) is deploy/images.py, which stands alone.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from deploy.files import PathLike, atomic_write
from deploy.images import GAP, encode, grid, to_uint8

__all__ = ["GAP", "TITLE_HEIGHT", "encode", "grid", "side_by_side", "to_float", "to_uint8", "with_title", "write_png"]

TITLE_HEIGHT = 28  # pixels of the strip above a titled image


def to_float(images_uint8: np.ndarray) -> np.ndarray:
    """float32 images in [-1, 1] of the same shape from uint8; `to_uint8` gives the same levels back."""
    return images_uint8.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1.0)


def with_title(image_uint8: np.ndarray, title: str) -> np.ndarray:
    """The image uint8 [3, H, W] below a white strip with `title` in black; the text shrinks until it fits."""
    _, height, width = image_uint8.shape
    font = cv2.FONT_HERSHEY_SIMPLEX
    strip = np.full((TITLE_HEIGHT, width, 3), 255, np.uint8)
    (text_width, text_height), _ = cv2.getTextSize(title, font, 1.0, 1)
    scale = min(0.55, (width - 8) / max(text_width, 1))
    origin = (4, int((TITLE_HEIGHT + text_height * scale) / 2))
    cv2.putText(strip, title, origin, font, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip.transpose(2, 0, 1), image_uint8], axis=1)


def side_by_side(left_uint8: np.ndarray, right_uint8: np.ndarray, gap: int = 16) -> np.ndarray:
    """Two images uint8 [3, H, W] as one, with a white strip between; the lower one is filled up with white."""
    height = max(left_uint8.shape[1], right_uint8.shape[1])
    strip = np.full((3, height, gap), 255, np.uint8)
    left, right = (
        np.pad(image, ((0, 0), (0, height - image.shape[1]), (0, 0)), constant_values=255)
        for image in (left_uint8, right_uint8)
    )
    return np.concatenate([left, strip, right], axis=2)


def write_png(path: PathLike, image_uint8: np.ndarray, comment: str = "") -> None:
    """Write an RGB image, uint8 [3, H, W], as PNG with an ASCII comment, atomically."""
    encoded = encode(image_uint8, ".png", comment)
    with atomic_write(Path(path)) as stream:
        stream.write(encoded)
