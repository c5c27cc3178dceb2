"""How different the images of one set are from each other: MS-SSIM between random pairs, with no network.

Wang et al. 2003 (Multi-scale structural similarity); as a measure of a generator's variety Odena et al. 2017, sec. 4.2.
"""

from __future__ import annotations

import numpy as np

from deploy.seeds import permutation

WINDOW, SIGMA = 11, 1.5
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, fine to coarse (Wang et al. 2003, sec. 3.2)
PAIRS = 1000
_C1, _C2 = 0.01**2, 0.03**2  # for a dynamic range of 1


def mean_ms_ssim(images_uint8: np.ndarray, pairs: int = PAIRS, seed: int = 0) -> float:
    """Mean MS-SSIM over random pairs of images: near 1 when all are one image, lower the more they vary.

    Args: images_uint8 - uint8 [N, C, S, S], N at least 2, S at least 11.  pairs - at most; no image is in more than
          one of them, so N/2 is the most there are.
    Compare it with the figure of the training images: neither more nor less variety than theirs is wanted.
    """
    if len(images_uint8) < 2:
        raise ValueError(f"at least 2 images are needed to compare pairs, received {len(images_uint8)}")
    order = permutation(len(images_uint8), seed)
    count = min(pairs, len(order) // 2)
    left, right = order[:count], order[count : 2 * count]
    parts = [ms_ssim(images_uint8[left[i : i + 250]], images_uint8[right[i : i + 250]]) for i in range(0, count, 250)]
    return float(np.concatenate(parts).mean())


def ms_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """MS-SSIM of each pair, averaged over the channels: float64 [N], 1 for equal images.

    Args: a, b - uint8 [N, C, S, S], S at least 11. Scales are halved while the window of 11 fits (64 pixels: 3 scales)
    and the published weights of those are scaled to a sum of 1: the figure is for images of one size only.
    """
    if a.shape != b.shape or a.shape[-1] < WINDOW:
        raise ValueError(
            f"pairs must have one shape and at least {WINDOW} pixels, received {list(a.shape)} and {list(b.shape)}"
        )
    scales = min(len(WEIGHTS), int(np.log2(a.shape[-1] / WINDOW)) + 1)
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    x, y = (np.asarray(images, np.float32) / 255 for images in (a, b))
    result = np.ones(x.shape[:2])
    for scale, weight in enumerate(weights):
        luminance, contrast = _terms(x, y)
        term = contrast if scale < scales - 1 else contrast * luminance
        result *= np.maximum(term.mean(axis=(2, 3)), 0) ** weight  # a negative number has no such power
        x, y = _halved(x), _halved(y)
    return result.mean(axis=1)


def _terms(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance term, and contrast times structure, at each place where the window fits."""
    kernel = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    size = x.shape[-1]
    rows = np.zeros((size - WINDOW + 1, size), np.float32)
    for i, row in enumerate(rows):
        row[i : i + WINDOW] = kernel / kernel.sum()

    def blurred(values: np.ndarray) -> np.ndarray:
        return rows @ values @ rows.T

    mean_x, mean_y = blurred(x), blurred(y)
    variances = blurred(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def _halved(x: np.ndarray) -> np.ndarray:
    n, c, height, width = x.shape
    even = x[:, :, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(n, c, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
