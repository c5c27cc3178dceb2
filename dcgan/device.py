"""Which device computes, by whose kernels, on how many threads and in which precision: decisions, apart from training.

The GPU parts of this file have never run on a GPU; tests cover what they decide.
"""

from __future__ import annotations

import logging
import os

import paddle

from .environment import thread_count
from .networks.kernels import PADDLE_KERNELS, PaddleKernels
from .networks.onednn import OneDnnKernels, OneDnnUnavailableError, processor

log = logging.getLogger(__name__)


def choose_device(name: str = "auto") -> str:
    """Make Paddle compute on `name` and return what it is, "cpu" or "gpu:0".

    "auto" takes a GPU when this Paddle was built for CUDA and sees one; under `paddle.distributed.launch`, the card
    that it chose for this process. Raises ValueError when a GPU is asked for by name and there is none.
    """
    card = "gpu:" + os.environ.get("FLAGS_selected_gpus", "0").split(",")[0]  # noqa: SIM112 - Paddle's spelling
    if name == "auto":
        visible = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
        if paddle.is_compiled_with_cuda() and not visible:
            log.warning("This Paddle is built for CUDA but sees no GPU; computing on the CPU.")
        name = card if visible else "cpu"
    elif name != "cpu" and not name.startswith("gpu"):
        raise ValueError(f"device must be auto, cpu, gpu or gpu:N, received {name!r}")
    elif name.startswith("gpu") and not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0):
        raise ValueError(f"device {name!r} was asked for, but Paddle sees no GPU. Use --device cpu or auto.")
    paddle.set_device(name)
    if name == "cpu":
        paddle.base.core.set_num_threads(thread_count())  # at import, Paddle's CPU build sets itself to one thread
    return name


def choose_kernels(name: str, level: str, dtype: str, device: str) -> PaddleKernels | OneDnnKernels:
    """Resolve the flag --cpu-kernels, and --amp where it concerns a CPU. Says in one line what cannot be had.

    Args: name - auto, paddle or onednn.  level, dtype - of mixed precision, as `choose_precision` takes them.
          device - as `choose_device` returns it.
    """
    if device != "cpu":
        if name == "onednn":
            log.warning("--cpu-kernels onednn is for CPUs: training on %s with Paddle's operators.", device)
        return PADDLE_KERNELS
    wants_bfloat16 = level in ("O1", "O2")
    if name == "paddle":
        if wants_bfloat16:
            log.warning("Paddle's operators ignore mixed precision on a CPU: --amp %s has no effect.", level)
        return PADDLE_KERNELS
    try:
        has = processor()
    except OneDnnUnavailableError as error:
        log.warning("No oneDNN kernels, %s: training in float32 with Paddle's operators, which takes longer.", error)
        return PADDLE_KERNELS
    if not wants_bfloat16:
        return OneDnnKernels("float32")
    if dtype == "float16" or not has.bfloat16:
        log.warning("--amp %s needs bfloat16 on a CPU, %s: training in float32.", level, _why_no_bfloat16(dtype))
        return OneDnnKernels("float32")
    if not has.amx:
        log.warning("This processor computes bfloat16 without a matrix unit (AMX): expect no gain over float32.")
    return OneDnnKernels("bfloat16")


def _why_no_bfloat16(dtype: str) -> str:
    return f"--amp-dtype is {dtype}" if dtype == "float16" else "this processor has none"
