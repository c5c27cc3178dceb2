"""Learning rates that change during training, as a factor on what they are set to.

A schedule maps (iteration, last iteration or None) to that factor. It remembers nothing, so a resumed run needs nothing
of it; one that ends at another iteration than was planned has another rate from the resume on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

Schedule = Callable[[int, Optional[int]], float]


@dataclass(frozen=True)
class WarmupAndDecay:
    """A linear rise from nothing, then 1, then a linear fall to nothing at the end of training.

    The fall lets two networks that circle each other settle (Zhu et al. 2017, sec. 4, halve their run: 100 epochs at
    a constant rate, 100 falling); the rise keeps Adam's first steps small (Goyal et al. 2017, sec. 2.2).
    Args: warmup_steps - iterations of the rise; 0: none.  decay - share of the run, at its end, that falls; 0: none.
    """

    warmup_steps: int
    decay: float

    def __call__(self, step: int, last_step: int | None) -> float:
        """The factor at iteration `step`, from 0. Raises ValueError if a fall is wanted towards an unknown end."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if not self.decay:
            return rise
        if last_step is None:
            raise ValueError("a learning rate that decays must know the end of training: set model.last_step")
        fall = (last_step - step) / (self.decay * last_step)
        return rise * max(0.0, min(1.0, fall))
