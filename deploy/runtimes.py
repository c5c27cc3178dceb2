"""Run an exported model through ONNX Runtime, Paddle Inference or OpenVINO; from outside they are alike.

    from deploy.runtimes import load_generator
    images = load_generator("work/export").generate(seeds=[1, 2, 3])  # float32 [3, 3, 64, 64] in [-1, 1]

A runtime's library is imported only when that runtime is used. The GPU paths of this file have never run on a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.files import PathLike
from deploy.manifest import Manifest, ModelEntry, ModelError, Signature, read_manifest, read_verified
from deploy.seeds import latents

log = logging.getLogger(__name__)

BATCH_SIZE = 32  # larger ones are no faster on a CPU, and cost memory
BACKENDS = {"onnxruntime": "onnx", "paddle": "paddle", "openvino": "onnx"}  # backend -> kind of model it runs
PREFERRED = ("onnxruntime", "paddle")  # what "auto" takes, in this order; OpenVINO only when it is named
PRECISIONS = ("fp32", "bf16")  # what is computed in, whatever a model stores
_PACKAGES = {"onnxruntime": "onnxruntime", "paddle": "paddlepaddle==3.2.2", "openvino": "openvino"}  # module -> package
_ONNX_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
_FIELD_1_LENGTH_8 = re.compile(rb"(\x0a|\x8a\x80*\x00)(\x08|\x88\x80*\x00)$", re.DOTALL)
# How Paddle's C++ errors arrive: InvalidArgument, NotFound and Fatal, External, ResourceExhausted, ...
_PADDLE_ERRORS = (ValueError, RuntimeError, SystemError, OSError, MemoryError)


class Runtime:
    """One loaded model: `run` is one call of the runtime, `generate` turns any number of seeds into images.

    Attributes: backend - its name on the command line.  device - "cpu" or "gpu", what it really uses.
    signature - names and shapes of input and output.  model_id - SHA-256 of its files, if it is from an export folder,
    and the precision where that is not fp32: what decides about every pixel.
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

        Raises ValueError for a seed outside 0 .. 4294967295, ModelError for images that are not finite numbers.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, received {batch_size}")
        return self.generate_from(latents(seeds, self.signature.input_shape[0]), batch_size)

    def generate_from(self, z: np.ndarray, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Images of N latents, float32 [N, latent_dim], as `generate` returns them."""
        images = np.empty((len(z), *self.signature.output_shape), np.float32)
        for start in range(0, len(z), batch_size):
            images[start : start + batch_size] = self.run(z[start : start + batch_size])
        if not np.isfinite(images).all():
            raise ModelError(f"the generator made numbers that are not finite ({self.backend}, {self.device}).")
        return images

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class OnnxRuntime(Runtime):
    """An ONNX model. Raises ModelError if onnxruntime is missing, refuses the model, or finds another signature in it.

    Args: model - the file's content; weights kept in other files ("external data") are refused.
          device - auto, cpu or gpu.  threads - 0 for every core.
    """

    backend = "onnxruntime"

    def __init__(self, model: bytes, signature: Signature, device: str = "auto", threads: int = 0):
        ort = _import("onnxruntime")
        _refuse_external_data(model)
        super().__init__(signature, _choose_device(device, "CUDAExecutionProvider" in ort.get_available_providers()))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or _cores()
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
            raise ModelError(f"onnxruntime cannot load the model: {_one_line(error)}") from error
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
            actual = [(p.name, _ONNX_DTYPES.get(p.type, p.type), p.shape) for p in found]
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
            raise ModelError(f"onnxruntime failed on a batch of {len(inputs)}: {_one_line(error)}") from error


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
        paddle = _import_paddle()
        has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
        super().__init__(signature, _choose_device(device, has_gpu))
        with tempfile.TemporaryDirectory() as folder:  # Paddle 3.2 crashes on a program given in memory
            paths = [Path(folder, "model.json"), Path(folder, "model.pdiparams")]
            for path, content in zip(paths, (program, parameters)):
                path.write_bytes(content)
            config = self._config(paddle, paths, threads or _cores(), onednn)
            try:
                self._predictor = paddle.inference.create_predictor(config)
            except _PADDLE_ERRORS as error:
                raise ModelError(f"Paddle Inference cannot load the model: {_one_line(error)}") from error
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
        handle = predictor.get_input_handle(self.signature.input_name)
        try:
            handle.reshape(inputs.shape)
            handle.copy_from_cpu(inputs)
            predictor.run()
            return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        except _PADDLE_ERRORS as error:
            raise ModelError(f"Paddle Inference failed on {list(inputs.shape)}: {_one_line(error)}") from error


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
        openvino = _import("openvino")
        _refuse_external_data(model)
        super().__init__(signature, _choose_device(device, has_gpu=False))
        # said even for fp32: left alone, OpenVINO takes bfloat16 wherever the processor has it
        wanted = {"fp32": "f32", "bf16": "bf16"}[precision]
        settings = {"INFERENCE_PRECISION_HINT": wanted, "INFERENCE_NUM_THREADS": threads or _cores()}
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(model), "CPU", settings)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load the model: {_last_line(error)}") from error
        if wanted == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            log.warning("This processor has no bfloat16; computing in float32.")
        self._check(compiled)
        self._request = compiled.create_infer_request()

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
            return self._request.infer([inputs])[0]  # a copy: the next call may reuse the original
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed on a batch of {len(inputs)}: {_last_line(error)}") from error


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


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModelError(f"{module} is not installed. Run `python -m pip install {_PACKAGES[module]}`.") from error
    except ImportError as error:
        raise ModelError(f"{module} is installed but cannot be imported: {_one_line(error)}") from error


def _import_paddle() -> Any:
    """Paddle without its chatter: no glog, no ccache warning, OMP_NUM_THREADS neither warned of nor overwritten."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    threads = os.environ.pop("OMP_NUM_THREADS", None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ccache.*")
            paddle = _import("paddle")  # brings paddle.inference
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
    return paddle


def _refuse_external_data(model: bytes) -> None:
    """Raise ModelError if a tensor of an ONNX file says where else its weights are: runtimes open any such file.

    It does so with a protobuf string "location" in field 1, whose tag and length have more than one valid spelling.
    """
    found = re.finditer(b"location", model)
    if any(_FIELD_1_LENGTH_8.search(model[max(0, m.start() - 20) : m.start()]) for m in found):
        raise ModelError("the model keeps weights in other files, which nobody checked. Export the model again.")


def _onnxruntime_errors(ort: Any) -> tuple[type[Exception], ...]:
    """onnxruntime's exceptions: each derives from Exception itself, so they can only be listed."""
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented")
    found = [getattr(ort.capi.onnxruntime_pybind11_state, n) for n in (*names, "EPFail", "RuntimeException")]
    return (*found, RuntimeError, ValueError)


def _version(ort: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in ort.__version__.split(".")[:2])


def _choose_device(device: str, has_gpu: bool) -> str:
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device must be auto, cpu or gpu, received {device!r}")
    if device == "gpu" and not has_gpu:
        log.warning("This installation cannot use a GPU; computing on the CPU.")
    return "gpu" if has_gpu and device != "cpu" else "cpu"


def _cores() -> int:
    """Cores that this process may use. onnxruntime's own count is the machine's, which is wrong in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _last_line(error: BaseException) -> str:
    """The line of OpenVINO's message that says what happened; those before it name its source files."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:300]


def _one_line(error: BaseException) -> str:
    """The line of a runtime's message that says what happened; Paddle's come after a C++ traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("(") or "Error" in line]
    return (told or lines or [type(error).__name__])[0][:300]
