"""Modes of a network for the length of a block: frozen, and evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from paddle import nn


@contextlib.contextmanager
def frozen(network: nn.Layer) -> Iterator[None]:
    """Inside the block the network's weights need no gradient: none is computed, none is stored."""
    trainable = [parameter for parameter in network.parameters() if not parameter.stop_gradient]
    try:
        for parameter in trainable:
            parameter.stop_gradient = True
        yield
    finally:
        for parameter in trainable:
            parameter.stop_gradient = False


@contextlib.contextmanager
def evaluating(network: nn.Layer) -> Iterator[None]:
    """Inside the block the network is in eval mode: BatchNorm uses its running statistics. The mode is put back."""
    was_training = network.training
    try:
        network.eval()
        yield
    finally:
        if was_training:
            network.train()
