"""ONNX models in ONNX Runtime, on the CPU or through CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deploy.files import PathLike
from deploy.manifest import ModelError, Signature
from deploy.model_check import check_onnx
from deploy.runtimes.base import Runtime, choose_device, cores, import_library, one_line

log = logging.getLogger(__name__)

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class OnnxRuntime(Runtime):
    """An ONNX model. Raises ModelError if onnxruntime is missing, refuses the model, or finds another signature in it.

    Args: model - the file's content; of the form that `tools/export.py` writes, see deploy/model_check.
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
        # images: so for a millisecond, which bridges two layers and not two batches. Older ones spin for long.
        if _version(ort) < (1, 27):
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        else:
            options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
        options.log_severity_level = 4  # an error arrives as an exception; logging it too would print it twice
        self._errors = _onnxruntime_errors(ort)
        session, why = self._on_cuda(ort, model, options) if self.device == "gpu" else (None, "")
        try:
            self._session = session or ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except self._errors as error:
            raise ModelError(f"onnxruntime cannot load the model: {one_line(error)}") from error
        if why:
            _warn_once(f"onnxruntime could not start CUDA ({why}); computing on the CPU.")
            self.device = "cpu"
        self._check()

    def _on_cuda(self, ort: Any, model: bytes, options: Any) -> tuple[Any, str]:
        """A session that computes on CUDA and "", or a session on the CPU (or None) and why it does not start."""
        # TF32 rounds the factors of a convolution to 10 bits: fast, and far outside the tolerance of fp32
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
        with _silent(ort):
            try:
                if hasattr(ort, "preload_dlls"):  # 1.21 and newer: finds the CUDA and cuDNN that pip installed
                    ort.preload_dlls()
                session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
            except self._errors as error:
                told = re.search(r"CUDA failure \d+: ([^;\n]+)", str(error))
                return None, told[1].strip() if told else one_line(error)
        started = "CUDAExecutionProvider" in session.get_providers()
        return session, "" if started else _what_cuda_lacks(ort.__file__)

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


@contextlib.contextmanager
def _silent(ort: Any) -> Iterator[None]:
    """Keep from the screen what onnxruntime itself says, in red and on stdout, of a CUDA that does not start."""
    ort.set_default_logger_severity(4)  # fatal errors only
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        ort.set_default_logger_severity(2)  # warnings and worse, its default


def _what_cuda_lacks(onnxruntime_file: PathLike) -> str:
    """Why the library that reaches CUDA cannot be loaded, asked of the loader once more (Linux)."""
    library = Path(onnxruntime_file).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        if library.is_file():
            ctypes.CDLL(str(library))
    except OSError as error:
        name, _, rest = str(error).partition(":")
        if not rest.startswith(" cannot open shared object file"):
            return str(error)
        if name.startswith("libcuda."):
            return f"{name}, NVIDIA's driver, is missing"
        return f"{name} is missing; pip install -r deploy/requirements-gpu.txt brings it"
    return "no reason is known"


@functools.cache
def _warn_once(message: str) -> None:
    """A warning that loading a second network does not repeat."""
    log.warning(message)


def _version(ort: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in ort.__version__.split(".")[:2])
