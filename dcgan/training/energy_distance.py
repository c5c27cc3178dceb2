"""How far generated images are from real ones in colour, coarse layout and texture: parts of the generator's loss.

A discriminator with BatchNorm does not see what all images of a batch share: it gives a batch of twice the contrast the
same logits, and a faint grain over everything is of little weight to it (docs/quality.md). These distances teach the
generator both, and add no network.
"""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.nn import functional as F  # noqa: N812 - the field's usual name

SIDES = (8, 4)  # pixels, each a multiple of the next: what hair, skin, background and clothes look like from afar
BLOCK = 4  # pixels of height and width in which texture is averaged
_LEVEL = 1 / 127.5  # of 256 levels, in [-1, 1]
_ZERO = 1e-4  # for a distance of 0, at which the root has no slope


def energy_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Energy distance of two batches of images shrunk to 4 x 4 and to 8 x 8 pixels, averaged: float32, a scalar.

    2 E|x - y| - E|x - x'| - E|y - y'| (Székely & Rizzo 2013), where |.| is the root mean square difference of two
    images. It is 0 if both are samples of one distribution, and may then be a little below: no pair is an image with
    itself, so the estimate is unbiased.
    Args: fake, real - [N, C, H, W] in [-1, 1], N at least 2, H and W at least 8.
    """
    distances = []
    for side in SIDES:
        fake, real = (F.avg_pool2d(images.astype("float32"), images.shape[2] // side) for images in (fake, real))
        distances.append(_energy(fake.flatten(1), real.flatten(1)))
    return paddle.add_n(distances) / len(SIDES)


def texture_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Energy distance of two batches in how rough images are, block by block: float32, a scalar.

    An image is the logarithms of its mean roughness in each block of 4 x 4 pixels, where the roughness of a pixel is
    its absolute difference from the mean of the 3 x 3 pixels around it. Logarithms, because grain of one level on a
    plain background is to be as far from none as strong edges are from weak ones.
    Args: as those of `energy_distance`.
    """
    return _energy(_log_roughness(fake), _log_roughness(real))


def _log_roughness(images: Tensor) -> Tensor:
    images = images.astype("float32")
    roughness = paddle.abs(images - F.avg_pool2d(images, 3, 1, 1)).mean(1, keepdim=True)
    return paddle.log(F.avg_pool2d(roughness, BLOCK) + _LEVEL / 2).flatten(1)


def _energy(x: Tensor, y: Tensor) -> Tensor:
    """Energy distance of the rows of x [N, K] and of y [M, K]."""
    return 2 * _distances(x, y).mean() - _mean_of_pairs(x) - _mean_of_pairs(y)


def _mean_of_pairs(x: Tensor) -> Tensor:
    """Mean distance of two different rows of x [N, K]."""
    count = x.shape[0]
    return (_distances(x, x).sum() - count * _ZERO) / max(1, count * (count - 1))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Root mean square difference of each row of x [N, K] from each of y [M, K]: [N, M]."""
    squares = (x**2).sum(1, keepdim=True) + (y**2).sum(1) - 2 * x @ y.T
    return paddle.sqrt(paddle.clip(squares / x.shape[1], min=_ZERO**2))
