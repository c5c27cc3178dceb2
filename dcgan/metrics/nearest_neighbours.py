"""Generated images beside the training images nearest to them: they show whether training images were memorised.

Near means: a small Euclidean distance between the images shrunk to 16 x 16 pixels, the training images as they are
and mirrored. Small shifts and fine detail hardly count there, a copied face does.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ..images import grid, side_by_side, with_title

SIDE = 16
QUERIES = 1000  # images that are looked up
_ROWS, _SHOWN = 10, 3
_CHUNK = 5000  # training images at once


class Nearest(NamedTuple):
    """The training images nearest to each of Q generated ones.

    indices - int64 [Q, 3], into the training images, nearest first.  distances - float64 [Q, 3], root mean square
    over the shrunk pixels, in grey levels.  real_distances - float64 [R], from training images to the nearest other.
    """

    indices: np.ndarray
    distances: np.ndarray
    real_distances: np.ndarray

    @property
    def ratio(self) -> float:
        """Median distance of a generated image over that of a training image to the nearest other one.

        Far below 1: generated images are nearer to training images than those are to each other: memorised images.
        """
        return float(np.median(self.distances[:, 0]) / max(np.median(self.real_distances), 1e-6))


def find_nearest(training: np.ndarray, fake: np.ndarray) -> Nearest:
    """Look up the first 1,000 of `fake` among all of `training`, both uint8 [N, 3, S, S]; 4 of training at least.

    200,000 training images take some minutes on one core; memory does not grow with their number.
    """
    if len(training) <= _SHOWN:
        raise ValueError(f"at least {_SHOWN + 1} training images are needed, received {len(training)}")
    indices, distances = _search(_shrunk(fake[:QUERIES]), training, are_among_them=False)
    _, others = _search(_shrunk(training[:QUERIES]), training, are_among_them=True)
    return Nearest(indices, distances, others[:, 0])


def draw_nearest(training: np.ndarray, fake: np.ndarray, found: Nearest) -> np.ndarray:
    """`nearest.png`, uint8 [3, H, W]: in each row a generated image, then the three nearest training images.

    On the left the first ten generated ones, on the right the ten that are nearest to a training image.
    """
    closest = np.argsort(found.distances[:, 0], kind="stable")[:_ROWS]
    blocks = []
    for which, rows in (("first", range(min(_ROWS, len(found.indices)))), ("closest", closest)):
        images = [image for row in rows for image in (fake[row], *(training[i] for i in found.indices[row]))]
        blocks.append(with_title(grid(np.stack(images), columns=1 + _SHOWN), f"{which} generated | nearest real"))
    return side_by_side(*blocks)


def _search(queries: np.ndarray, training: np.ndarray, are_among_them: bool) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances [Q, 3]; with `are_among_them`, query i is training image i and does not find itself."""
    best = np.full((len(queries), _SHOWN), np.inf)
    indices = np.zeros((len(queries), _SHOWN), np.int64)
    for start in range(0, len(training), _CHUNK):
        small = _shrunk(training[start : start + _CHUNK])
        squared = np.minimum(_squared(queries, small), _squared(queries, _mirrored(small)))
        here = np.arange(start, start + len(small))
        if are_among_them:
            squared[np.arange(len(queries))[:, None] == here] = np.inf
        candidates = np.concatenate([best, squared], axis=1)
        numbers = np.concatenate([indices, np.broadcast_to(here, squared.shape)], axis=1)
        kept = np.argsort(candidates, axis=1, kind="stable")[:, :_SHOWN]
        best, indices = np.take_along_axis(candidates, kept, 1), np.take_along_axis(numbers, kept, 1)
    return indices, np.sqrt(best / (3 * SIDE * SIDE))


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T, 0)


def _shrunk(images_uint8: np.ndarray) -> np.ndarray:
    """float64 [N, 768]: grey levels at 16 x 16. Whole numbers, so that the distance of a copy is 0 and not rounded."""
    images = np.ascontiguousarray(np.asarray(images_uint8).transpose(0, 2, 3, 1))
    small = np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images])
    return small.reshape(len(small), -1).astype(np.float64)


def _mirrored(small: np.ndarray) -> np.ndarray:
    return small.reshape(-1, SIDE, SIDE, 3)[:, :, ::-1].reshape(len(small), -1)
