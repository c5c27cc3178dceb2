"""Checks of decisions: the compute plan and its reasons, mixed precision's operators, GPUs, CUDA of Paddle and
onnxruntime, and TF32."""

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
from dcgan.training.precision import HALF_PRECISION_OPERATORS
from tools.doctor_checks.line import NOT_APPLICABLE, OK, WRONG, Line, Request

_SMALLEST_ONNX_MODEL = (  # y = x, float32 [1], opset 13: starts a session without the onnx package
    b"\x08\x08:7\n\x10\n\x01x\x12\x01y\x22\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


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


def mixed_precision_operators(_: Request) -> Iterator[Line]:
    """Whether auto_cast would compute the convolutions of both networks in half precision."""
    update = importlib.import_module("paddle.amp.auto_cast")._update_list
    white, black = update(set(HALF_PRECISION_OPERATORS), None, "O1", "bfloat16")
    missing = sorted({"conv2d", "conv2d_transpose"} - set(white) | {"conv2d", "conv2d_transpose"} & set(black))
    if missing:
        yield Line("mixed precision", WRONG, f"auto_cast leaves {', '.join(missing)} in float32")
    else:
        yield Line("mixed precision", OK, "auto_cast covers conv2d and conv2d_transpose")


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


def tf32(_: Request) -> Iterator[Line]:
    """Whether this build lets us turn TF32 off, which parity needs."""
    if not paddle.is_compiled_with_cuda():
        yield Line("TF32", NOT_APPLICABLE, "a CPU has none")
        return
    missing = [name for name in ("set_cublas_switch", "set_cudnn_switch") if not hasattr(paddle.base.core, name)]
    if missing:
        text = f"this Paddle has no {' and no '.join(missing)}: set NVIDIA_TF32_OVERRIDE=0 to measure parity"
        yield Line("TF32", WRONG, text)
    else:
        yield Line("TF32", OK, "can be switched: on with --amp O1 and O2, off with O0 and where parity is measured")


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
    if _starts_cuda(onnxruntime):
        yield Line(name, OK, f"CUDA {wants} starts")
    else:
        verdict = NOT_APPLICABLE if request.device == "cpu" else WRONG
        text = f"built for CUDA {wants} and cannot start it here: it computes on the CPU. CUDA and cuDNN libraries "
        yield Line(name, verdict, text + "come with: pip install onnxruntime-gpu[cuda,cudnn]")


def _starts_cuda(onnxruntime: object) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its red lines on stderr say what our own line says
    providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(_SMALLEST_ONNX_MODEL, options, providers=providers)
    return "CUDAExecutionProvider" in session.get_providers()


def _major(version: str) -> str:
    found = re.match(r"\d+", version)
    return found.group() if found else ""
