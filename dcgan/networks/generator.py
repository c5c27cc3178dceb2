"""The generator of DCGAN (Radford et al. 2016) at any power-of-two size.

At 64x64 with 64 base channels the layer names, shapes and order are those of the PaddlePaddle face tutorial, so that a
`generator.params` file goes both ways.
"""

from __future__ import annotations

from paddle import nn

from .kernels import PADDLE_KERNELS
from .layers import BATCH_NORM_MOMENTUM, batch_norm, conv_weight, init_bilinear
from .sizes import hidden_channels


class Generator(nn.Layer):
    """Latents to images: ConvTranspose + BatchNorm + ReLU blocks, then tanh (Radford et al. 2016, sec. 3).

    Args: latent_dim - numbers per latent.  base_channels - channels before the last layer; doubles towards the input.
          image_size - height = width in pixels, a power of two from 16 to 256.  channels - 3 for RGB.
          batch_norm_momentum - the share of the old running statistics that BatchNorm keeps per step.
          init - how the layers that double the size begin: `normal`, or `bilinear`, see `init_bilinear`.
    Input: z, float [N, latent_dim] or [N, latent_dim, 1, 1], standard normal. Output: [N, channels, image_size,
    image_size] in [-1, 1]. Raises ValueError for other sizes, and for latents of another shape.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        base_channels: int = 64,
        image_size: int = 64,
        channels: int = 3,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        init: str = "normal",
    ):
        super().__init__()
        if init not in ("normal", "bilinear"):
            raise ValueError(f"init must be normal or bilinear, received {init!r}")
        self.kernels, self.eval_kernels = PADDLE_KERNELS, PADDLE_KERNELS
        self.latent_dim = latent_dim
        widths = [latent_dim, *reversed(hidden_channels(base_channels, image_size)), channels]
        self.depth = len(widths) - 1
        for i in range(1, self.depth + 1):
            # kernel 4: first 1x1 -> 4x4, then each layer doubles height and width
            stride, padding = (1, 0) if i == 1 else (2, 1)
            conv = nn.Conv2DTranspose(
                widths[i - 1], widths[i], 4, stride, padding, weight_attr=conv_weight(), bias_attr=False
            )
            self.add_sublayer(f"conv_{i}", conv)
            if i < self.depth:
                self.add_sublayer(f"bn_{i}", batch_norm(widths[i], batch_norm_momentum))
        if init == "bilinear":
            for i in range(2, self.depth + 1):
                init_bilinear(getattr(self, f"conv_{i}").weight)

    def forward(self, z):
        if list(z.shape[1:]) not in ([self.latent_dim], [self.latent_dim, 1, 1]):
            raise ValueError(
                f"latents must be [N, {self.latent_dim}] or [N, {self.latent_dim}, 1, 1], received {list(z.shape)}"
            )
        kernels = self.kernels if self.training else self.eval_kernels
        x = kernels.enter(z if z.ndim == 4 else z.unsqueeze([2, 3]))  # [N, latent_dim, 1, 1]
        for i in range(1, self.depth):
            x = kernels.layer(x, getattr(self, f"conv_{i}"), getattr(self, f"bn_{i}"), "relu")
        return kernels.leave(kernels.layer(x, getattr(self, f"conv_{self.depth}"), None, "tanh"))
