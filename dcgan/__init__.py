"""DCGAN on PaddlePaddle: data, networks, an adversarial engine, checkpoints, and metrics.

    from dcgan import DCGAN, BatchLoader, TrainConfig, cached_packed

    config = TrainConfig(data="cartoon", batch_size=32)
    model = DCGAN(config)
    model.fit(BatchLoader(cached_packed("cartoon").images, config.batch_size), epochs=5)
    images = model.generate(seeds=range(100))

Importing the package is light; Paddle is imported, quietly, when DCGAN or another name that needs it is first used.
`dcgan.train.train` is all that tools/train.py does, with checkpoints, grids and a report in a run folder;
`dcgan.metrics.evaluate` measures images; the package `export`, beside this one, translates what was trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import TrainConfig

if TYPE_CHECKING:
    from .data.loader import BatchLoader
    from .data.prepare import cached_packed
    from .images import to_uint8
    from .model import DCGAN
    from .networks.discriminator import Discriminator
    from .networks.generator import Generator
    from .training.adversarial_model import AdversarialModel

__all__ = [
    "DCGAN",
    "AdversarialModel",
    "BatchLoader",
    "Discriminator",
    "Generator",
    "TrainConfig",
    "cached_packed",
    "to_uint8",
]

_WITH_PADDLE = {
    "DCGAN": "model",
    "AdversarialModel": "training.adversarial_model",
    "Generator": "networks.generator",
    "Discriminator": "networks.discriminator",
}
_HOMES = {**_WITH_PADDLE, "BatchLoader": "data.loader", "cached_packed": "data.prepare", "to_uint8": "images"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name in _WITH_PADDLE:
        from .environment import import_paddle

        import_paddle()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
