"""What a figure was measured on: processor, cores, load and versions; and how fast it multiplies and moves numbers."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from dcgan.environment import core_count, processor_facts, processor_name
from tools.benchmarks.measure import Run, Skip

SIDE = 2048  # of the square matrices that are multiplied
PRODUCT_FLOP = 2 * SIDE**3
COPIED_BYTES = 1 << 28  # far more than a cache holds; a copy reads and writes them
LIBRARIES = ("paddlepaddle", "onnxruntime", "openvino", "torch", "numpy", "opencv-python-headless", "scikit-image")
NO_BFLOAT16 = "this processor has no bfloat16"
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert"}


def describe() -> dict[str, Any]:
    """Plain values: processor, cores this process may use, vector units, load average, versions."""
    facts = processor_facts()
    return {
        "processor": processor_name(facts),
        "cores": core_count(),
        "vector_units": sorted(set(_FLAGS) & set(facts.get("flags", "").split())),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": _versions(),
    }


def require(dtype: str) -> None:
    """Raise Skip for bfloat16 where the processor is known to lack it: torch would compute it number by number there,
    a 2048 x 2048 product in twenty seconds."""
    flags = set(processor_facts().get("flags", "").split())
    if dtype == "bfloat16" and flags and not flags & _BFLOAT16:
        raise Skip(NO_BFLOAT16)


def paddle_product(threads: int) -> Run:
    """Multiply two float32 matrices as Paddle does."""
    from dcgan.environment import import_paddle

    import_paddle()
    import paddle

    paddle.base.core.set_num_threads(threads)
    a, b = (paddle.full([SIDE, SIDE], value) for value in (0.5, 0.25))
    return lambda: paddle.matmul(a, b)


def onednn_product(threads: int, dtype: str) -> Run:
    """Multiply two matrices as the oneDNN kernels do."""
    from dcgan.environment import import_paddle

    import_paddle()
    import paddle

    from dcgan.networks.onednn import OneDnnUnavailableError, has_bfloat16
    from dcgan.networks.onednn.primitives import convolution

    try:
        if dtype == "bfloat16" and not has_bfloat16():
            raise Skip(NO_BFLOAT16)
        product = convolution((SIDE, SIDE, 1, 1), SIDE, kernel=1, stride=1, padding=0, dtype=dtype)
    except OneDnnUnavailableError as reason:
        raise Skip(str(reason)) from None
    paddle.base.core.set_num_threads(threads)
    a, b, result = (paddle.full([SIDE, SIDE], 0.5, kind) for kind in (dtype, "float32", dtype))
    return lambda: product.forward(a.data_ptr(), b.data_ptr(), result.data_ptr())


def numpy_product(threads: int) -> Run:
    """Multiply two float32 matrices as numpy does, whose library takes every core."""
    if threads < core_count():
        raise Skip("numpy takes every core")
    a, b = (np.full((SIDE, SIDE), value, np.float32) for value in (0.5, 0.25))
    return lambda: a @ b


def torch_product(threads: int, dtype: str) -> Run:
    """Multiply two matrices as torch does, which has bfloat16 on a CPU."""
    import torch

    require(dtype)
    torch.set_num_threads(threads)
    a, b = (torch.full([SIDE, SIDE], value, dtype=getattr(torch, dtype)) for value in (0.5, 0.25))
    return lambda: a @ b


def memory_copy(threads: int) -> Run:
    """Copy COPIED_BYTES, each thread its share."""
    source = np.ones(COPIED_BYTES, np.uint8)
    target = np.empty_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads)))
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
