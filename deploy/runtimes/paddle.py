"""Paddle programs in Paddle Inference, with oneDNN's kernels or Paddle's own on the CPU."""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from deploy.manifest import ModelError, Signature
from deploy.model_check import check_paddle
from deploy.runtimes.base import Runtime, choose_device, cores, import_library, one_line

# How Paddle's C++ errors arrive: InvalidArgument, NotFound and Fatal, External, ResourceExhausted, ...
_PADDLE_ERRORS = (ValueError, RuntimeError, SystemError, OSError, MemoryError)


class PaddleInference(Runtime):
    """A Paddle program and its parameters. Raises ModelError as OnnxRuntime does.

    Args: program, parameters - the files' contents.  device, threads - as OnnxRuntime's.
          onednn - whether the CPU computes with oneDNN's kernels or with Paddle's own.
    """

    backend = "paddle"

    def __init__(
        self,
        program: bytes,
        parameters: bytes,
        signature: Signature,
        device: str = "auto",
        threads: int = 0,
        onednn: bool = True,
    ):
        if device != "cpu":  # TF32 is a default of NVIDIA's libraries, which read this when they start
            os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        check_paddle(program, parameters)
        paddle = _import_paddle()
        has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
        super().__init__(signature, choose_device(device, has_gpu))
        self._lock = threading.Lock()
        with tempfile.TemporaryDirectory() as folder:  # Paddle 3.2 crashes on a program given in memory
            paths = [Path(folder, "model.json"), Path(folder, "model.pdiparams")]
            for path, content in zip(paths, (program, parameters)):
                path.write_bytes(content)
            config = self._config(paddle, paths, threads or cores(), onednn)
            try:
                self._predictor = paddle.inference.create_predictor(config)
            except _PADDLE_ERRORS as error:
                raise ModelError(f"Paddle Inference cannot load the model: {one_line(error)}") from error
        self._check()

    def _config(self, paddle: Any, paths: list[Path], threads: int, onednn: bool) -> Any:
        config = paddle.inference.Config(*map(str, paths))
        config.disable_glog_info()
        config.enable_new_ir(True)
        config.enable_new_executor(True)  # without these two, enable_memory_optim fails on a .json program
        config.enable_memory_optim()
        if self.device == "gpu":
            config.enable_use_gpu(256, 0)  # megabytes of the first memory pool, number of the GPU
            return config
        config.set_cpu_math_library_num_threads(threads)
        if not onednn:
            config.disable_onednn()
        return config

    def _check(self) -> None:
        names = self._predictor.get_input_names()
        if names != [self.signature.input_name] or len(self._predictor.get_output_names()) != 1:
            raise ModelError(
                f"the Paddle program has inputs {names} and {len(self._predictor.get_output_names())} output(s); "
                f"one input {self.signature.input_name!r} and one output are expected. Export the model again."
            )
        self.run(np.zeros((1, *self.signature.input_shape), np.float32))  # shapes are known only by running it

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        predictor = self._predictor
        try:
            with self._lock:
                handle = predictor.get_input_handle(self.signature.input_name)
                handle.reshape(inputs.shape)
                handle.copy_from_cpu(inputs)
                predictor.run()
                return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        except _PADDLE_ERRORS as error:
            raise ModelError(f"Paddle Inference failed on {list(inputs.shape)}: {one_line(error)}") from error


def _import_paddle() -> Any:
    """Paddle without its chatter: no glog, no ccache warning, OMP_NUM_THREADS neither warned of nor overwritten."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    threads = os.environ.pop("OMP_NUM_THREADS", None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ccache.*")
            paddle = import_library("paddle")  # brings paddle.inference
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
    return paddle
