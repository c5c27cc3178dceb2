"""How much there is to compute and to move in one training step or one image: the basis of the lower bound.

A convolution multiplies each of its weights once for each position of its smaller side, whichever of its three passes
it is: 2 * inputs * filters * kernel^2 * positions floating point operations an image. BatchNorm, activations and the
optimizer are left out: together they are below one per cent.
"""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """A (transposed) convolution from `channels_in` x `side_in`^2 to `channels_out` x `side_out`^2 numbers."""

    channels_in: int
    side_in: int
    channels_out: int
    side_out: int
    kernel: int = 4

    @property
    def flop(self) -> int:
        positions = min(self.side_in, self.side_out) ** 2
        return 2 * self.weights * positions

    @property
    def weights(self) -> int:
        return self.channels_in * self.channels_out * self.kernel**2

    @property
    def numbers(self) -> int:
        """Activations that go in and come out, an image."""
        return self.channels_in * self.side_in**2 + self.channels_out * self.side_out**2


class Work(NamedTuple):
    """Floating point operations, and bytes that must be read or written if nothing stays in a cache."""

    flop: float
    bytes: float


def discriminator(base_channels: int, image_size: int) -> list[Layer]:
    """The layers of the discriminator."""
    layers, channels, side, width = [], 3, image_size, base_channels
    while side > 4:
        layers.append(Layer(channels, side, width, side // 2))
        channels, side, width = width, side // 2, width * 2
    return [*layers, Layer(channels, 4, 1, 1)]


def generator(latent_dim: int, base_channels: int, image_size: int) -> list[Layer]:
    """The layers of the generator: the discriminator's mirrored, but for latents instead of one logit."""
    mirrored = [
        Layer(d.channels_out, d.side_out, d.channels_in, d.side_in) for d in discriminator(base_channels, image_size)
    ]
    return [mirrored[-1]._replace(channels_in=latent_dim), *reversed(mirrored[:-1])]


def training_step(
    latent_dim: int, base_channels: int, image_size: int, batch_size: int, bytes_per_number: int = 4
) -> Work:
    """One iteration: G generates; D scores real and generated images and learns; D scores again and G learns.

    Gradients: of weights in both networks, of inputs except those of G's first layer and, when D learns, D's first;
    none of D's weights when G learns. Bytes: each pass reads two of a layer's arrays and writes the third; Adam reads
    weight, gradient and two moments and writes all but the gradient, in float32.
    """
    g, d = generator(latent_dim, base_channels, image_size), discriminator(base_channels, image_size)
    generates = [*g, *g, *g[1:]]  # forward, gradients of weights, gradients of inputs
    learns = [*d, *d, *d[1:]]
    scores = [*d, *d]  # forward, gradients of inputs
    passes = inference([*generates, *scores], batch_size, bytes_per_number)
    passes_of_d = inference(learns, 2 * batch_size, bytes_per_number)
    optimizer = 7 * 4 * sum(layer.weights for layer in (*g, *d))
    return Work(passes.flop + passes_of_d.flop, passes.bytes + passes_of_d.bytes + optimizer)


def inference(layers: list[Layer], batch_size: int, bytes_per_number: int = 4) -> Work:
    """One pass through each of the layers."""
    numbers = sum(layer.numbers * batch_size + layer.weights for layer in layers)
    return Work(batch_size * sum(layer.flop for layer in layers), bytes_per_number * numbers)
