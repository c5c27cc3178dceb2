"""One decision about the machine: device, kernels, precision, threads and determinism, made once from a config.

`plan` decides and touches nothing; `ComputePlan.apply` sets up Paddle accordingly. The GPU parts of this file have
never run on a GPU; tests cover what they decide and set.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from typing import Any

import paddle

from .config import TrainConfig
from .environment import keep_freed_memory, thread_count
from .networks.kernels import PADDLE_KERNELS, PaddleKernels
from .networks.onednn import OneDnnKernels, OneDnnUnavailableError, has_bfloat16
from .networks.onednn.speed import bfloat16_speedup
from .training.precision import FLOAT32, Precision

log = logging.getLogger(__name__)

WORTHWHILE_SPEEDUP = 1.25  # of bfloat16 over float32: below it, --amp auto keeps the precision
_EXHAUSTIVE_SEARCH = "FLAGS_cudnn_exhaustive_search"
_CHECK_NAN = "FLAGS_check_nan_inf"


@dataclass(frozen=True)
class ComputePlan:
    """Where and how a run computes.

    Attributes: device - "cpu" or "gpu:0".  kernels - which library computes the layers that learn, "paddle" or
    "onednn" (on a CPU).  amp - the level of mixed precision, O0, O1 or O2; on a CPU O1 and O2 are the same.  dtype -
    what the layers compute in: float32, bfloat16 or float16.  threads - of the CPU.  deterministic - whether the same
    step gives the same bits each time.  tf32 - whether a GPU may round the factors of float32 products to 10 bits.
    warnings - what was asked for and cannot be had, one sentence each.
    """

    device: str
    kernels: str
    amp: str
    dtype: str
    threads: int
    deterministic: bool
    tf32: bool
    warnings: tuple[str, ...] = ()

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def precision(self) -> Precision:
        """What Paddle's own mixed precision does: nothing on a CPU, where precision is a matter of the kernels."""
        return FLOAT32 if self.is_cpu or self.amp == "O0" else Precision(self.amp, self.dtype)

    def training_kernels(self) -> PaddleKernels | OneDnnKernels:
        """The kernels of the networks that learn."""
        return OneDnnKernels(self.dtype) if self.kernels == "onednn" else PADDLE_KERNELS

    def sampling_kernels(self) -> PaddleKernels | OneDnnKernels:
        """The kernels of eval mode, always in float32: what a generator makes must not depend on who trained it."""
        return OneDnnKernels("float32") if self.kernels == "onednn" else PADDLE_KERNELS

    def apply(self) -> None:
        """Make Paddle compute by this plan, in this process, and log the warnings."""
        for warning in self.warnings:
            log.warning("%s", warning)
        paddle.set_device(self.device)
        self.set_threads()
        if self.is_cpu:
            keep_freed_memory()
            return
        paddle.set_flags({"FLAGS_cudnn_deterministic": self.deterministic})
        _allow_tf32(self.tf32)

    def set_threads(self) -> None:
        """Give a CPU its threads: at import Paddle's CPU build sets itself to one, and Paddle Inference does so too."""
        if self.is_cpu:
            paddle.base.core.set_num_threads(self.threads)

    def sentence(self) -> str:
        """The plan in one line."""
        if self.is_cpu:
            library = {"onednn": "oneDNN", "paddle": "Paddle's own kernels"}[self.kernels]
            return f"Compute: CPU, {self.threads} threads, {library}, {self.dtype}"
        tf32, repeats = ("on" if on else "off" for on in (self.tf32, self.deterministic))
        return f"Compute: {self.device}, {self.amp}, {self.dtype}, TF32 {tf32}, deterministic {repeats}"

    def to_json(self) -> dict[str, Any]:
        """What decides about bits, as a dict of JSON values: all but the warnings."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "warnings"}


def plan(config: TrainConfig) -> ComputePlan:
    """The plan for `config` on this machine. Sets nothing.

    Raises ValueError when the machine lacks a device or number format that was asked for by name, and when
    `deterministic` meets FLAGS_cudnn_exhaustive_search.
    """
    device, warnings = _resolve_device(config.device)
    if config.sync_bn and device == "cpu":
        raise ValueError("--sync-bn needs GPUs: Paddle has no synchronised BatchNorm for CPUs. Leave it out.")
    if device == "cpu":
        return _cpu_plan(config, warnings)
    if config.cpu_kernels == "onednn":
        warnings += (f"--cpu-kernels onednn is for CPUs: training on {device} with Paddle's operators.",)
    if config.deterministic and os.environ.get(_EXHAUSTIVE_SEARCH, "0").lower() in ("1", "true", "on", "yes"):
        raise ValueError(
            f"{_EXHAUSTIVE_SEARCH} chooses cuDNN's algorithms by trial, so that a resumed run would round differently. "
            "Unset it, or add --no-deterministic."
        )
    amp = "O1" if config.amp == "auto" else config.amp
    dtype = "float32" if amp == "O0" else _gpu_dtype(config.amp_dtype)
    return ComputePlan(device, "paddle", amp, dtype, thread_count(), config.deterministic, amp != "O0", warnings)


def speed_note(config: TrainConfig, compute: ComputePlan) -> str | None:
    """One line for a run in bfloat16 on this CPU: that a measurement chose it, or that float32 would be faster; else
    None. Measures for less than a second, once per processor.
    """
    if compute.kernels != "onednn" or compute.dtype != "bfloat16":
        return None
    speedup = bfloat16_speedup()
    if config.amp == "auto":
        return f"Measured here: a layer is {speedup:.2f} times as fast in bfloat16. --amp O0 would keep float32."
    if speedup < 1:
        return f"Measured here: a layer takes {1 / speedup:.2f} times as long in bfloat16. --amp O0 would be faster."
    return None


def inference_plan(device: str = "auto") -> ComputePlan:
    """The plan for networks that are not trained here: float32, without TF32, as parity needs. Errors as of `plan`."""
    return plan(TrainConfig(device=device, amp="O0", deterministic=False))


def _resolve_device(name: str = "auto") -> tuple[str, tuple[str, ...]]:
    """The device of this name, "cpu" or "gpu:0", and what there is to say about it. Sets nothing.

    "auto" takes a GPU when this Paddle was built for CUDA and sees one; under `paddle.distributed.launch`, the card
    that it chose for this process. Raises ValueError when a GPU is asked for by name and there is none.
    """
    is_built_for_cuda = paddle.is_compiled_with_cuda()
    sees_gpu = is_built_for_cuda and paddle.device.cuda.device_count() > 0
    if name == "auto":
        if sees_gpu:
            number = os.environ.get("FLAGS_selected_gpus", "0").split(",")[0]  # noqa: SIM112 - Paddle's spelling
            return f"gpu:{number}", ()
        blind = ("This Paddle is built for CUDA but sees no GPU; computing on the CPU.",)
        return "cpu", blind if is_built_for_cuda else ()
    if name != "cpu" and not name.startswith("gpu"):
        raise ValueError(f"device must be auto, cpu, gpu or gpu:N, received {name!r}")
    if name.startswith("gpu") and not sees_gpu:
        raise ValueError(f"device {name!r} was asked for, but Paddle sees no GPU. Use --device cpu or auto.")
    return name, ()


def _allow_tf32(allowed: bool) -> None:
    """Let a GPU round the factors of float32 products to 10 bits (TF32), or not: off where parity is measured.

    A release's default may be either. Does nothing in a Paddle without CUDA. NVIDIA_TF32_OVERRIDE=0 in the environment
    turns it off for everything.
    """
    for switch in ("set_cublas_switch", "set_cudnn_switch"):  # there is no flag for it in 3.2.2
        if hasattr(paddle.base.core, switch):
            getattr(paddle.base.core, switch)(allowed)


def _cpu_plan(config: TrainConfig, warnings: tuple[str, ...]) -> ComputePlan:
    """The plan on a CPU, which always repeats to the bit."""
    kernels, amp, more = _cpu_kernels(config)
    if config.amp == "auto" and kernels == "onednn" and config.amp_dtype != "float16" and has_bfloat16():
        amp = "O1" if bfloat16_speedup() >= WORTHWHILE_SPEEDUP else "O0"
    dtype = "bfloat16" if amp != "O0" else "float32"
    return ComputePlan("cpu", kernels, amp, dtype, thread_count(), True, False, warnings + more)


def _cpu_kernels(config: TrainConfig) -> tuple[str, str, tuple[str, ...]]:
    """Library and level of mixed precision as asked for, as far as this machine has them, and what it lacks."""
    asked = config.amp if config.amp in ("O1", "O2") else "O0"
    if config.cpu_kernels == "paddle":
        ignored = f"Paddle's operators ignore mixed precision on a CPU: --amp {asked} has no effect."
        return "paddle", "O0", (ignored,) if asked != "O0" else ()
    if paddle.get_flags(_CHECK_NAN)[_CHECK_NAN]:  # Paddle looks into a tensor before oneDNN has written to it
        return "paddle", "O0", (f"{_CHECK_NAN} is set: computing in float32 with Paddle's operators, which it checks.",)
    try:
        bfloat16 = has_bfloat16()
    except OneDnnUnavailableError as error:
        missing = f"No oneDNN kernels, {error}: computing in float32 with Paddle's operators."
        return "paddle", "O0", (missing,)
    if asked != "O0" and (config.amp_dtype == "float16" or not bfloat16):
        why = "--amp-dtype is float16" if config.amp_dtype == "float16" else "this processor has none"
        return "onednn", "O0", (f"--amp {asked} needs bfloat16 on a CPU, {why}: computing in float32.",)
    return "onednn", asked, ()


def _gpu_dtype(dtype: str) -> str:
    has_bfloat16 = paddle.amp.is_bfloat16_supported()
    if dtype == "bfloat16" and not has_bfloat16:
        raise ValueError("this GPU does not compute bfloat16. Use --amp-dtype float16.")
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_bfloat16 else "float16"
