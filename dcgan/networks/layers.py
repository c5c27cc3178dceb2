"""The layers of both networks as the paper initialises them, and the generator's bilinear initialisation."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

BATCH_NORM_MOMENTUM = 0.8  # the tutorial's; torch calls the rest, 0.2, "momentum"


def conv_weight() -> paddle.ParamAttr:
    """N(0, 0.02) (Radford et al. 2016, sec. 4)."""
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, 0.02))


def batch_norm(channels: int, momentum: float) -> nn.BatchNorm2D:
    """BatchNorm whose scale is initialised from N(1, 0.02) (Radford et al. 2016, code)."""
    scale = paddle.ParamAttr(initializer=nn.initializer.Normal(1.0, 0.02))
    return nn.BatchNorm2D(channels, momentum=momentum, weight_attr=scale)


def init_bilinear(weight: paddle.Tensor) -> None:
    """Initialise a transposed convolution (kernel 4, stride 2, padding 1) as channel mixing + bilinear upsampling.

    `weight` [inputs, filters, 4, 4]: each 4 x 4 kernel becomes a random number times the kernel of bilinear
    interpolation (Long et al. 2015, sec. 3.3), as large as N(0, 0.02) is on average. Random kernels treat even and odd
    pixels differently, and each upsampling layer adds a checkerboard that training then has to remove; this
    initialisation has none (Aitken et al. 2017 do the same for sub-pixel convolutions).
    """
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype("float32") / 5  # root mean square 1
    mixing = paddle.randn([*weight.shape[:2], 1, 1]) * 0.02
    weight.set_value(mixing * paddle.to_tensor(taps))


def parameter_count(network: nn.Layer) -> int:
    """How many numbers the optimizer moves: BatchNorm's running statistics are not among them."""
    return sum(int(p.size) for p in network.parameters() if not p.stop_gradient)
