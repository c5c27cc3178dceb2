"""Run an exported model through ONNX Runtime, Paddle Inference or OpenVINO; from outside they are alike.

    from deploy.runtimes import load_generator
    images = load_generator("work/export").generate(seeds=[1, 2, 3])  # float32 [3, 3, 64, 64] in [-1, 1]

A runtime's library is imported only when that runtime is used. The GPU paths of this package have never run on a GPU.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from deploy.files import PathLike
from deploy.manifest import Manifest, ModelEntry, ModelError, read_manifest, read_verified
from deploy.runtimes.base import BATCH_SIZE, Runtime
from deploy.runtimes.onnxruntime import OnnxRuntime
from deploy.runtimes.openvino import OpenVino
from deploy.runtimes.paddle import PaddleInference

__all__ = [
    "BACKENDS",
    "BATCH_SIZE",
    "PRECISIONS",
    "PREFERRED",
    "OnnxRuntime",
    "OpenVino",
    "PaddleInference",
    "Runtime",
    "check_precision",
    "is_installed",
    "load_discriminator",
    "load_generator",
    "load_model",
    "load_network",
]

BACKENDS = {"onnxruntime": "onnx", "paddle": "paddle", "openvino": "onnx"}  # backend -> kind of model it runs
PREFERRED = ("onnxruntime", "paddle")  # what "auto" takes, in this order; OpenVINO only when it is named
PRECISIONS = ("fp32", "bf16")  # what is computed in, whatever a model stores


def load_generator(
    folder: PathLike, backend: str = "auto", device: str = "auto", threads: int = 0, precision: str = "fp32"
) -> Runtime:
    """The generator of an export folder, checked against its manifest, ready to `generate`.

    Args: backend - auto, onnxruntime, paddle or openvino; auto takes the first that the folder has a model for and that
          is installed, of the first two.  device - auto, cpu or gpu; without a usable GPU, gpu falls back with a
          warning.  threads - for the CPU, 0 for every core.  precision - fp32, or bf16, which only openvino has.
    Raises ModelError saying what is missing, damaged or unexpected.
    """
    return load_network(folder, "generator", backend, device, threads, precision)


def load_discriminator(folder: PathLike, backend: str = "auto", device: str = "auto", threads: int = 0) -> Runtime:
    """The discriminator of an export folder: `run` maps images [N, 3, S, S] in [-1, 1] to logits [N, 1]."""
    return load_network(folder, "discriminator", backend, device, threads)


def load_network(
    folder: PathLike, network: str, backend: str, device: str, threads: int, precision: str = "fp32"
) -> Runtime:
    """As `load_generator`, for "generator" or "discriminator"."""
    manifest = read_manifest(folder)
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend must be auto, {', '.join(BACKENDS)}, received {backend!r}")
    check_precision(backend, precision)
    wanted = PREFERRED if backend == "auto" else [backend]
    found = {name: manifest.find(network, BACKENDS[name]) for name in wanted}
    models = {name: model for name, model in found.items() if model is not None}
    if not models:
        flag = "" if network == "generator" else " --network both"
        raise ModelError(
            f"{Path(folder)} holds no {network} for {' or '.join(wanted)}. "
            f"Run `python tools/export.py --format {'onnx' if backend == 'auto' else BACKENDS[backend]}{flag}`."
        )
    name = next((name for name in models if is_installed(name)), next(iter(models)))
    return load_model(folder, manifest, models[name], name, device, threads, precision)


def check_precision(backend: str, precision: str) -> None:
    """Raise ValueError for a precision that is not known, or that this backend does not have."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {' or '.join(PRECISIONS)}, received {precision!r}")
    if precision == "bf16" and backend != "openvino":
        # Paddle 3.2.2's oneDNN kernel of a transposed convolution with folded BatchNorm fails in bfloat16
        raise ValueError(f"bf16 is for the backend openvino; {backend} computes float32 on a CPU.")


def is_installed(backend: str) -> bool:
    """Whether the library of a backend is there; it is not imported."""
    return importlib.util.find_spec(backend) is not None


def load_model(
    folder: PathLike,
    manifest: Manifest,
    model: ModelEntry,
    backend: str,
    device: str = "auto",
    threads: int = 0,
    precision: str = "fp32",
) -> Runtime:
    """One model of a manifest, from the very bytes whose checksums were verified."""
    contents = [read_verified(folder, manifest, name) for name in model.files]
    how: dict[str, Any] = {"device": device, "threads": threads}
    if backend == "openvino":
        how["precision"] = precision
    classes = {"onnxruntime": OnnxRuntime, "paddle": PaddleInference, "openvino": OpenVino}
    runtime = classes[backend](*contents, manifest.signature(model), **how)
    digests = [manifest.files[name].sha256 for name in model.files]
    runtime.model_id = "-".join(digests if precision == "fp32" else [*digests, precision])
    return runtime
