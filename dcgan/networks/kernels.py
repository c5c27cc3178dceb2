"""How a network computes a layer: by Paddle's own operators, which is what every exported program contains.

`dcgan.networks.onednn` holds others with the same three methods, for training on a CPU.
"""

from __future__ import annotations

import paddle
from paddle import nn


class PaddleKernels:
    """Layers computed by Paddle's own operators."""

    _ACTIVATIONS = {
        "relu": nn.functional.relu,
        "leaky_relu": lambda x: nn.functional.leaky_relu(x, 0.2),
        "tanh": paddle.tanh,
    }

    def enter(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images NCHW in the form that goes between the layers: as they are."""
        return images

    def layer(self, x: paddle.Tensor, conv: nn.Layer, norm: nn.Layer | None, activation: str | None) -> paddle.Tensor:
        """activation(norm(conv(x))); activation is relu, leaky_relu (slope 0.2), tanh or None."""
        x = conv(x) if norm is None else norm(conv(x))
        return self._ACTIVATIONS[activation](x) if activation else x

    def leave(self, x: paddle.Tensor) -> paddle.Tensor:
        """What `enter` did, undone."""
        return x


PADDLE_KERNELS = PaddleKernels()
