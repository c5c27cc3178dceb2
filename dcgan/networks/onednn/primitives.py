"""oneDNN's calculations on raw memory: convolution, BatchNorm, activation and change of layout, forward and backward.

Each object is one calculation for one shape, made once and kept, for making takes milliseconds. Calls take the
addresses of contiguous arrays: weights float32 in Paddle's layout, images NHWC, the layout that oneDNN's convolutions
are fast on for any number of channels.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence

import numpy as np
import paddle

from .library import Handle, call, create, engine, has_avx512, library, stream

_DTYPES = {"bfloat16": 2, "float32": 3}  # dnnl_data_type_t
ANY, VECTOR, MATRIX, NCHW, NHWC = 1, 2, 3, 5, 22  # dnnl_format_tag_t: any, a, ab, abcd, acdb
_TRAINING, _INFERENCE, _BACKWARD, _DIRECT = 64, 96, 128, 1  # dnnl_prop_kind_t, dnnl_alg_kind_t
_GIVEN_STATISTICS, _SCALE_AND_SHIFT = 1, 2 | 4  # dnnl_normalization_flags_t
_SOURCE, _DESTINATION, _WEIGHTS = 1, 17, 33  # DNNL_ARG_*
_MEAN, _VARIANCE, _SCALE, _SHIFT, _SCALE_GRADIENT, _SHIFT_GRADIENT = 49, 50, 51, 52, 255, 256
_GRADIENT = 128  # DNNL_ARG_DIFF_x is so much more than DNNL_ARG_x, but for scale and shift
_QUERIES = {  # dnnl_query_*_md, by argument
    _SOURCE: 129,
    _SOURCE + _GRADIENT: 130,
    _WEIGHTS: 131,
    _WEIGHTS + _GRADIENT: 132,
    _DESTINATION: 133,
    _DESTINATION + _GRADIENT: 134,
}
# dnnl_eltwise_*_use_dst_for_bwd and alpha: the gradient is computed from the output, so the input need not be kept.
_ACTIVATIONS = {"relu": (256, 0.0), "leaky_relu": (256, 0.2), "tanh": (257, 0.0)}
_lock = threading.Lock()  # a call's addresses are set in objects that all calls of a primitive share


class _Argument(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("memory", Handle)]


class Primitive:
    """A calculation that is ready to run: (argument kind, layout) pairs, called with one address for each."""

    def __init__(self, descriptor: Handle, arguments: Sequence[tuple[int, Handle]]):
        self._handle = create("dnnl_primitive_create", descriptor)
        self._memories = [create("dnnl_memory_create", layout, engine(), None) for _, layout in arguments]
        pairs = [(kind, memory) for (kind, _), memory in zip(arguments, self._memories)]
        self._arguments = (_Argument * len(pairs))(*pairs)

    def __call__(self, *addresses: int) -> None:
        with _lock:
            for memory, address in zip(self._memories, addresses):
                call("dnnl_memory_set_data_handle", memory, Handle(address))
            call("dnnl_primitive_execute", self._handle, stream(), len(self._arguments), self._arguments)
            call("dnnl_stream_wait", stream())


@functools.cache
def describe(shape: tuple[int, ...], dtype: str, layout: int) -> Handle:
    """Descriptor of an array. Shapes of images are (N, C, H, W) whatever the layout in memory."""
    dimensions = (ctypes.c_int64 * len(shape))(*shape)
    return create("dnnl_memory_desc_create_with_tag", len(shape), dimensions, _DTYPES[dtype], layout)


@functools.cache
def describe_strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> Handle:
    """Descriptor of an array whose neighbours along each axis are so many numbers apart."""
    dimensions, steps = ((ctypes.c_int64 * len(shape))(*numbers) for numbers in (shape, strides))
    return create("dnnl_memory_desc_create_with_strides", len(shape), dimensions, _DTYPES[dtype], steps)


class Convolution:
    """Convolution without bias of images `shape` = (N, C, H, H) by square kernels, and its two backward passes.

    A transposed convolution is the `backward_data` of the convolution from its large images to its small ones: Paddle
    keeps the weights of both as [channels of the small side, channels of the large side, k, k].
    """

    def __init__(
        self, shape: tuple[int, int, int, int], filters: int, kernel: int, stride: int, padding: int, dtype: str
    ):
        n, channels, height, _ = shape
        side = (height + 2 * padding - kernel) // stride + 1
        weight_shape = (filters, channels, kernel, kernel)
        image = describe(shape, dtype, NHWC)
        weights, gradient = describe(weight_shape, dtype, ANY), describe(weight_shape, "float32", ANY)
        self._paddle_weights = describe(weight_shape, "float32", NCHW)
        if height == kernel and not padding:  # a matrix product, for which oneDNN has code three times as fast
            make, kind, geometry = "dnnl_inner_product_{}_primitive_desc_create".format, [], []
            result = describe((n, filters), dtype, MATRIX)
        else:
            make, kind = "dnnl_convolution_{}_primitive_desc_create".format, [_DIRECT]
            geometry = [(ctypes.c_int64 * 2)(value, value) for value in (stride, 0, padding, padding)]
            result = describe((n, filters, side, side), dtype, NHWC)
        forward = create(make("forward"), engine(), _TRAINING, *kind, image, weights, None, result, *geometry, None)
        data = create(make("backward_data"), engine(), *kind, image, weights, result, *geometry, forward, None)
        update = create(
            make("backward_weights"), engine(), *kind, image, gradient, None, result, *geometry, forward, None
        )
        self._forward = _Weighted(forward, _SOURCE, _WEIGHTS, _DESTINATION)
        self._backward_data = _Weighted(data, _SOURCE + _GRADIENT, _WEIGHTS, _DESTINATION + _GRADIENT)
        self._backward_weights = _Weighted(update, _SOURCE, _WEIGHTS + _GRADIENT, _DESTINATION + _GRADIENT)
        self._few_channels = self._exchanged = None
        if (kernel, stride, padding) == (4, 2, 1) and height % 2 == 0:
            if channels <= _FewChannels.MOST:
                self._few_channels = _FewChannels(shape, filters, dtype)
            if side <= _Exchanged.LARGEST_SIDE and not has_avx512():
                self._exchanged = _Exchanged(shape, filters, dtype)

    def forward(self, image: int, weights: int, result: int) -> None:
        own, _keep = _convert(weights, self._paddle_weights, self._forward.weights)
        self._forward.primitive(image, own, result)

    def backward_data(self, result_gradient: int, weights: int, image_gradient: int) -> None:
        if self._few_channels:
            self._few_channels.backward_data(result_gradient, weights, image_gradient)
            return
        own, _keep = _convert(weights, self._paddle_weights, self._backward_data.weights)
        self._backward_data.primitive(image_gradient, own, result_gradient)

    def backward_weights(self, image: int, result_gradient: int, weight_gradient: int) -> None:
        if self._exchanged:
            self._exchanged.backward_weights(image, result_gradient, weight_gradient)
            return
        if _same(self._backward_weights.weights, self._paddle_weights):
            self._backward_weights.primitive(image, weight_gradient, result_gradient)
            return
        own = _scratch(self._backward_weights.weights)
        self._backward_weights.primitive(image, own.data_ptr(), result_gradient)
        reorder(self._backward_weights.weights, self._paddle_weights)(own.data_ptr(), weight_gradient)


class _FewChannels:
    """`backward_data` for kernel 4, stride 2, padding 1 and images of so few channels that they leave vectors empty.

    The four parities of the image's rows and columns are computed as channels of one 3 x 3 convolution of the small
    side, and then laid into each other: the same sums in half the time. (Shi et al. 2016, "Is the
    deconvolution layer the same as a convolutional layer?")
    """

    MOST = 4  # channels: four times as many fill a vector of 16
    # [parity, offset from the small side's row]: the kernel's row between the two; -1: none
    _TAPS = np.array([[3, 1, -1], [-1, 2, 0]])

    def __init__(self, shape: tuple[int, int, int, int], filters: int, dtype: str):
        n, channels, height, _ = shape
        side, self._weight_count = height // 2, filters * channels * 16
        self._convolution = Convolution(
            (n, filters, side, side), 4 * channels, kernel=3, stride=1, padding=1, dtype=dtype
        )
        self._parities = describe((n, 4 * channels, side, side), dtype, NHWC)
        # axes: all rows of the small side, parity of the row, columns, parity of the column and channel
        blocks = (n * side, 2, side, 2 * channels)
        self._interleave = reorder(
            describe_strided(blocks, (side * 4 * channels, 2 * channels, 4 * channels, 1), dtype),
            describe_strided(blocks, (2 * height * channels, height * channels, 2 * channels, 1), dtype),
        )
        a, b, c, f, y, x = np.ix_(range(2), range(2), range(channels), range(filters), range(3), range(3))
        row, column = self._TAPS[a, y], self._TAPS[b, x]
        place = ((f * channels + c) * 4 + row) * 4 + column
        self._places = np.where((row < 0) | (column < 0), self._weight_count, place)  # behind the last weight: a zero

    def backward_data(self, result_gradient: int, weights: int, image_gradient: int) -> None:
        paddles = np.ctypeslib.as_array((ctypes.c_float * self._weight_count).from_address(weights))
        arranged = np.append(paddles, np.float32(0))[self._places]
        parities = _scratch(self._parities)
        self._convolution.forward(result_gradient, arranged.ctypes.data, parities.data_ptr())
        self._interleave(parities.data_ptr(), image_gradient)


class _Exchanged:
    """`backward_weights` for kernel 4, stride 2, padding 1, with batch and channels exchanged.

    The weights' gradient is the convolution of the images by the result's gradient, over the batch as channels and with
    a dilation of 2. Without AVX-512, oneDNN's own code for this gradient is slow where there are many channels and few
    pixels; as a convolution it takes a third of the time, and half of it in small batches (docs/performance.md).
    """

    LARGEST_SIDE = 4  # of the result: the kernel of the exchanged convolution. With 8 and more it is often slower.

    def __init__(self, shape: tuple[int, int, int, int], filters: int, dtype: str):
        n, channels, height, _ = shape
        side = height // 2
        image, result = describe((channels, n, height, height), dtype, NHWC), (channels, filters, 4, 4)
        kernels, gradient = describe((filters, n, side, side), dtype, ANY), describe(result, "float32", NHWC)
        geometry = [(ctypes.c_int64 * 2)(value, value) for value in (1, 1, 1, 1)]  # stride, dilation - 1, padding
        forward = create(
            "dnnl_convolution_forward_primitive_desc_create",
            *(engine(), _TRAINING, _DIRECT, image, kernels, None, gradient, *geometry, None),
        )
        self._forward = _Weighted(forward, _SOURCE, _WEIGHTS, _DESTINATION)
        self._image, self._gradient = image, gradient
        self._exchange_image = reorder(_exchanged_nhwc(shape, dtype), image)
        self._exchange_kernels = reorder(_exchanged_nhwc((n, filters, side, side), dtype), self._forward.weights)
        paddles = describe_strided(result, (16, channels * 16, 4, 1), "float32")
        self._exchange_gradient = reorder(gradient, paddles)

    def backward_weights(self, image: int, result_gradient: int, weight_gradient: int) -> None:
        images, kernels, gradient = (_scratch(each) for each in (self._image, self._forward.weights, self._gradient))
        self._exchange_image(image, images.data_ptr())
        self._exchange_kernels(result_gradient, kernels.data_ptr())
        self._forward.primitive(images.data_ptr(), kernels.data_ptr(), gradient.data_ptr())
        self._exchange_gradient(gradient.data_ptr(), weight_gradient)


def _exchanged_nhwc(shape: tuple[int, int, int, int], dtype: str) -> Handle:
    """Images NHWC of `shape` = (N, C, H, H), described as C images of N channels."""
    n, channels, side, _ = shape
    return describe_strided((channels, n, side, side), (1, side * side * channels, side * channels, channels), dtype)


class _Weighted:
    """A primitive of (image, weights, result), and the layout it wants its weights in."""

    def __init__(self, descriptor: Handle, *kinds: int):
        layouts = [Handle(library().dnnl_primitive_desc_query_md(descriptor, _QUERIES[kind], 0)) for kind in kinds]
        self.weights = layouts[1]
        self.primitive = Primitive(descriptor, list(zip(kinds, layouts)))


class BatchNorm:
    """BatchNorm over images NHWC of `shape` = (N, C, H, W): `forward` and `backward` by the statistics of the batch,
    `infer` by given ones, which may write in place."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: str, epsilon: float):
        image, vector = describe(shape, dtype, NHWC), describe((shape[1],), "float32", VECTOR)
        make = "dnnl_batch_normalization_{}_primitive_desc_create".format
        settings = (ctypes.c_float(epsilon), _SCALE_AND_SHIFT)
        given = (ctypes.c_float(epsilon), _GIVEN_STATISTICS | _SCALE_AND_SHIFT)
        forward = create(make("forward"), engine(), _TRAINING, image, image, *settings, None)
        infer = create(make("forward"), engine(), _INFERENCE, image, image, *given, None)
        backward = create(make("backward"), engine(), _BACKWARD, image, image, image, *settings, forward, None)
        statistics = [(_MEAN, vector), (_VARIANCE, vector)]
        vectors = [*statistics, (_SCALE, vector), (_SHIFT, vector)]
        self.forward = Primitive(forward, [(_SOURCE, image), (_DESTINATION, image), *vectors])
        self.infer = Primitive(infer, [(_SOURCE, image), (_DESTINATION, image), *vectors])
        self.backward = Primitive(
            backward,
            [
                (_SOURCE, image),
                *statistics,
                (_SCALE, vector),
                (_DESTINATION + _GRADIENT, image),
                (_SOURCE + _GRADIENT, image),
                (_SCALE_GRADIENT, vector),
                (_SHIFT_GRADIENT, vector),
            ],
        )


class Activation:
    """relu, leaky_relu (slope 0.2) or tanh of images NHWC, in place, and its backward pass, in place too."""

    def __init__(self, name: str, shape: tuple[int, int, int, int], dtype: str):
        image = describe(shape, dtype, NHWC)
        kind, alpha = _ACTIVATIONS[name]
        numbers = (ctypes.c_float(alpha), ctypes.c_float(0))
        make = "dnnl_eltwise_{}_primitive_desc_create".format
        forward = create(make("forward"), engine(), _TRAINING, kind, image, image, *numbers, None)
        backward = create(make("backward"), engine(), kind, image, image, image, *numbers, forward, None)
        self._forward = Primitive(forward, [(_SOURCE, image), (_DESTINATION, image)])
        self._backward = Primitive(
            backward, [(_DESTINATION, image), (_DESTINATION + _GRADIENT, image), (_SOURCE + _GRADIENT, image)]
        )

    def forward(self, image: int) -> None:
        self._forward(image, image)

    def backward(self, result: int, gradient: int) -> None:
        self._backward(result, gradient, gradient)


convolution = functools.lru_cache(maxsize=None)(Convolution)
batch_norm = functools.lru_cache(maxsize=None)(BatchNorm)
activation = functools.lru_cache(maxsize=None)(Activation)

_reorders: dict[tuple[int, int], Primitive] = {}  # by the addresses of both descriptors, which live as long


def reorder(source: Handle, destination: Handle) -> Primitive:
    """Copy from one layout and dtype to another."""
    pair = (source.value, destination.value)
    if pair not in _reorders:
        descriptor = create("dnnl_reorder_primitive_desc_create", source, engine(), destination, engine(), None)
        _reorders[pair] = Primitive(descriptor, [(_SOURCE, source), (_DESTINATION, destination)])
    return _reorders[pair]


def _same(a: Handle, b: Handle) -> bool:
    return bool(library().dnnl_memory_desc_equal(a, b))


def _scratch(layout: Handle) -> paddle.Tensor:
    """Memory for one array of this layout; it lives as long as the tensor."""
    return paddle.empty([library().dnnl_memory_desc_get_size(layout)], "uint8")


def _convert(address: int, source: Handle, wanted: Handle) -> tuple[int, paddle.Tensor | None]:
    """The address of the same array in the layout `wanted`, and the memory to be kept until it has been used."""
    if _same(source, wanted):
        return address, None
    converted = _scratch(wanted)
    reorder(source, wanted)(address, converted.data_ptr())
    return converted.data_ptr(), converted
