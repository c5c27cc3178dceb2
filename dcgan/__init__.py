"""DCGAN on PaddlePaddle: data, networks, an adversarial engine, checkpoints.

    from dcgan import DCGAN, TrainConfig

Importing the package is light; Paddle is imported, quietly, when DCGAN or another name that needs it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import TrainConfig

if TYPE_CHECKING:
    from .engine import AdversarialModel
    from .model import DCGAN
    from .networks import Discriminator, Generator

__all__ = ["DCGAN", "AdversarialModel", "Discriminator", "Generator", "TrainConfig"]

_HOMES = {"DCGAN": "model", "AdversarialModel": "engine", "Generator": "networks", "Discriminator": "networks"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from .quiet import import_paddle

    import_paddle()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
