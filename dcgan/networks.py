"""Generator and Discriminator of DCGAN (Radford et al. 2016) at any power-of-two size, and how their weights begin.

At 64x64 with 64 base channels the layer names, shapes and order are those of the PaddlePaddle face tutorial, so that a
`generator.params` file goes both ways. Training, losses and data live elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle
from paddle import nn

from .spectral import SpectralConv2D, follow

SMALLEST_IMAGE, LARGEST_IMAGE = 16, 256
BATCH_NORM_MOMENTUM = 0.8  # the tutorial's; torch calls the rest, 0.2, "momentum"


class PaddleKernels:
    """How a network computes a layer: Paddle's own operators. `dcgan.onednn` has others, for training."""

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


class Generator(nn.Layer):
    """Latents to pictures: ConvTranspose + BatchNorm + ReLU blocks, then tanh (Radford et al. 2016, sec. 3).

    Args: latent_dim - numbers per latent.  base_channels - channels before the last layer; doubles towards the input.
          image_size - height = width in pixels, a power of two from 16 to 256.  channels - 3 for RGB.
          batch_norm_momentum - the share of the old running statistics that BatchNorm keeps per step.
          init - how the layers that double the size begin: `normal`, or `bilinear`, see `begin_bilinear`.
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
        self.kernels = PADDLE_KERNELS
        self.latent_dim = latent_dim
        widths = [latent_dim, *reversed(_widths(base_channels, image_size)), channels]
        self.depth = len(widths) - 1
        for i in range(1, self.depth + 1):
            # kernel 4: first 1x1 -> 4x4, then each layer doubles height and width
            stride, padding = (1, 0) if i == 1 else (2, 1)
            conv = nn.Conv2DTranspose(
                widths[i - 1], widths[i], 4, stride, padding, weight_attr=_conv_init(), bias_attr=False
            )
            self.add_sublayer(f"conv_{i}", conv)
            if i < self.depth:
                self.add_sublayer(f"bn_{i}", _batch_norm(widths[i], batch_norm_momentum))
        if init == "bilinear":
            for i in range(2, self.depth + 1):
                begin_bilinear(getattr(self, f"conv_{i}").weight)

    def forward(self, z):
        if list(z.shape[1:]) not in ([self.latent_dim], [self.latent_dim, 1, 1]):
            raise ValueError(
                f"latents must be [N, {self.latent_dim}] or [N, {self.latent_dim}, 1, 1], received {list(z.shape)}"
            )
        kernels = self.kernels if self.training else PADDLE_KERNELS
        x = kernels.enter(z if z.ndim == 4 else z.unsqueeze([2, 3]))  # [N, latent_dim, 1, 1]
        for i in range(1, self.depth):
            x = kernels.layer(x, getattr(self, f"conv_{i}"), getattr(self, f"bn_{i}"), "relu")
        return kernels.leave(kernels.layer(x, getattr(self, f"conv_{self.depth}"), None, "tanh"))


class Discriminator(nn.Layer):
    """Pictures to logits: Conv + BatchNorm + LeakyReLU(0.2) blocks (Radford et al. 2016, sec. 3).

    Args: base_channels - channels after the first layer; doubles with each halving.  image_size, channels,
          batch_norm_momentum - as above.  spectral_norm - spectral normalisation, and a bias in the stead of each
          BatchNorm, which would undo it (Miyato et al. 2018, table 3).
    Input: float [N, channels, image_size, image_size] in [-1, 1]. Output: logits [N, 1, 1, 1]; positive means "real".
    """

    def __init__(
        self,
        base_channels: int = 64,
        image_size: int = 64,
        channels: int = 3,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        spectral_norm: bool = False,
    ):
        super().__init__()
        self.kernels = PADDLE_KERNELS
        convolution = SpectralConv2D if spectral_norm else nn.Conv2D
        widths = [channels, *_widths(base_channels, image_size), 1]
        self.depth = len(widths) - 1
        for i in range(1, self.depth + 1):
            stride, padding = (2, 1) if i < self.depth else (1, 0)  # last: 4x4 -> 1x1
            has_norm = 1 < i < self.depth
            bias = None if has_norm and spectral_norm else False  # None: Paddle's default, a bias that begins as zero
            conv = convolution(widths[i - 1], widths[i], 4, stride, padding, weight_attr=_conv_init(), bias_attr=bias)
            self.add_sublayer(f"conv_{i}", conv)
            if has_norm and not spectral_norm:
                self.add_sublayer(f"bn_{i}", _batch_norm(widths[i], batch_norm_momentum))

    def forward(self, image):
        follow(self)
        kernels = self.kernels if self.training else PADDLE_KERNELS
        x = kernels.layer(kernels.enter(image), self.conv_1, None, "leaky_relu")
        for i in range(2, self.depth):
            x = kernels.layer(x, getattr(self, f"conv_{i}"), getattr(self, f"bn_{i}", None), "leaky_relu")
        return kernels.leave(kernels.layer(x, getattr(self, f"conv_{self.depth}"), None, None))

    def probability(self, image):
        """D(x): the probability in (0, 1) that each picture is real, [N, 1, 1, 1]."""
        return nn.functional.sigmoid(self(image))


def check_image_size(image_size: int) -> None:
    """Raise ValueError unless the networks exist at this size."""
    is_power_of_two = image_size > 0 and image_size & (image_size - 1) == 0
    if not is_power_of_two or not SMALLEST_IMAGE <= image_size <= LARGEST_IMAGE:
        raise ValueError(
            f"image_size must be a power of two from {SMALLEST_IMAGE} to {LARGEST_IMAGE}, received {image_size}"
        )


def network_sizes(tensors: Mapping[str, np.ndarray]) -> tuple[int, int, int] | None:
    """(latent_dim, base_channels, image_size) of a generator's tensors by name; None if they are not a generator's."""
    depth = sum(name.startswith("conv_") for name in tensors)
    first, last = tensors.get("conv_1.weight"), tensors.get(f"conv_{depth}.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        return None
    return first.shape[0], last.shape[0], 2 ** (depth + 1)


def with_synchronised_statistics(network: nn.Layer) -> nn.Layer:
    """`network`, its BatchNorm now over the batches of all processes. Names, weights and statistics stay.

    Only GPUs compute it: Paddle has no such operator for CPUs (3.2.2). Never run.
    """
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def parameter_count(network: nn.Layer) -> int:
    """How many numbers the optimizer moves: BatchNorm's running statistics are not among them."""
    return sum(int(p.size) for p in network.parameters() if not p.stop_gradient)


def _widths(base_channels: int, image_size: int) -> list[int]:
    """Channels at image_size/2, image_size/4, ... 4x4: [64, 128, 256, 512] for 64 channels at 64 pixels."""
    check_image_size(image_size)
    return [base_channels << i for i in range(image_size.bit_length() - 3)]


def _conv_init() -> paddle.ParamAttr:
    """N(0, 0.02) (Radford et al. 2016, sec. 4)."""
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, 0.02))


def begin_bilinear(weight: paddle.Tensor) -> None:
    """Let a transposed convolution of kernel 4, stride 2, padding 1 begin as: mix the channels, enlarge bilinearly.

    `weight` [inputs, filters, 4, 4]: each 4 x 4 kernel becomes a random number times the kernel of bilinear
    interpolation (Long et al. 2015, sec. 3.3), as large as N(0, 0.02) is on average. Random kernels treat even and odd
    pixels differently, and each doubling adds a grid that training then has to remove; this one begins without
    (Aitken et al. 2017 begin sub-pixel convolutions so that they, too, have none).
    """
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype("float32") / 5  # root mean square 1
    mixing = paddle.randn([*weight.shape[:2], 1, 1]) * 0.02
    weight.set_value(mixing * paddle.to_tensor(taps))


def _batch_norm(channels: int, momentum: float) -> nn.BatchNorm2D:
    """BatchNorm whose scale begins as N(1, 0.02)."""
    scale = paddle.ParamAttr(initializer=nn.initializer.Normal(1.0, 0.02))
    return nn.BatchNorm2D(channels, momentum=momentum, weight_attr=scale)
