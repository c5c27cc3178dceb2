"""What every runtime has in common: one loaded model, called in batches, and how its library is found."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy.manifest import ModelError, Signature
from deploy.seeds import latents

log = logging.getLogger(__name__)

BATCH_SIZE = 32  # larger ones are no faster on a CPU, and cost memory
_PACKAGES = {"onnxruntime": "onnxruntime", "paddle": "paddlepaddle==3.2.2", "openvino": "openvino"}  # module -> package


class Runtime:
    """One loaded model: `run` is one call of the runtime, `generate` turns any number of seeds into images.

    Attributes: backend - its name on the command line.  device - "cpu" or "gpu", what it really uses.
    signature - names and shapes of input and output.  model_id - SHA-256 of its files, if it is from an export folder,
    and the precision where that is not fp32: what decides about every pixel. Several threads may use one runtime.
    """

    backend = ""
    model_id = ""

    def __init__(self, signature: Signature, device: str):
        self.signature = signature
        self.device = device

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """The model's output [N, ...] for float32 inputs [N, ...], N >= 1, in one call; float16 becomes float32.

        Raises ValueError for inputs of another shape or type, ModelError if the runtime fails or answers in another.
        """
        expected = self.signature.input_shape
        if inputs.dtype != np.float32 or inputs.ndim < 2 or inputs.shape[1:] != expected or not len(inputs):
            raise ValueError(
                f"{self.signature.input_name} must be float32 [N, {', '.join(map(str, expected))}] with N >= 1, "
                f"received {inputs.dtype} {list(inputs.shape)}"
            )
        outputs = self._run(np.ascontiguousarray(inputs))
        if outputs.shape != (len(inputs), *self.signature.output_shape) or outputs.dtype != self.signature.output_dtype:
            raise ModelError(
                f"{self.backend} answered {outputs.dtype} {list(outputs.shape)}; the manifest says "
                f"{self.signature.output_dtype} {[len(inputs), *self.signature.output_shape]}. Export the model again."
            )
        return outputs.astype(np.float32) if outputs.dtype == np.float16 else outputs

    def generate(self, seeds: int | Sequence[int] | np.ndarray, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Images of N seeds, RGB, float32 [N, 3, S, S] in [-1, 1]. A seed's image is the same whatever its batch.

        Raises ValueError for a seed outside 0 .. 4294967295, a batch size below 1 and a model that makes uint8,
        ModelError for images that are not finite numbers.
        """
        return self.generate_from(latents(seeds, self.signature.input_shape[0]), batch_size)

    def generate_from(self, z: np.ndarray, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Images of N latents, float32 [N, latent_dim], as `generate` returns them."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, received {batch_size}")
        if self.signature.output_dtype == "uint8":
            raise ValueError("this model makes uint8 levels, not floats in [-1, 1]: call run")
        images = np.empty((len(z), *self.signature.output_shape), np.float32)
        for start in range(0, len(z), batch_size):
            images[start : start + batch_size] = self.run(z[start : start + batch_size])
        if not np.isfinite(images).all():
            raise ModelError(f"the generator made numbers that are not finite ({self.backend}, {self.device}).")
        return images

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def import_library(module: str) -> Any:
    """The module of a runtime. Raises ModelError with the command that installs it, or why it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModelError(f"{module} is not installed. Run `python -m pip install {_PACKAGES[module]}`.") from error
    except ImportError as error:
        raise ModelError(f"{module} is installed but cannot be imported: {one_line(error)}") from error


def choose_device(device: str, has_gpu: bool) -> str:
    """Either "cpu" or "gpu". Raises ValueError for another word; a GPU that is not there falls back with a warning."""
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device must be auto, cpu or gpu, received {device!r}")
    if device == "gpu" and not has_gpu:
        log.warning("This installation cannot use a GPU; computing on the CPU.")
    return "gpu" if has_gpu and device != "cpu" else "cpu"


def cores() -> int:
    """Cores that this process may use. onnxruntime's own count is the machine's, which is wrong in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_line(error: BaseException) -> str:
    """The line of a runtime's message that says what happened; Paddle's come after a C++ traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("(") or "Error" in line]
    return (told or lines or [type(error).__name__])[0][:300]
