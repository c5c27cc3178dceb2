"""Mixed precision on a GPU: the level and dtype, what is computed in half precision, and loss scaling.

Which of them a run has is decided in dcgan.compute_plan. On a CPU half precision is a matter of the kernels (see
dcgan.networks.onednn). Never run on a GPU; tests cover in which order Paddle is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import paddle
from paddle import nn

# Paddle 3.2.2's lists have conv2d, but not its transpose (amp/amp_lists.py), which is all of the generator.
HALF_PRECISION_OPERATORS = frozenset({"conv2d_transpose"})
INITIAL_LOSS_SCALE = 2.0**15


class Precision(NamedTuple):
    """Mixed precision: level "O0" (none), "O1" (per operator) or "O2" (weights too), and "bfloat16" or "float16"."""

    level: str
    dtype: str

    @property
    def needs_scaler(self) -> bool:
        """float16 underflows without loss scaling; bfloat16 has float32's range."""
        return self.level != "O0" and self.dtype == "float16"

    def autocast(self) -> contextlib.AbstractContextManager:
        """Inside the block operators compute in this precision; for level O0 nothing changes."""
        if self.level == "O0":
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype, custom_white_list=set(HALF_PRECISION_OPERATORS))

    def decorate(self, networks: list[nn.Layer], optimizers: list[paddle.optimizer.Optimizer]) -> None:
        """For level O2: give the networks half-precision weights, and the optimizers float32 master weights."""
        if self.level == "O2":
            paddle.amp.decorate(
                models=networks, optimizers=optimizers, level="O2", dtype=self.dtype, master_weight=True
            )

    def scalers(self, names: Iterable[str]) -> dict[str, paddle.amp.GradScaler]:
        """A loss scaler for each name, or none where none is needed.

        One each: a scaler shared by two optimizers forgets the first one's overflow (grad_scaler.py:849).
        """
        if not self.needs_scaler:
            return {}
        return {name: paddle.amp.GradScaler(init_loss_scaling=INITIAL_LOSS_SCALE) for name in names}


FLOAT32 = Precision("O0", "float32")
