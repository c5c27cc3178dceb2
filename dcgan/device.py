"""Which device computes, how many threads it uses, and in which precision: the decisions, apart from the training.

The GPU parts of this file have never run on a GPU; tests cover what they decide.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import paddle

from .quiet import thread_count

log = logging.getLogger(__name__)


class Precision(NamedTuple):
    """Mixed precision: level "O0" (none), "O1" (per operator) or "O2" (weights too), and "bfloat16" or "float16"."""

    level: str
    dtype: str

    @property
    def needs_scaler(self) -> bool:
        """float16 underflows without loss scaling; bfloat16 has float32's range."""
        return self.level != "O0" and self.dtype == "float16"


def choose_device(name: str = "auto") -> str:
    """Make Paddle compute on `name` and return what it is, "cpu" or "gpu:0".

    "auto" takes a GPU when this Paddle was built for CUDA and sees one. Raises ValueError when a GPU is asked for by
    name and there is none.
    """
    if name == "auto":
        visible = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
        if paddle.is_compiled_with_cuda() and not visible:
            log.warning("This Paddle is built for CUDA but sees no GPU; computing on the CPU.")
        name = "gpu:0" if visible else "cpu"
    elif name != "cpu" and not name.startswith("gpu"):
        raise ValueError(f"device must be auto, cpu, gpu or gpu:N, received {name!r}")
    elif name.startswith("gpu") and not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0):
        raise ValueError(f"device {name!r} was asked for, but Paddle sees no GPU. Use --device cpu or auto.")
    paddle.set_device(name)
    if name == "cpu":
        paddle.base.core.set_num_threads(thread_count())  # at import, Paddle's CPU build sets itself to one thread
    return name


def choose_precision(level: str, dtype: str, device: str) -> Precision:
    """Resolve the flags --amp and --amp-dtype for a device.

    Args: level - auto, O0, O1 or O2; auto is O1 on a GPU.  dtype - auto, bfloat16 or float16; auto is bfloat16 where
          the card computes it.  device - as `choose_device` returns it.
    """
    if device == "cpu":
        if level not in ("auto", "O0"):
            log.warning(
                "Paddle's CPU build ignores mixed precision: --amp %s has no effect, training in float32.", level
            )
        return Precision("O0", "float32")
    level = "O1" if level == "auto" else level
    if level == "O0":
        return Precision("O0", "float32")
    return Precision(level, _gpu_dtype(dtype))


def _gpu_dtype(dtype: str) -> str:
    has_bfloat16 = paddle.amp.is_bfloat16_supported()
    if dtype == "bfloat16" and not has_bfloat16:
        raise ValueError("this GPU does not compute bfloat16. Use --amp-dtype float16.")
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_bfloat16 else "float16"
