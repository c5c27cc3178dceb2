"""Checks of decisions: the compute plan and its reasons, GPUs, CUDA of Paddle and of onnxruntime."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator

import paddle

from dcgan.compute_plan import plan
from dcgan.config import TrainConfig
from dcgan.networks.onednn import OneDnnUnavailableError, has_bfloat16
from dcgan.networks.onednn.speed import bfloat16_speedup
from deploy.manifest import DEMO
from deploy.runtimes import load_generator
from tools.doctor_checks.line import NOT_APPLICABLE, OK, WRONG, Line, Request


def config_of(request: Request) -> TrainConfig:
    return TrainConfig(device=request.device, amp=request.amp, cpu_kernels=request.cpu_kernels)


def compute_plan(request: Request) -> Iterator[Line]:
    """What training would compute with. Wrong if something that was asked for by name cannot be had."""
    config = config_of(request)
    compute = plan(config)  # raises for a device or number format that is not there
    is_asked_for = config.cpu_kernels != "auto" or config.amp in ("O1", "O2")
    verdict = WRONG if compute.warnings and is_asked_for else OK
    yield Line("compute plan", verdict, " ".join([compute.sentence(), *compute.warnings]), compute.to_json())
    yield _onednn_line(request)


def _onednn_line(request: Request) -> Line:
    """Why these kernels, and what bfloat16 would be worth on this processor."""
    try:
        bfloat16 = has_bfloat16()
    except OneDnnUnavailableError as error:
        verdict = WRONG if request.cpu_kernels == "onednn" else NOT_APPLICABLE
        return Line("oneDNN", verdict, f"{error}: a CPU computes with Paddle's own operators")
    if not bfloat16:
        return Line("oneDNN", OK, "found; this processor has no bfloat16")
    speedup = bfloat16_speedup()
    text = f"found; measured: one layer in bfloat16 is {speedup:.2f} times as fast as in float32"
    return Line("oneDNN", OK, text, {"bfloat16_speedup": speedup})


def gpus(request: Request) -> Iterator[Line]:
    """The GPUs that Paddle sees, and whether this build has code for them."""
    if not paddle.is_compiled_with_cuda():
        verdict = WRONG if request.device.startswith("gpu") else NOT_APPLICABLE
        yield Line("Paddle's CUDA", verdict, "this Paddle is a CPU build: see requirements-gpu.txt")
        return
    versions = f"CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}"
    count = paddle.device.cuda.device_count()
    if not count:
        verdict = NOT_APPLICABLE if request.device == "cpu" else WRONG
        yield Line("Paddle's CUDA", verdict, f"{versions}, but no GPU is seen: driver missing, or CUDA_VISIBLE_DEVICES")
        return
    yield Line("Paddle's CUDA", OK, versions)
    for number in range(count):
        card = paddle.device.cuda.get_device_properties(number)
        half = "bfloat16" if paddle.amp.is_bfloat16_supported() else "float16 only"
        size = f"{card.total_memory / (1 << 30):.0f} GiB"
        text = f"{card.name}, {size}, compute capability {card.major}.{card.minor}, {half}"
        yield Line(f"gpu:{number}", OK, text)


def onnxruntime_cuda(request: Request) -> Iterator[Line]:
    """Whether onnxruntime can use a GPU, and whether its CUDA is that of Paddle in the same environment."""
    name = "onnxruntime's CUDA"
    if importlib.util.find_spec("onnxruntime") is None:
        yield Line(name, NOT_APPLICABLE, "onnxruntime is not installed")
        return
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        yield Line(name, NOT_APPLICABLE, "this onnxruntime is a CPU build: for a GPU install onnxruntime-gpu")
        return
    info = importlib.import_module("onnxruntime.capi.build_and_package_info")
    wants = str(getattr(info, "cuda_version", "") or "unknown")
    has = str(paddle.version.cuda()) if paddle.is_compiled_with_cuda() else ""
    if has and _major(wants) and _major(has) and _major(wants) != _major(has):
        text = f"onnxruntime is built for CUDA {wants}, Paddle for {has}: they cannot share an environment"
        yield Line(name, WRONG, text, {"onnxruntime": wants, "paddle": has})
        return
    if load_generator(DEMO, "onnxruntime", "gpu").device == "gpu":  # else it has gone back to the CPU
        yield Line(name, OK, f"CUDA {wants} starts")
    else:
        verdict = NOT_APPLICABLE if request.device == "cpu" else WRONG
        text = f"built for CUDA {wants} and cannot start it here: it computes on the CPU. CUDA and cuDNN libraries "
        yield Line(name, verdict, text + "come with: pip install onnxruntime-gpu[cuda,cudnn]")


def _major(version: str) -> str:
    found = re.match(r"\d+", version)
    return found.group() if found else ""
