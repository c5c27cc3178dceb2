"""Images as numbers: float [-1, 1] <-> uint8, grids, PNG files. Always RGB, channels first, top row first."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from .files import PathLike, atomic_write

TITLE_HEIGHT = 28  # pixels of the strip above a titled image
GAP = 2  # white pixels between the images of a grid


def to_uint8(images: np.ndarray) -> np.ndarray:
    """uint8 images of the same shape from floats in [-1, 1]: -1 -> 0, 1 -> 255, rounded to the nearest level."""
    return np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def to_float(images_uint8: np.ndarray) -> np.ndarray:
    """float32 images in [-1, 1] of the same shape from uint8; `to_uint8` gives the same levels back."""
    return images_uint8.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1.0)


def grid(images_uint8: np.ndarray, columns: int | None = None, gap: int = GAP) -> np.ndarray:
    """One image of N: uint8 [3, H', W'] from uint8 [N, 3, H, W], row by row, white gaps of `gap` pixels.

    Without `columns` the grid is as square as N allows (100 images: 10 x 10). One-channel images become grey RGB.
    """
    n, channels, height, width = images_uint8.shape
    if channels == 1:
        images_uint8 = np.repeat(images_uint8, 3, axis=1)
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    canvas = np.full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, np.uint8)
    for i, image in enumerate(images_uint8):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


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


def encode_png(image_uint8: np.ndarray) -> bytes:
    """PNG bytes of an RGB image, uint8 [3, H, W]."""
    bgr = np.ascontiguousarray(image_uint8[::-1].transpose(1, 2, 0))  # OpenCV wants [H, W, BGR]
    done, encoded = cv2.imencode(".png", bgr)
    if not done:
        raise ValueError(f"OpenCV could not encode an image of shape {image_uint8.shape} as PNG")
    return encoded.tobytes()


def write_png(path: PathLike, image_uint8: np.ndarray) -> None:
    """Write an RGB image, uint8 [3, H, W], as PNG, atomically."""
    encoded = encode_png(image_uint8)
    with atomic_write(Path(path)) as stream:
        stream.write(encoded)
