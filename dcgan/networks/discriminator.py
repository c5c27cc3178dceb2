"""The discriminator of DCGAN (Radford et al. 2016) at any power-of-two size. Layer names are the tutorial's."""

from __future__ import annotations

from paddle import nn

from .kernels import PADDLE_KERNELS
from .layers import BATCH_NORM_MOMENTUM, batch_norm, conv_weight
from .sizes import hidden_channels


class Discriminator(nn.Layer):
    """Images to logits: Conv + BatchNorm + LeakyReLU(0.2) blocks (Radford et al. 2016, sec. 3).

    Args: base_channels - channels after the first layer; doubles with each halving.  image_size, channels,
          batch_norm_momentum - as of the generator.
    Input: float [N, channels, image_size, image_size] in [-1, 1]. Output: logits [N, 1, 1, 1]; positive means "real".
    """

    def __init__(
        self,
        base_channels: int = 64,
        image_size: int = 64,
        channels: int = 3,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
    ):
        super().__init__()
        self.kernels = PADDLE_KERNELS
        widths = [channels, *hidden_channels(base_channels, image_size), 1]
        self.depth = len(widths) - 1
        for i in range(1, self.depth + 1):
            stride, padding = (2, 1) if i < self.depth else (1, 0)  # last: 4x4 -> 1x1
            conv = nn.Conv2D(widths[i - 1], widths[i], 4, stride, padding, weight_attr=conv_weight(), bias_attr=False)
            self.add_sublayer(f"conv_{i}", conv)
            if 1 < i < self.depth:
                self.add_sublayer(f"bn_{i}", batch_norm(widths[i], batch_norm_momentum))

    def forward(self, image):
        kernels = self.kernels if self.training else PADDLE_KERNELS
        x = kernels.layer(kernels.enter(image), self.conv_1, None, "leaky_relu")
        for i in range(2, self.depth):
            x = kernels.layer(x, getattr(self, f"conv_{i}"), getattr(self, f"bn_{i}"), "leaky_relu")
        return kernels.leave(kernels.layer(x, getattr(self, f"conv_{self.depth}"), None, None))
