"""ONNX models in ONNX Runtime, on the CPU or through CUDA."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from deploy.manifest import ModelError, Signature
from deploy.model_check import check_onnx
from deploy.runtimes.base import Runtime, choose_device, cores, import_library, one_line

log = logging.getLogger(__name__)

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class OnnxRuntime(Runtime):
    """An ONNX model. Raises ModelError if onnxruntime is missing, refuses the model, or finds another signature in it.

    Args: model - the file's content; of the form that `tools/export.py` writes, see deploy/model_check.py.
          device - auto, cpu or gpu.  threads - 0 for every core.
    """

    backend = "onnxruntime"

    def __init__(self, model: bytes, signature: Signature, device: str = "auto", threads: int = 0):
        ort = import_library("onnxruntime")
        check_onnx(model)
        super().__init__(signature, choose_device(device, "CUDAExecutionProvider" in ort.get_available_providers()))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        # Threads that wait by spinning wake sooner, a tenth of the time, and take the cores from the ones that write
        # images: so for half a millisecond, which bridges two layers and not two batches. Older ones spin for long.
        if _version(ort) < (1, 27):
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        else:
            options.add_session_config_entry("session.intra_op.spin_duration_us", "500")
        options.log_severity_level = 4  # an error arrives as an exception; logging it too would print it twice
        self._errors = _onnxruntime_errors(ort)
        try:
            self._session = ort.InferenceSession(model, options, providers=self._providers())
        except self._errors as error:
            raise ModelError(f"onnxruntime cannot load the model: {one_line(error)}") from error
        if self.device == "gpu" and "CUDAExecutionProvider" not in self._session.get_providers():
            log.warning("onnxruntime could not start CUDA; computing on the CPU.")
            self.device = "cpu"
        self._check()

    def _providers(self) -> list[Any]:
        # TF32 rounds the factors of a convolution to 10 bits: fast, and far outside the tolerance of fp32
        cuda = [("CUDAExecutionProvider", {"use_tf32": "0"})] if self.device == "gpu" else []
        return [*cuda, "CPUExecutionProvider"]

    def _check(self) -> None:
        expected, session = self.signature, self._session
        for what, found, name, dtype, shape in (
            ("input", session.get_inputs(), expected.input_name, "float32", expected.input_shape),
            ("output", session.get_outputs(), expected.output_name, expected.output_dtype, expected.output_shape),
        ):
            actual = [(p.name, _DTYPES.get(p.type, p.type), p.shape) for p in found]
            is_right = len(actual) == 1 and actual[0][:2] == (name, dtype) and tuple(actual[0][2][1:]) == shape
            if not is_right or isinstance(actual[0][2][0], int):  # a number there is a fixed batch size
                listed = "; ".join(f"{n} {t} {s}" for n, t, s in actual)
                raise ModelError(
                    f"the model's {what} is {listed[:200]}; the manifest says {name} {dtype} {['batch', *shape]}. "
                    "Export the model again."
                )

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        try:
            return self._session.run([self.signature.output_name], {self.signature.input_name: inputs})[0]
        except self._errors as error:
            raise ModelError(f"onnxruntime failed on a batch of {len(inputs)}: {one_line(error)}") from error


def _onnxruntime_errors(ort: Any) -> tuple[type[Exception], ...]:
    """onnxruntime's exceptions: each derives from Exception itself, so they can only be listed."""
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented")
    found = [getattr(ort.capi.onnxruntime_pybind11_state, n) for n in (*names, "EPFail", "RuntimeException")]
    return (*found, RuntimeError, ValueError)


def _version(ort: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in ort.__version__.split(".")[:2])
