"""How far generated images are from real ones in colour, texture and structure: parts of the generator's loss.

A discriminator with BatchNorm does not see what all images of a batch share: it gives a batch of twice the contrast the
same logits, and a faint grain over everything is of little weight to it. It also judges each image by itself, and a
generator whose faces all look straight ahead satisfies it (docs/quality.md). These distances teach the generator all
three, and add no network.
"""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.nn import functional as F  # noqa: N812 - the field's usual name

SIDES = (8, 4)  # pixels, each a multiple of the next: what hair, skin, background and clothes look like from afar
BLOCK = 4  # pixels of height and width in which texture is averaged
WINDOW = 8  # pixels of height and width that are compared in structure
LARGEST = 64  # pixels of height and width; larger images are shrunk first: a window holds an eye, or half a face
_LUMA = (0.299, 0.587, 0.114)  # of R, G and B in brightness (ITU-R BT.601)
_FLAT = 0.05  # standard deviation of brightness, in [-1, 1], below which a window fades towards one without structure
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


def structure_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Energy distance of two batches in the structure of small windows, window by window, averaged: float32, a scalar.

    A window is the brightness of 8 x 8 pixels with its mean taken off and divided by its standard deviation, as the
    structure term of SSIM compares them (Wang et al. 2004, sec. III B): where eyes, nose and mouth are, which way a
    face looks, not how bright it is. The windows lie in two grids, half a window apart, at full size (at most 64
    pixels) and at half of it. Each is compared with the same one of other images, so that generated images differ from
    each other at each place as much as real ones do.
    Args: as those of `energy_distance`; C is 3 and H = W a power of two, at least 16.
    """
    return _energy(_windows(fake), _windows(real)).mean()


def _windows(images: Tensor) -> Tensor:
    """The normalised windows of N images, place by place: [L, N, 64]."""
    luma = F.conv2d(images.astype("float32"), paddle.to_tensor(_LUMA).reshape([1, 3, 1, 1]))
    large = F.avg_pool2d(luma, max(1, luma.shape[2] // LARGEST))
    found = []
    for level in (large, F.avg_pool2d(large, 2)):
        for margin in (0, WINDOW // 2) if level.shape[2] > WINDOW else (0,):
            inner = level[:, :, margin : level.shape[2] - margin, margin : level.shape[3] - margin]
            found.append(F.unfold(inner, WINDOW, strides=WINDOW).transpose([2, 0, 1]))
    windows = paddle.concat(found)
    windows = windows - windows.mean(2, keepdim=True)
    return windows * paddle.rsqrt((windows * windows).mean(2, keepdim=True) + _FLAT**2)


def _log_roughness(images: Tensor) -> Tensor:
    images = images.astype("float32")
    roughness = paddle.abs(images - F.avg_pool2d(images, 3, 1, 1)).mean(1, keepdim=True)
    return paddle.log(F.avg_pool2d(roughness, BLOCK) + _LEVEL / 2).flatten(1)


def _energy(x: Tensor, y: Tensor) -> Tensor:
    """Energy distance of the rows of x [..., N, K] and of y [..., M, K]: [...]."""
    return 2 * _distances(x, y).mean([-2, -1]) - _pairs(_distances(x, x)) - _pairs(_distances(y, y))


def _pairs(distances: Tensor) -> Tensor:
    """Mean of [..., N, N] distances without the diagonal, on which each row meets itself: [...]."""
    count = distances.shape[-1]
    return (distances.sum([-2, -1]) - count * _ZERO) / max(1, count * (count - 1))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Root mean square difference of each row of x [..., N, K] from each of y [..., M, K]: [..., N, M]."""
    squares = (x * x).sum(-1).unsqueeze(-1) + (y * y).sum(-1).unsqueeze(-2) - 2 * paddle.matmul(x, y, transpose_y=True)
    return paddle.sqrt(paddle.clip(squares / x.shape[-1], min=_ZERO**2))
