"""What is added to the discriminator's loss beyond its judgement.

A penalty maps (discriminator, real images as the discriminator sees them, iteration) to a number to minimise, or to
None when nothing is due at this iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

import paddle
from paddle import Tensor, nn

from ..networks.kernels import PaddleKernels

Penalty = Callable[[nn.Layer, Tensor, int], Optional[Tensor]]


class _TwiceDifferentiable(PaddleKernels):
    """Layers with second derivatives: oneDNN's have none, and those of Paddle 3.2.2's BatchNorm take a CPU three
    hundred times as long as those of the arithmetic below (19 s for 32 images of 64 x 16 x 16). Running statistics
    are left as they are: the judgement has moved them."""

    def layer(self, x: Tensor, conv: nn.Layer, norm: nn.Layer | None, activation: str | None) -> Tensor:
        x = conv(x) if norm is None else _normalised(conv(x), norm)
        return self._ACTIVATIONS[activation](x) if activation else x


def _normalised(x: Tensor, norm: nn.BatchNorm2D) -> Tensor:
    """BatchNorm by the statistics of the batch. Expanded by hand, means in two steps: three times as fast."""
    n, c, h, w = x.shape
    x = x.reshape([n, c, h * w])

    def per_channel(channels: Tensor) -> Tensor:
        return channels.reshape([1, c, 1]).expand([n, c, h * w])

    centred = x - per_channel(x.mean(2).mean(0))
    variance = (centred * centred).mean(2).mean(0)
    scale = norm.weight * paddle.rsqrt(variance + norm._epsilon)
    return (centred * per_channel(scale) + per_channel(norm.bias)).reshape([n, c, h, w])


_TWICE_DIFFERENTIABLE = _TwiceDifferentiable()


@dataclass(frozen=True)
class R1:
    """gamma / 2 * the mean over real images of |gradient of D at the image| ** 2 (Mescheder et al. 2018, eq. 9).

    A discriminator that is flat around real images lets the generator stay once it is there. It is due every `every`
    iterations, multiplied by `every` then (lazily, Karras et al. 2020, appendix B). With BatchNorm an image's
    gradient is that of the whole batch's logits.
    """

    gamma: float
    every: int

    def __call__(self, discriminator: nn.Layer, real: Tensor, step: int) -> Tensor | None:
        """Args: discriminator - a `networks.Discriminator`.  real - float [N, C, H, W].

        Returns a scalar with its graph, or None.
        """
        if step % self.every:
            return None
        real = real.detach()
        real.stop_gradient = False
        kernels, discriminator.kernels = discriminator.kernels, _TWICE_DIFFERENTIABLE
        try:
            logits = discriminator(real)
        finally:
            discriminator.kernels = kernels
        (gradient,) = paddle.grad(logits.sum(), real, create_graph=True)
        squared_norms = (gradient * gradient).sum([1, 2, 3])  # ** 2 would be thirty times slower
        return self.every * self.gamma / 2 * squared_norms.mean()
