"""Which sizes the two networks can have, and the sizes of given weights. Knows no Paddle, so that a config can ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help of the tools is quicker without numpy
    import numpy as np

SMALLEST_IMAGE, LARGEST_IMAGE = 16, 256


def check_image_size(image_size: int) -> None:
    """Raise ValueError unless the networks exist at this size."""
    is_power_of_two = image_size > 0 and image_size & (image_size - 1) == 0
    if not is_power_of_two or not SMALLEST_IMAGE <= image_size <= LARGEST_IMAGE:
        raise ValueError(
            f"image_size must be a power of two from {SMALLEST_IMAGE} to {LARGEST_IMAGE}, received {image_size}"
        )


def hidden_channels(base_channels: int, image_size: int) -> list[int]:
    """Channels at image_size/2, image_size/4, ... 4x4: [64, 128, 256, 512] for 64 channels at 64 pixels."""
    check_image_size(image_size)
    return [base_channels << i for i in range(image_size.bit_length() - 3)]


def network_sizes(tensors: Mapping[str, np.ndarray]) -> tuple[int, int, int] | None:
    """(latent_dim, base_channels, image_size) of a generator's tensors by name; None if they are not a generator's.

    Every convolution must have the shape that these sizes say: two small ones cannot announce a network of gigabytes.
    """
    return _sizes(_convolutions(tensors))


def discriminator_sizes(tensors: Mapping[str, np.ndarray]) -> tuple[int, int] | None:
    """As `network_sizes`, (base_channels, image_size) of a discriminator's tensors."""
    # Paddle keeps the weights of both kinds of convolution by the smaller image first: from its last layer to its
    # first, a discriminator has the shapes of a generator whose latents are one number, the logit.
    found = _sizes(_convolutions(tensors)[::-1])
    return found[1:] if found and found[0] == 1 else None


def _sizes(shapes: list[tuple[int, ...]]) -> tuple[int, int, int] | None:
    """`network_sizes` by the shapes of convolutions, the one at the latents first."""
    if not shapes:
        return None
    latent_dim, base_channels, image_size = shapes[0][0], shapes[-1][0], 2 ** (len(shapes) + 1)
    widths = [latent_dim, *reversed(hidden_channels(base_channels, image_size)), shapes[-1][1]]
    if shapes != [(before, after, 4, 4) for before, after in zip(widths, widths[1:])]:
        return None
    return latent_dim, base_channels, image_size


def _convolutions(tensors: Mapping[str, np.ndarray]) -> list[tuple[int, ...]]:
    """The shapes of a network's convolutions, in order; none if there are too few, too many or empty ones."""
    depth = sum(name.startswith("conv_") for name in tensors)
    shapes = [getattr(tensors.get(f"conv_{i}.weight"), "shape", ()) for i in range(1, depth + 1)]
    return [] if not 3 <= depth <= 7 or any(len(shape) != 4 or 0 in shape for shape in shapes) else shapes
