"""ONNX models in Intel's OpenVINO, on the CPU, in float32 or bfloat16."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np

from deploy.manifest import ModelError, Signature
from deploy.model_check import check_onnx
from deploy.runtimes.base import Runtime, choose_device, cores, import_library

log = logging.getLogger(__name__)


class OpenVino(Runtime):
    """An ONNX model in Intel's OpenVINO, on the CPU. Raises ModelError as OnnxRuntime does.

    Args: model, threads - as OnnxRuntime's.  device - gpu falls back to the CPU with a warning.
          precision - fp32, or bf16: products of numbers with 8 bits, which processors with AMX compute four times as
          fast; others fall back to fp32 with a warning if they have no bfloat16, or compute it no faster.
    """

    backend = "openvino"

    def __init__(
        self, model: bytes, signature: Signature, device: str = "auto", threads: int = 0, precision: str = "fp32"
    ):
        openvino = import_library("openvino")
        check_onnx(model)
        super().__init__(signature, choose_device(device, has_gpu=False))
        # said even for fp32: left alone, OpenVINO takes bfloat16 wherever the processor has it
        wanted = {"fp32": "f32", "bf16": "bf16"}[precision]
        settings = {"INFERENCE_PRECISION_HINT": wanted, "INFERENCE_NUM_THREADS": threads or cores()}
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(model), "CPU", settings)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load the model: {_last_line(error)}") from error
        if wanted == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            log.warning("This processor has no bfloat16; computing in float32.")
        self._check(compiled)
        self._request, self._lock = compiled.create_infer_request(), threading.Lock()

    def _check(self, compiled: Any) -> None:
        expected = self.signature
        for what, ports, name, dtype, shape in (
            ("input", compiled.inputs, expected.input_name, "float32", expected.input_shape),
            ("output", compiled.outputs, expected.output_name, expected.output_dtype, expected.output_shape),
        ):
            sizes = [-1 if n.is_dynamic else n.get_length() for n in ports[0].partial_shape] if len(ports) == 1 else []
            is_right = sizes == [-1, *shape] and name in ports[0].names and ports[0].element_type.to_dtype() == dtype
            if not is_right:
                listed = "; ".join(str(port) for port in ports)
                raise ModelError(
                    f"the model's {what} is {listed[:200]}; the manifest says {name} {dtype} {['batch', *shape]}. "
                    "Export the model again."
                )

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        try:
            with self._lock:
                return self._request.infer([inputs])[0]  # a copy: the next call may reuse the original
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed on a batch of {len(inputs)}: {_last_line(error)}") from error


def _last_line(error: BaseException) -> str:
    """The line of OpenVINO's message that says what happened; those before it name its source files."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:300]
