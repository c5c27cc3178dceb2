"""Re-estimating BatchNorm statistics before an export, and what that changed: a figure for the log and the manifest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from dcgan.errors import ExportError
from dcgan.networks.batch_norm import BATCH_SIZE, FIRST_SEED, batch_norm_layers, precise_bn, precise_bn_latents
from deploy.seeds import latents

_SHOWN_SEEDS = range(100)
_SATURATED = 0.99  # |pixel| above which tanh no longer tells much apart


class BatchNormChange(NamedTuple):
    """What re-estimating changed, on the images of seeds 0-99: differences in units of [-1, 1], shares of pixels."""

    latents: int
    first_seed: int
    layers: int
    mean_change: float
    max_change: float
    saturated_before: float
    saturated_after: float

    def sentence(self) -> str:
        return (
            f"BatchNorm statistics of {self.layers} layers re-estimated over {self.latents} latents; images changed by "
            f"{self.mean_change:.4f} on average, {self.max_change:.3f} at most (black is -1, white 1); saturated "
            f"pixels {self.saturated_before:.1%} -> {self.saturated_after:.1%}"
        )


def precise_bn_change(generator: nn.Layer, latent_dim: int, batches: int) -> BatchNormChange:
    """Apply `precise_bn` to `generator`, in place, over `batches` of 64 fixed latents, and say what changed.

    Raises ValueError for fewer than one batch, ExportError when a layer's input is not finite.
    """
    if batches < 1:
        raise ValueError(f"precise_bn needs at least one batch of latents, received {batches}")
    generator.eval()
    before = _generate(generator, latent_dim)
    precise_bn(generator, precise_bn_latents(latent_dim, batches * BATCH_SIZE))
    for name, layer in batch_norm_layers(generator).items():
        if not np.isfinite(layer._mean.numpy()).all() or not np.isfinite(layer._variance.numpy()).all():
            raise ExportError(f"the activations before {name} are not finite: the weights are of no use")
    after = _generate(generator, latent_dim)
    change = np.abs(after - before)
    return BatchNormChange(
        batches * BATCH_SIZE,
        FIRST_SEED,
        len(batch_norm_layers(generator)),
        float(change.mean()),
        float(change.max()),
        float((np.abs(before) > _SATURATED).mean()),
        float((np.abs(after) > _SATURATED).mean()),
    )


@paddle.no_grad()
def _generate(generator: nn.Layer, latent_dim: int) -> np.ndarray:
    return generator(paddle.to_tensor(latents(_SHOWN_SEEDS, latent_dim))).numpy()
