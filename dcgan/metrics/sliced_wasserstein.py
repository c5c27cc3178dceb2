"""Sliced Wasserstein distance between two sets of images: how alike their small patches are, on several scales.

Karras et al. 2018 (Progressive Growing of GANs), sec. 5 and app. B. Needs no trained network.
"""

from __future__ import annotations

import cv2
import numpy as np

from deploy.seeds import bits, key, normal

PATCH, PATCHES_PER_IMAGE, DIRECTIONS = 7, 32, 128
SMALLEST_LEVEL = 16  # pixels
_CHUNK = 500  # images whose pyramid is in memory at once


def sliced_wasserstein(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Sliced Wasserstein distance between two sets of images, times 1000: lower is better.

    Args: real, fake - uint8 [N, 3, S, S], the same N and S, S at least 16.  seed - of patches and directions.
    Returns one figure per level of the Laplacian pyramid, by its size in pixels ("64", "32", "16"): fine detail to
    coarse shape, and their mean as "mean". Two halves of one data set give the baseline. Raises ValueError if the
    shapes differ. 500 images of 64x64 take about a second; 5,000 ten, and half a gigabyte.
    """
    if real.shape != fake.shape:
        raise ValueError(f"both sets must have one shape, received {list(real.shape)} and {list(fake.shape)}")
    distances, size, level = {}, real.shape[-1], 0
    while level == 0 or size > SMALLEST_LEVEL:
        size = real.shape[-1] if level == 0 else (size + 1) // 2
        distances[str(size)] = 1000 * _patch_distance(real, fake, level, key(seed, level))
        level += 1
    return {**distances, "mean": float(np.mean(list(distances.values())))}


def _pyramid_level(images_uint8: np.ndarray, level: int) -> np.ndarray:
    """Level `level` of the Laplacian pyramid, float32 [N, s, s, 3]; the last one is the small image itself."""
    current = np.ascontiguousarray(images_uint8.transpose(0, 2, 3, 1), np.float32) / 127.5 - 1
    for _ in range(level):
        current = np.stack([cv2.pyrDown(image) for image in current])
    if current.shape[1] <= SMALLEST_LEVEL:
        return current
    size = current.shape[2], current.shape[1]  # an odd side would come back one pixel larger
    return current - np.stack([cv2.pyrUp(cv2.pyrDown(image), dstsize=size) for image in current])


def _patch_distance(real: np.ndarray, fake: np.ndarray, level: int, stream: int) -> float:
    """Mean distance between the sorted projections of both sets' patches, over random directions."""
    count = PATCH * PATCH * 3 * DIRECTIONS
    directions = normal(bits(np.array([stream]), count)[0]).astype(np.float32).reshape(-1, DIRECTIONS)
    directions /= np.linalg.norm(directions, axis=0)
    projected = []
    for side, images in enumerate((real, fake)):
        projected.append(_patches(images, level, key(stream, side)) @ directions)
        projected[-1].sort(axis=0)
    return float(np.abs(projected[0] - projected[1]).mean())


def _patches(images_uint8: np.ndarray, level: int, stream: int) -> np.ndarray:
    """Random patches, each channel at mean 0 and deviation 1 over the set: float32 [N * patches, 7 * 7 * 3]."""
    random = bits(np.array([stream]), 2 * len(images_uint8) * PATCHES_PER_IMAGE)[0]
    rows, columns = random.reshape(2, len(images_uint8), PATCHES_PER_IMAGE)
    parts = []
    for start in range(0, len(images_uint8), _CHUNK):
        images = _pyramid_level(images_uint8[start : start + _CHUNK], level)
        windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))  # [n, p, p, 3, 7, 7]
        places = np.uint32(images.shape[1] - PATCH + 1)
        y, x = (numbers[start : start + _CHUNK].reshape(-1) % places for numbers in (rows, columns))
        parts.append(windows[np.repeat(np.arange(len(images)), PATCHES_PER_IMAGE), y, x])  # [n * patches, 3, 7, 7]
    patches = np.concatenate(parts)
    patches -= patches.mean(axis=(0, 2, 3), keepdims=True)
    patches /= patches.std(axis=(0, 2, 3), keepdims=True) + 1e-8
    return patches.reshape(len(patches), -1)
