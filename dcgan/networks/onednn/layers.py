"""The layers of both networks on oneDNN: convolution, BatchNorm and activation in one autograd node.

Between the layers images stay NHWC and, if asked, bfloat16; weights, their gradients and BatchNorm's statistics are
float32 and Paddle's own, so that optimizers, checkpoints and export see no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from . import primitives
from .primitives import NCHW, NHWC, describe, reorder


class OneDnnKernels:
    """Drop-in for `networks.PaddleKernels`, for training and generating on a CPU.

    Args: dtype - of the images between the layers, "float32" or "bfloat16".
    Gradients come by `backward()`. `paddle.grad` and gradients of gradients are not defined: a penalty on gradients
    needs Paddle's own operators. Nor are gradients through a BatchNorm in eval mode.
    """

    def __init__(self, dtype: str = "float32"):
        self.dtype = dtype

    def __deepcopy__(self, memo: dict) -> OneDnnKernels:
        return self  # it holds nothing of the network that uses it

    def enter(self, images: paddle.Tensor) -> paddle.Tensor:
        """float32 NCHW -> NHWC in this dtype."""
        return _Enter.apply(images, self.dtype)

    def layer(self, x: paddle.Tensor, conv: nn.Layer, norm: nn.Layer | None, activation: str | None) -> paddle.Tensor:
        """activation(norm(conv(x))), images NHWC.

        As Paddle's BatchNorm, `norm` uses and moves its statistics by its own mode, and its forward pre-hooks see its
        input as NCHW. A convolution with a bias has no norm behind it.
        """
        scale, shift = (norm.weight, norm.bias) if norm is not None else (None, conv.bias)
        return _Layer.apply(x, conv.weight, scale, shift, conv, norm, activation, self.dtype)

    def leave(self, x: paddle.Tensor) -> paddle.Tensor:
        """NHWC in this dtype -> float32 NCHW."""
        return _Leave.apply(x, self.dtype)


class _Enter(PyLayer):
    @staticmethod
    def forward(ctx: Any, images: paddle.Tensor, dtype: str) -> paddle.Tensor:
        ctx.dtype = dtype
        return _to_nhwc(images, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        return _to_nchw(gradient, ctx.dtype)


class _Leave(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, dtype: str) -> paddle.Tensor:
        ctx.dtype = dtype
        return _to_nchw(x, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        return _to_nhwc(gradient, ctx.dtype)


class _Layer(PyLayer):
    @staticmethod
    def forward(ctx: Any, x, weight, scale, shift, conv, norm, activation, dtype):
        convolve = _Convolve(x, conv, dtype)
        y = convolve.forward(x, weight)
        if norm is not None:
            _call_pre_hooks(norm, y, dtype)
        # Only now: a hook may end the forward pass, and Paddle never frees the context of one that raised.
        ctx.convolve, ctx.x, ctx.weight, ctx.scale = convolve, x.detach(), weight, scale
        ctx.needs_x, ctx.needs_weight = not x.stop_gradient, not weight.stop_gradient
        shape = _channels_first(y.shape)
        ctx.norm = primitives.batch_norm(shape, dtype, norm._epsilon) if norm is not None else None
        ctx.is_eval = norm is not None and not norm.training
        ctx.activation = primitives.activation(activation, shape, dtype) if activation else None
        ctx.has_bias = norm is None and shift is not None
        if ctx.has_bias:
            y.add_(shift.astype(dtype))
        if ctx.is_eval:
            ctx.norm.infer(*_addresses(y, y, norm._mean, norm._variance, scale, shift))
        elif ctx.norm:
            ctx.before_norm, y = y, paddle.empty_like(y)
            ctx.mean, ctx.variance = paddle.empty_like(scale), paddle.empty_like(scale)
            ctx.norm.forward(*_addresses(ctx.before_norm, y, ctx.mean, ctx.variance, scale, shift))
            _move_statistics(norm, ctx.mean, ctx.variance)
        if ctx.activation:
            ctx.activation.forward(y.data_ptr())
        ctx.result = y.detach()
        return y

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> tuple:
        if ctx.is_eval:
            raise RuntimeError("oneDNN kernels have no gradient through BatchNorm in eval mode: use PADDLE_KERNELS")
        # In place: the next layer or _Leave has made this gradient, and nobody else sees it.
        if ctx.activation:
            ctx.activation.backward(*_addresses(ctx.result, gradient))
        norm_gradients: list[paddle.Tensor] = []
        if ctx.norm:
            norm_gradients = [paddle.empty_like(ctx.scale), paddle.empty_like(ctx.scale)]
            ctx.norm.backward(
                *_addresses(ctx.before_norm, ctx.mean, ctx.variance, ctx.scale, gradient, gradient, *norm_gradients)
            )
        if ctx.has_bias:
            norm_gradients = [gradient.astype("float32").sum([0, 1, 2])]
        x_gradient = ctx.convolve.image_gradient(gradient, ctx.weight, ctx.x) if ctx.needs_x else None
        if not ctx.needs_weight:
            return (x_gradient, None, *[None for _ in norm_gradients])
        return (x_gradient, ctx.convolve.weight_gradient(gradient, ctx.weight, ctx.x), *norm_gradients)


def _addresses(*tensors: paddle.Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


class _Convolve:
    """The convolution of a layer, transposed or not, between tensors NHWC; weights in Paddle's layout."""

    def __init__(self, x: paddle.Tensor, conv: nn.Layer, dtype: str):
        n, side, _, channels = x.shape
        filters, kernel, stride, padding = conv._out_channels, conv._kernel_size[0], conv._stride[0], conv._padding
        self.transposed = isinstance(conv, nn.Conv2DTranspose)
        if self.transposed:
            result = (side - 1) * stride - 2 * padding + kernel
            large, small_channels = (n, filters, result, result), channels
        else:
            result = (side + 2 * padding - kernel) // stride + 1
            large, small_channels = (n, channels, side, side), filters
        self.result_shape = [n, result, result, filters]
        self._conv = primitives.convolution(large, small_channels, kernel, stride, padding, dtype)

    def forward(self, x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
        result = paddle.empty(self.result_shape, x.dtype)
        run = self._conv.backward_data if self.transposed else self._conv.forward
        run(x.data_ptr(), weight.data_ptr(), result.data_ptr())
        return result

    def image_gradient(self, gradient: paddle.Tensor, weight: paddle.Tensor, x: paddle.Tensor) -> paddle.Tensor:
        result = paddle.empty_like(x)
        run = self._conv.forward if self.transposed else self._conv.backward_data
        run(gradient.data_ptr(), weight.data_ptr(), result.data_ptr())
        return result

    def weight_gradient(self, gradient: paddle.Tensor, weight: paddle.Tensor, x: paddle.Tensor) -> paddle.Tensor:
        result = paddle.empty_like(weight)
        large, small = (gradient, x) if self.transposed else (x, gradient)
        self._conv.backward_weights(large.data_ptr(), small.data_ptr(), result.data_ptr())
        return result


def _call_pre_hooks(norm: nn.Layer, y: paddle.Tensor, dtype: str) -> None:
    """What a call of `norm` would do first: precise_bn measures so. A hook that changes its input is refused."""
    for hook in norm._forward_pre_hooks.values():
        if hook(norm, (_to_nchw(y, dtype),)) is not None:
            raise NotImplementedError("a hook before BatchNorm may look at its input and not change it")


@paddle.no_grad()
def _move_statistics(norm: nn.Layer, mean: paddle.Tensor, variance: paddle.Tensor) -> None:
    """The running statistics as Paddle's own operator moves them: by the biased variance of the batch."""
    kept = norm._momentum
    for running, batch in ((norm._mean, mean), (norm._variance, variance)):
        running.scale_(kept).add_(batch * (1 - kept))


def _channels_first(shape: Sequence[int]) -> tuple[int, int, int, int]:
    n, height, width, channels = shape
    return n, channels, height, width


def _to_nhwc(images: paddle.Tensor, dtype: str) -> paddle.Tensor:
    n, channels, height, width = images.shape
    result = paddle.empty([n, height, width, channels], dtype)
    shape = (n, channels, height, width)
    copy = reorder(describe(shape, "float32", NCHW), describe(shape, dtype, NHWC))
    copy(images.contiguous().data_ptr(), result.data_ptr())
    return result


def _to_nchw(x: paddle.Tensor, dtype: str) -> paddle.Tensor:
    shape = _channels_first(x.shape)
    result = paddle.empty(shape, "float32")
    reorder(describe(shape, dtype, NHWC), describe(shape, "float32", NCHW))(x.data_ptr(), result.data_ptr())
    return result
