"""Spectral normalisation of convolutions (Miyato et al. 2018, sec. 2): a discriminator whose slope is bounded.

Each weight, as a matrix [filters, the rest], is divided by its largest singular value, which one step of the power
iteration per forward pass follows. Not Paddle's own `spectral_norm`: that one moves its vectors in eval mode too, and
its hook is passed by when a kernel or an export reads the weight.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle
from paddle import nn

from .errors import CheckpointError

FIRST_ITERATIONS = 20  # a fresh matrix and fresh vectors have nothing in common yet


class SpectralConv2D(nn.Conv2D):
    """A Conv2D whose `weight` is read divided by its largest singular value.

    In its state `weight` is the one that the optimizer moves, `u` [filters] and `v` [the rest] are the singular
    vectors as they stand: float32, unit length. Reading changes nothing; `iterate` moves u and v.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        matrix = self._matrix()
        for name, length in zip("uv", matrix.shape):
            self.register_buffer(name, nn.functional.normalize(paddle.randn([length]), axis=0))
        for _ in range(FIRST_ITERATIONS):
            self.iterate()

    @property
    def weight(self) -> paddle.Tensor:
        raw = self._parameters["weight"]
        with paddle.amp.auto_cast(enable=False):
            direction = paddle.outer(self.u.astype("float32"), self.v.astype("float32"))
            largest = (self._matrix() * direction).sum()  # u W v; its gradient is `direction`
            return (raw.astype("float32") / largest).astype(raw.dtype)

    @weight.setter
    def weight(self, value: paddle.Tensor) -> None:
        """nn.Layer has kept the parameter in `_parameters` under this name."""

    @paddle.no_grad()
    def iterate(self) -> None:
        """One step of the power iteration: u and v closer to the singular vectors of the weight as it is now."""
        with paddle.amp.auto_cast(enable=False):
            matrix = self._matrix()
            v = nn.functional.normalize(matrix.t() @ self.u.astype("float32"), axis=0)
            u = nn.functional.normalize(matrix @ v, axis=0)
            paddle.assign(v.astype(self.v.dtype), self.v)
            paddle.assign(u.astype(self.u.dtype), self.u)

    def _matrix(self) -> paddle.Tensor:
        raw = self._parameters["weight"]
        return raw.reshape([raw.shape[0], -1]).astype("float32")


def follow(network: nn.Layer) -> None:
    """Move u and v of every spectral convolution in `network` that learns: not in eval mode, not while it is frozen.

    So a discriminator step moves them twice, once for real pictures and once for fakes, and a generator step never.
    """
    for layer in network.sublayers():
        if isinstance(layer, SpectralConv2D) and layer.training and not layer._parameters["weight"].stop_gradient:
            layer.iterate()


def plain(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors, by name, of an ordinary discriminator that judges as this one does in eval mode: what is exported.

    Weights are divided by their norms, biases become those of BatchNorm layers that change nothing else. Tensors of a
    discriminator without spectral normalisation come back as they are. Raises CheckpointError for vectors that do not
    fit their weight.
    """
    layers = [name[:-2] for name in tensors if name.endswith(".u")]
    result = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] not in layers}
    for layer in layers:
        weight, u, v, bias = (tensors.get(f"{layer}.{part}") for part in ("weight", "u", "v", "bias"))
        if weight is None or v is None or weight.ndim != 4 or (*u.shape, *v.shape) != (len(weight), weight[0].size):
            raise CheckpointError(f"the singular vectors {layer}.u and {layer}.v do not fit {layer}.weight")
        largest = u.astype(np.float64) @ weight.reshape(len(u), -1) @ v
        with np.errstate(all="ignore"):  # whoever reads the weights looks for what is not finite
            result[f"{layer}.weight"] = (weight / largest).astype(np.float32)
        if bias is not None:
            identity = {"weight": 1.0, "_mean": 0.0, "_variance": 1.0 - 1e-5}  # 1e-5: BatchNorm's epsilon
            norm = layer.replace("conv_", "bn_")
            result.update({f"{norm}.{part}": np.full_like(bias, value) for part, value in identity.items()})
            result[f"{norm}.bias"] = bias
    return result
