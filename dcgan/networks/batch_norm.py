"""BatchNorm statistics: those of the very weights of a generator (`precise_bn`), and which a network has.

Training keeps 0.8 of the old statistics per iteration, so it remembers about the last five batches, of weights that
have since changed; averaged (EMA) weights were never run in training at all. `precise_bn` re-estimates each layer's
mean and variance over fixed latents, from the first layer to the last, with the layers before it already in eval mode
on their new statistics. The network then maps these latents exactly as one training-mode batch of all of them would be
mapped, and the statistics are those of the function that is exported. (PreciseBN of Wu & Johnson 2021, sec. 3, runs all
layers in training mode at once: one pass instead of one per layer, but each batch is normalised by itself, so that the
result depends on the batch size.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import paddle
from paddle import nn

from deploy.seeds import latents

_BATCH_NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)
BATCH_SIZE = 64
LATENT_COUNT = 8 * BATCH_SIZE
FIRST_SEED = 1 << 31  # far from the seeds that people type and that parity is measured on


def batch_norm_layers(network: nn.Layer) -> dict[str, nn.Layer]:
    """The BatchNorm layers of `network` by structured name."""
    return {name: layer for name, layer in network.named_sublayers() if isinstance(layer, _BATCH_NORMS)}


def running_statistics(network: nn.Layer) -> dict[str, paddle.Tensor]:
    """What a network's training changes without a gradient: BatchNorm's running mean and variance, by name.

    The network must not be frozen.
    """
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.stop_gradient}


@paddle.no_grad()
def precise_bn(generator: nn.Layer, z: np.ndarray, batch_size: int = BATCH_SIZE) -> None:
    """Set the BatchNorm statistics of `generator` to those of its own weights over the latents `z`, float32 [N, ...].

    The generator is left in eval mode. Costs about two passes over the latents, `batch_size` at a time, which does not
    change the result beyond rounding: the layers before each layer run again, since keeping their outputs for all
    latents would take gigabytes at 256 x 256 pixels. Weights that are not finite give statistics that are not. Layers
    that the generator has and does not use stay as they are.
    """
    generator.eval()
    batches = [z[i : i + batch_size] for i in range(0, len(z), batch_size)]
    for layer in _in_order_of_use(generator, batches[0]):
        mean, variance = _pooled([_moments(generator, layer, batch) for batch in batches])
        layer._mean.set_value(mean.astype(np.float32))
        layer._variance.set_value(variance.astype(np.float32))


def precise_bn_latents(latent_dim: int, count: int = LATENT_COUNT) -> np.ndarray:
    """`count` fixed latents, float32 [count, latent_dim], standardised together if there are enough for that.

    Standardised means mean 0 and covariance the identity, as of all latents there are, which removes most of the chance
    from a small sample: after 300 iterations of training, 512 of them leave images 0.0010 from those of 4,096 plain
    latents, where 512 plain ones leave 0.0044 and training's own statistics 0.0023.
    """
    z = latents(FIRST_SEED + np.arange(count), latent_dim)
    if count < 4 * latent_dim:  # with fewer, standardising bends the distribution of the single latent
        return z
    centred = z.astype(np.float64) - z.mean(axis=0, dtype=np.float64)
    root = np.linalg.cholesky(centred.T @ centred / count)
    return np.linalg.solve(root, centred.T).T.astype(np.float32)


class _Reached(Exception):  # noqa: N818 - no error: the rest of a forward pass is not needed
    """Ends a forward pass at the layer that is being measured."""


def _in_order_of_use(network: nn.Layer, z: np.ndarray) -> list[nn.Layer]:
    """The BatchNorm layers that a forward pass of z reaches, the first one first."""
    reached: dict[nn.Layer, None] = {}
    with contextlib.ExitStack() as stack:
        for layer in batch_norm_layers(network).values():
            stack.enter_context(_hooked(layer, lambda layer, _: reached.update({layer: None})))
        network(paddle.to_tensor(z))
    return list(reached)


def _moments(network: nn.Layer, layer: nn.Layer, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance over the positions of each image, float64 [N, C], of what reaches `layer` for z.

    float32 is enough within an image; over all positions of all images it takes float64, in which Paddle's reductions
    are ten times slower.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def measure(_: nn.Layer, inputs: Sequence[paddle.Tensor]) -> None:
        x = inputs[0].astype("float32")
        x = x.reshape([*x.shape[:2], -1])  # [N, C, positions]
        mean = x.mean(-1, keepdim=True)
        centred = x - mean
        variance = (centred * centred).mean(-1)  # ** 2 would be thirty times slower
        found.append((mean.numpy()[..., 0].astype(np.float64), variance.numpy().astype(np.float64)))
        raise _Reached

    with _hooked(layer, measure), contextlib.suppress(_Reached):
        network(paddle.to_tensor(z))
    return found[0]


@contextlib.contextmanager
def _hooked(layer: nn.Layer, hook: object) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _pooled(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of all images together, by the law of total variance. Biased, as Paddle's own is."""
    means, variances = (np.concatenate(column) for column in zip(*parts))
    with np.errstate(over="ignore", invalid="ignore"):  # of absurd weights; whoever uses the result looks at it
        mean = means.mean(axis=0)
        return mean, (variances + (means - mean) ** 2).mean(axis=0)
