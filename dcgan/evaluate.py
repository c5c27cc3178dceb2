"""How good the pictures are, in numbers that need no download.

`sliced_wasserstein` compares two sets of pictures by the distribution of their small patches on several scales (Karras
et al. 2018, sec. 5 and app. B). A figure means something only beside another of the same number of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from deploy.latents import bits, key, normal

PATCH, PATCHES_PER_PICTURE, DIRECTIONS = 7, 32, 128
SMALLEST_LEVEL = 16  # pixels


def sliced_wasserstein(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Sliced Wasserstein distance between two sets of pictures, times 1000: lower is better.

    Args: real, fake - uint8 [N, 3, S, S], the same N and S, S at least 16.  seed - of patches and directions.
    Returns one figure per level of the Laplacian pyramid, by its size in pixels ("64", "32", "16"): fine detail to
    coarse shape, and their mean as "mean". Two halves of one data set give the floor. Raises ValueError if the shapes
    differ. 500 pictures of 64x64 take about a second.
    """
    if real.shape != fake.shape:
        raise ValueError(f"both sets must have one shape, received {list(real.shape)} and {list(fake.shape)}")
    distances = {}
    for level, (a, b) in enumerate(zip(_pyramid(real), _pyramid(fake))):
        distances[str(a.shape[1])] = 1000 * _patch_distance(a, b, key(seed, level))
    return {**distances, "mean": float(np.mean(list(distances.values())))}


def _pyramid(images_uint8: np.ndarray) -> Iterator[np.ndarray]:
    """Laplacian pyramid, float32 [N, s, s, 3] from fine to coarse; the last level is the small picture itself."""
    current = np.ascontiguousarray(images_uint8.transpose(0, 2, 3, 1), np.float32) / 127.5 - 1
    while current.shape[1] > SMALLEST_LEVEL:
        smaller = np.stack([cv2.pyrDown(image) for image in current])
        yield current - np.stack([cv2.pyrUp(image) for image in smaller])
        current = smaller
    yield current


def _patch_distance(a: np.ndarray, b: np.ndarray, stream: int) -> float:
    """Mean distance between the sorted projections of both sets' patches, over random directions."""
    count = PATCH * PATCH * 3 * DIRECTIONS
    directions = normal(bits(np.array([stream]), count)[0]).astype(np.float32).reshape(-1, DIRECTIONS)
    directions /= np.linalg.norm(directions, axis=0)
    projected = [
        np.sort(_patches(images, key(stream, side)) @ directions, axis=0) for side, images in enumerate((a, b))
    ]
    return float(np.abs(projected[0] - projected[1]).mean())


def _patches(images: np.ndarray, stream: int) -> np.ndarray:
    """Random patches, each channel at mean 0 and deviation 1 over the set: float32 [N * patches, 7 * 7 * 3]."""
    n, size = len(images), images.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))  # [N, p, p, 3, 7, 7]
    drawn = bits(np.array([stream]), 2 * n * PATCHES_PER_PICTURE)[0] % np.uint32(size - PATCH + 1)
    rows, columns = drawn.reshape(2, -1)
    patches = windows[np.repeat(np.arange(n), PATCHES_PER_PICTURE), rows, columns]  # [n * patches, 3, 7, 7]
    patches = patches - patches.mean(axis=(0, 2, 3), keepdims=True)
    patches /= patches.std(axis=(0, 2, 3), keepdims=True) + 1e-8
    return patches.reshape(len(patches), -1)
