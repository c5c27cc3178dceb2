"""Shapes and multiplications of the layers of one image, and the bounds that they must keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

MAX_NODES = 500  # an older export of 256 x 256 has some 70
MAX_ELEMENTS = 1 << 26  # numbers of one intermediate result for one image
MAX_PRODUCTS = 1 << 42  # multiplications for one image

Shape = tuple  # of whole numbers; the batch axis is 1
Attributes = dict[str, Any]


class RefusedError(Exception):
    """What is wrong with the file, as the end of a sentence."""


def need(condition: object, message: str) -> None:
    if not condition:
        raise RefusedError(message)


class Value(NamedTuple):
    """What is known of a value: shape, whether it is a constant of the file, and small whole numbers themselves."""

    shape: Shape
    is_constant: bool = False
    numbers: tuple[int, ...] | None = None


def same_shape(inputs: list[Value], attributes: Attributes) -> tuple[Shape, int]:
    return inputs[0].shape, math.prod(inputs[0].shape)


def squeeze(inputs: list[Value], attributes: Attributes) -> tuple[Shape, int]:
    need(len(inputs) == 2 and inputs[1].numbers == (2, 3) and inputs[0].shape[2:] == (1, 1), "it squeezes other axes")
    return inputs[0].shape[:2], 0


def unsqueeze(inputs: list[Value], attributes: Attributes) -> tuple[Shape, int]:
    need(len(inputs) == 2 and inputs[1].numbers == (2, 3) and len(inputs[0].shape) == 2, "it adds other axes")
    return (*inputs[0].shape, 1, 1), 0


def convolution(image: Shape, kernel: Shape, strides: Any, pads: Sequence[Any], transposed: bool) -> tuple[Shape, int]:
    """Shape and multiplications of a convolution, or of a transposed one, of one image.

    Args: image - 1, channels, height, width.  kernel - with its output channels first, transposed: second.
          pads - top, left, bottom, right.
    """
    need(len(image) == len(kernel) == 4, "it convolves what is no image")
    need(strides in ([1, 1], [2, 2]), "it convolves in larger steps than two")
    need(all(type(n) is int and 0 <= n <= 8 for n in pads), "it pads more than any export")
    source, target = (kernel[0], kernel[1]) if transposed else (kernel[1], kernel[0])
    need(image[1] == source, f"it convolves {image[1]} channels with a kernel for {source}")
    sizes = []
    for axis in (0, 1):
        n, k, pad, stride = image[2 + axis], kernel[2 + axis], pads[axis] + pads[2 + axis], strides[axis]
        sizes.append(stride * (n - 1) + k - pad if transposed else (n + pad - k) // stride + 1)
    need(min(sizes) > 0, "it convolves an image that is smaller than the kernel")
    taken = image[2] * image[3] if transposed else sizes[0] * sizes[1]
    return (1, target, *sizes), taken * math.prod(kernel)
