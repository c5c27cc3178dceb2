"""What is exported: trained weights from a run, a checkpoint or a `generator.params`, as networks in eval mode.

Sizes are read off the shapes of the weights, so that a file without a config exports as well as one with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

from dcgan.checkpoints.checkpoint import misfits
from dcgan.checkpoints.params import read_params
from dcgan.config import read_config
from dcgan.environment import command
from dcgan.errors import CheckpointError
from dcgan.networks.discriminator import Discriminator
from dcgan.networks.generator import Generator
from dcgan.networks.sizes import discriminator_sizes, network_sizes
from dcgan.runs.find_checkpoint import find_checkpoint
from deploy.files import PathLike
from deploy.manifest import Signature

RUNS = Path("work/train")

Tensors = Mapping[str, np.ndarray]


class Trained(NamedTuple):
    """A network to export: `layer` in eval mode takes and returns one tensor as `signature` says.

    `group` says where the weights come from: generator_ema, generator, discriminator, or generator.params.
    """

    name: str
    group: str
    layer: nn.Layer
    signature: Signature


class Source(NamedTuple):
    """Networks by name ("generator", "discriminator"), their sizes, and where they come from (JSON values)."""

    networks: dict[str, Trained]
    latent_dim: int
    image_size: int
    checkpoint: dict[str, Any]
    config: dict[str, Any]


class ExportedDiscriminator(Discriminator):
    """The discriminator as it is exported: images [N, 3, S, S] -> logits [N, 1]; positive means "real"."""

    def forward(self, image):
        return super().forward(image).squeeze([2, 3])


def load_source(path: PathLike | None = None, names: Iterable[str] = ("generator",)) -> Source:
    """Networks of a checkpoint, with averaged (EMA) generator weights where there are any.

    Args: path - a run folder, a folder of runs, a checkpoint folder, or a `generator.params`; None: the newest run.
          names - "generator", "discriminator" or both.
    Raises CheckpointError when there is nothing whole to read or the weights are not a DCGAN's.
    """
    path = RUNS if path is None else Path(path)
    if not path.exists():
        raise CheckpointError(f"there is nothing to export at {path}. Train first: {command('train')}")
    groups, checkpoint, config = _read_params_file(path) if path.is_file() else _read_newest(path)
    generator = next(name for name in ("generator.params", "generator_ema", "generator") if name in groups)
    latent_dim, _, image_size = _sizes(network_sizes, generator, groups[generator])
    networks = {}
    for name in names:
        group = generator if name == "generator" else name
        if group not in groups:
            raise CheckpointError(f"{path} holds no {name}. Give a run or checkpoint folder with --checkpoint.")
        networks[name] = _build(name, group, groups[group], latent_dim, image_size)
    checkpoint["network"] = ", ".join(trained.group for trained in networks.values())
    return Source(networks, latent_dim, image_size, checkpoint, config)


def _read_newest(path: Path) -> tuple[dict[str, Tensors], dict[str, Any], dict[str, Any]]:
    found = find_checkpoint(path)
    if "generator" not in found.groups:
        raise CheckpointError(f"{found.folder} holds no generator: {', '.join(found.groups) or 'it is empty'}")
    facts = {"step": found.state.get("global_step"), "run": found.folder.absolute().parent.parent.name}
    extra = found.state.get("extra")
    return found.groups, facts, _without_paths(extra.get("config") if isinstance(extra, dict) else None)


def _read_params_file(path: Path) -> tuple[dict[str, Tensors], dict[str, Any], dict[str, Any]]:
    config = read_config(path.parent) if (path.parent / "config.json").is_file() else {}
    return (
        {"generator.params": read_params(path)},
        {"step": None, "run": path.absolute().parent.name},
        _without_paths(config),
    )


def _without_paths(config: Any) -> dict[str, Any]:
    """The config without what says something of the machine: an export is handed to others. {} if it is none."""
    kept = {name: value for name, value in config.items() if name != "out"} if isinstance(config, dict) else {}
    if isinstance(kept.get("data"), str):
        kept["data"] = Path(kept["data"]).name
    return kept


def _sizes(read: Callable[[Tensors], tuple | None], group: str, weights: Tensors) -> tuple:
    sizes = read(weights)
    if sizes is None:
        shapes = {name: value.shape for name, value in weights.items() if name.startswith("conv_")}
        raise CheckpointError(f"{group} does not hold the weights of a DCGAN: {shapes!r:.300}")
    return sizes


def _build(name: str, group: str, weights: Tensors, latent_dim: int, image_size: int) -> Trained:
    image = (3, image_size, image_size)
    read = network_sizes if name == "generator" else discriminator_sizes
    *_, base_channels, own_size = _sizes(read, group, weights)
    if own_size != image_size:
        raise CheckpointError(f"{group} is of {own_size} pixels, the generator of {image_size}")
    # The guard makes Paddle's own parameter names, which are counters, the same in every process.
    with paddle.utils.unique_name.guard():
        if name == "generator":
            layer: nn.Layer = Generator(latent_dim, base_channels, image_size)
            signature = Signature("z", (latent_dim,), "image", image)
        else:
            layer = ExportedDiscriminator(base_channels, image_size)
            signature = Signature("image", image, "logit", (1,))
    _set_weights(layer, weights, group)
    layer.eval()
    return Trained(name, group, layer, signature)


def _set_weights(layer: nn.Layer, weights: Tensors, group: str) -> None:
    """Copy weights by name. Raises CheckpointError naming all that are missing, unknown or of another shape."""
    own = layer.state_dict()
    problems = misfits(own, weights)
    problems += [f"{name} holds NaN or Inf" for name, value in weights.items() if not np.isfinite(value).all()]
    if problems:
        raise CheckpointError(f"{group} does not fit a DCGAN of its size: {'; '.join(problems)}")
    for name, tensor in own.items():
        tensor.set_value(np.asarray(weights[name], np.float32))
