"""Distances between two sets of feature vectors: Frechet, kernel, precision and recall. Whose features is not known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deploy.seeds import permutation

KERNEL_BLOCK, KERNEL_BLOCKS = 1000, 20
NEIGHBOUR = 3  # the radius of a point is the distance to its third neighbour (Kynkaanniemi et al. 2019, sec. 3)
_LARGEST = 1e30  # beyond, products of products overflow even in double precision
_CHUNK = 1000  # rows of a distance matrix that are in memory at once


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the normal distributions fitted to two sets (Heusel et al. 2017, sec. 2).

    Args: a, b - [N, D] and [M, D] numbers, N and M at least 2. The figure falls with N and M: compare equal ones only.
    Raises ValueError for sets that do not fit or hold NaN or infinity.
    """
    a, b = _checked(a, b)
    covariance_a, covariance_b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariance_b @ root), 0, None)).sum()
    means = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(means + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Kernel distance (KID): unbiased squared maximum mean discrepancy, and its standard deviation over the blocks.

    Kernel (x . y / D + 1)^3 (Binkowski et al. 2018, sec. 4), mean over 20 random blocks of 1,000 (or of all, when there
    are fewer). Unbiased: it does not fall with the number of images, and around 0 it may be negative. The deviation
    is that of one block, not of the mean. Raises ValueError as `frechet_distance`.
    """
    a, b = _checked(a, b)
    size = min(KERNEL_BLOCK, len(a), len(b))
    values = []
    for block in range(KERNEL_BLOCKS):
        x, y = (rows[permutation(len(rows), seed, block, side)[:size]] for side, rows in enumerate((a, b)))
        within = sum(
            (kernel.sum() - np.trace(kernel)) / (size * (size - 1)) for kernel in (_kernel(x, x), _kernel(y, y))
        )
        values.append(within - 2 * _kernel(x, y).mean())
    return float(np.mean(values)), float(np.std(values))


def precision_recall(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """Share of generated images among the real ones, and of real ones among the generated (Kynkaanniemi et al. 2019).

    A point is among a set if it is nearer to one of its points than that point's third neighbour is. Both depend on
    the number of images. Raises ValueError as `frechet_distance`, and for fewer than 4 of either.
    """
    real, fake = _checked(real, fake, NEIGHBOUR + 1)
    return _share_inside(fake, real), _share_inside(real, fake)


def _share_inside(points: np.ndarray, reference: np.ndarray) -> float:
    """Share of `points` within the radius of any reference point."""
    radii = []  # squared
    for squared in _squared_distances(reference, reference):
        radii.append(np.partition(squared, NEIGHBOUR, axis=1)[:, NEIGHBOUR])  # the nearest of all is the point itself
    radius = np.concatenate(radii)
    inside = [(squared <= radius).any(axis=1) for squared in _squared_distances(points, reference)]
    return float(np.concatenate(inside).mean())


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of the matrix of squared Euclidean distances, `_CHUNK` at a time: [n, M]."""
    norms = (b * b).sum(axis=1)
    for start in range(0, len(a), _CHUNK):
        part = a[start : start + _CHUNK]
        yield np.maximum((part * part).sum(axis=1)[:, None] + norms - 2 * part @ b.T, 0)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _checked(a: np.ndarray, b: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as float64: the differences of large sums below would drown in float32."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"features must be [N, D] and [M, D] with N and M at least {least}, "
            f"received {list(a.shape)} and {list(b.shape)}"
        )
    for name, features in (("first", a), ("second", b)):
        wrong = int((~(np.abs(features) < _LARGEST)).any(axis=1).sum())
        if wrong:
            raise ValueError(
                f"{wrong} of {len(features)} images of the {name} set have features that are not finite or beyond "
                f"{_LARGEST:g}"
            )
    return a, b
