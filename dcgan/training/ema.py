"""The averaged generator: an exponential moving average of the weights (Karras et al. 2018, sec. 4)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import paddle
from paddle import nn

from ..networks.batch_norm import batch_norm_layers


def averaged_copy(network: nn.Layer) -> nn.Layer:
    """A copy of `network` to hold the average: in eval mode, without gradients."""
    duplicate = copy.deepcopy(network)
    for parameter in duplicate.parameters():
        parameter.stop_gradient = True
    duplicate.eval()
    return duplicate


@paddle.no_grad()
def update_average(
    average: nn.Layer, live: nn.Layer, decay: float, step: int, masters: Mapping[str, paddle.Tensor] | None = None
) -> None:
    """Move the weights of `average` towards those of `live`: average = decay * average + (1 - decay) * live.

    Args: decay - per iteration. It ramps up as (1 + step) / (10 + step), so that the first weights, which are noise,
          are soon forgotten.  step - iterations done before this one.  masters - float32 weights by structured name
          where the parameters of `live` are of half precision.
    What no optimizer moves is not touched: see `copy_buffers`, and dcgan.networks.batch_norm.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for (name, parameter), target in zip(live.named_parameters(), average.parameters()):
        if not parameter.stop_gradient:  # Paddle counts BatchNorm's running statistics among the parameters
            source = (masters or {}).get(name, parameter)
            # Not lerp_: Paddle's takes four times as long on a CPU.
            target.add_((source.astype(target.dtype) - target).scale_(1 - decay))


@paddle.no_grad()
def copy_buffers(average: nn.Layer, live: nn.Layer) -> None:
    """Give `average` what training changes in `live` without an optimizer, such as the vectors of spectral norm.

    BatchNorm's running statistics are not copied: they are those of other weights.
    """
    statistics = {f"{layer}.{kind}" for layer in batch_norm_layers(live) for kind in ("_mean", "_variance")}
    targets = average.state_dict()
    for name, source in live.state_dict().items():
        if source.stop_gradient and name not in statistics:
            targets[name].set_value(source.astype(targets[name].dtype))
