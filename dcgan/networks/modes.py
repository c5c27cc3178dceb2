"""Modes of a network for the length of a block: frozen, evaluation mode, and other kernels in evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from paddle import nn

from .kernels import PADDLE_KERNELS


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


@contextlib.contextmanager
def eval_kernels(network: nn.Layer, kernels: object) -> Iterator[None]:
    """Inside the block the network computes eval mode by `kernels`, after it as before: outside of all such blocks by
    Paddle's own operators, which can be traced, exported and differentiated."""
    before = getattr(network, "eval_kernels", PADDLE_KERNELS)
    try:
        network.eval_kernels = kernels
        yield
    finally:
        network.eval_kernels = before
