"""What the discriminator sees instead of the bare images, real and generated alike.

An augmentation maps images [N, C, H, W] and the iteration to images of the same shape, differentiably. It samples from
Paddle's random generator, which the engine seeds in each iteration, so that nothing has to be saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

Augmentation = Callable[[Tensor, int], Tensor]
PAPER_TRANSLATION_RATIO = 0.125  # Zhao et al. 2020


@dataclass(frozen=True)
class InstanceNoise:
    """Gaussian noise on every image, fading linearly to none (Arjovsky & Bottou 2017, sec. 3; Sønderby et al. 2017).

    Young fakes and real images have no pixel in common: the discriminator tells them apart by any detail and the
    generator learns nothing of the rest. Under noise the two overlap. Synthetic faces, with flat colours, need it.
    Args: deviation - at the start, in units of [-1, 1].  steps - iterations until it is gone.
    """

    deviation: float
    steps: int

    def __call__(self, images: Tensor, step: int) -> Tensor:
        deviation = self.deviation * max(0.0, 1.0 - step / self.steps)
        if deviation == 0.0:
            return images
        return images + deviation * paddle.randn(images.shape, images.dtype)


@dataclass(frozen=True)
class DiffAugment:
    """Differentiable augmentation of what the discriminator sees (Zhao et al. 2020, sec. 3.3).

    A discriminator with few images memorises them. Here it never sees one twice, and as the generator's
    images go through the same, and the gradient through it, the generator does not learn to generate what was cut.
    Args: policy - any of color, translation, cutout, in the order in which they are applied.  translation_ratio - how
          far translation shifts at most, as a fraction of the side; at least one pixel.
    Every image has its own random numbers. Images: float32 [N, C, H, W]. Raises ValueError for other names.
    """

    policy: tuple[str, ...]
    translation_ratio: float = PAPER_TRANSLATION_RATIO

    def __post_init__(self):
        unknown = [name for name in self.policy if name not in TRANSFORMS]
        if unknown or len(set(self.policy)) < len(self.policy):
            raise ValueError(f"policy must be some of {', '.join(TRANSFORMS)}, received {', '.join(self.policy)}")

    def __call__(self, images: Tensor, step: int) -> Tensor:
        for name in self.policy:
            options = (self.translation_ratio,) if name == "translation" else ()
            images = TRANSFORMS[name](images, *options)
        return images


@dataclass(frozen=True)
class Chain:
    """One augmentation after the other, in the order given."""

    parts: tuple[Augmentation, ...]

    def __call__(self, images: Tensor, step: int) -> Tensor:
        for part in self.parts:
            images = part(images, step)
        return images


# The transforms of the authors' DiffAugment_pytorch.py, without what Paddle is slow at on a CPU: gather, comparisons of
# large tensors, arithmetic between [N, C, H, W] and [N, 1, H, W]. They took a sixth of an iteration at batch 32.


def _color(images: Tensor) -> Tensor:
    """Brightness + U(-0.5, 0.5), then saturation * U(0, 2), then contrast * U(0.5, 1.5)."""
    n, c, h, w = images.shape
    brightness, saturation, contrast = (paddle.rand([n, 1, 1]) + low for low in (-0.5, 0.0, 0.5))
    saturation = 2 * saturation
    flat = images.reshape([n, c, h * w])
    # Saturation works around each pixel's mean over the channels, contrast around the whole image's mean.
    mixing = contrast * (saturation * paddle.eye(c) + (1 - saturation) / c)  # [N, C, C]
    mean = flat.mean([1, 2], keepdim=True) + brightness
    return (mixing @ flat + (contrast * brightness + (1 - contrast) * mean)).reshape([n, c, h, w])


def _translation(images: Tensor, ratio: float = PAPER_TRANSLATION_RATIO) -> Tensor:
    """Moved by whole pixels, up to `ratio` of the side in each direction; what comes into view is 0, a grey."""
    n, _, h, w = images.shape
    most = [max(1, round(ratio * side)) for side in (h, w)]  # one pixel: the grid that D must not lean on has two
    down, right = (paddle.randint(-pixels, pixels + 1, [n, 1, 1]) for pixels in most)
    return _Moved.apply(images, down, right)


class _Moved(PyLayer):
    """Images moved by whole pixels; the gradient is moved back."""

    @staticmethod
    def forward(ctx, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        ctx.down, ctx.right = down, right
        return _moved(images, down, right)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        return _moved(gradient, -ctx.down, -ctx.right), None, None


def _moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image [C, H, W] of `images` moved by its own `down` and `right` [N, 1, 1], zeros coming into view."""
    return (_moved_by_slices if images.place.is_cpu_place() else _moved_by_products)(images, down, right)


def _moved_by_slices(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """For a CPU."""
    source = images.numpy()
    moved = np.zeros_like(source)
    for image, result, dy, dx in zip(source, moved, down.flatten().tolist(), right.flatten().tolist()):
        (to_row, from_row), (to_column, from_column) = _overlap(dy), _overlap(dx)
        result[:, to_row, to_column] = image[:, from_row, from_column]
    return paddle.to_tensor(moved, place=images.place)


def _moved_by_products(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """For a GPU: nothing waits for it. In each row of a matrix there is a one at the row that it is taken from."""
    n, c, h, w = images.shape
    rows, columns = paddle.arange(h), paddle.arange(w)
    from_row = rows.unsqueeze(1) - down == rows  # [N, H, H]
    from_column = columns.unsqueeze(1) == columns - right  # [N, W, W]
    moved = images.reshape([n, c * h, w]) @ from_column.astype(images.dtype)
    return from_row.astype(images.dtype).unsqueeze(1) @ moved.reshape([n, c, h, w])


def _overlap(offset: int) -> tuple[slice, slice]:
    """Where pixels arrive that move by `offset` along an axis, and where they come from."""
    return slice(max(offset, 0), min(offset, 0) or None), slice(max(-offset, 0), min(-offset, 0) or None)


def _cutout(images: Tensor) -> Tensor:
    """A square of half the height and width is 0; its centre may be anywhere, so that parts of it may lie outside."""
    n, c, h, w = images.shape
    inside = []
    for side in (h, w):
        length = side // 2
        first = paddle.randint(0, side + 1 - length % 2, [n, 1]) - length // 2
        offset = paddle.arange(side) - first
        inside.append(((offset >= 0) & (offset < length)).astype(images.dtype))  # [N, side]
    cut = inside[0].unsqueeze(2) @ inside[1].unsqueeze(1)  # [N, H, W], 1 where both are
    return images * (1 - cut).unsqueeze(1).expand([n, c, h, w])


TRANSFORMS = {"color": _color, "translation": _translation, "cutout": _cutout}
