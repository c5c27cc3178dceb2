"""Features by a trained network that the user brings as an ONNX file: FID's InceptionV3, or any other.

The file is untrusted: its graph is read before it is run, weights in other files are refused, and what it
answers is checked. docs/quality.md says how to make one of the standard InceptionV3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from deploy.files import PathLike
from deploy.untrusted import read_file

from ..errors import EvaluationError

MAX_MODEL_BYTES = 2 << 30  # an ONNX file cannot be larger
RANGES = {"uint8": (0.0, 255.0), "float32": (-1.0, 1.0)}  # what black and white become unless the caller says otherwise
_LOOPS = {"Loop", "Scan", "SequenceMap"}
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class OnnxFeatures:
    """An ONNX graph that maps images to feature vectors; `extractor(images_uint8)` is float32 [N, D].

    The graph has one input, [N, 3, H, W] RGB in float32 or uint8, and an output [N, D], or [N, D, 1, 1]. Images of
    another size than H x W (when these are numbers) are resized first: enlarged bilinearly, shrunk by area.
    """

    def __init__(
        self, path: PathLike, value_range: tuple[float, float] | None = None, output: str = "", batch_size: int = 32
    ):
        """Args: path - the .onnx file.  value_range - what levels 0 and 255 become; None: -1 and 1 for a float32 input,
        as they are for uint8.  output - name of the output; empty: the only one.  batch_size - images per call.

        Raises EvaluationError if the file is no such graph, FileNotFoundError.
        """
        content = read_file(path, MAX_MODEL_BYTES)
        self._name, self._batch_size = str(path), batch_size
        self._session, self._errors = self._load(content)
        self._input, self._dtype, self._height, self._width, fixed_batch = self._read_input()
        self._batch_size = fixed_batch or batch_size
        self._fixed_batch = bool(fixed_batch)
        self._output = self._read_output(output)
        self._range = value_range or RANGES[self._dtype]
        if self._dtype == "uint8" and self._range != RANGES["uint8"]:
            raise EvaluationError(f"{path} takes uint8 images: their levels are 0 to 255, no range can be given")
        size = "any" if self._height is None else f"{self._height}x{self._width}"
        is_resized = self._dtype == "float32" and self._height is not None
        self.protocol = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "input": f"{self._dtype} {size}",
            "range": list(self._range),
            "output": self._output,
            "resizer": "OpenCV: area down, bilinear up" if is_resized else "none, or the graph's own",
        }

    def __call__(self, images_uint8: np.ndarray) -> np.ndarray:
        """float32 [N, D] of uint8 [N, 3, S, S]. Raises EvaluationError for an answer that is none."""
        starts = range(0, len(images_uint8), self._batch_size)
        bar = tqdm(starts, desc="features", unit=" batches", disable=None, leave=False)
        return np.concatenate([self._features(images_uint8[i : i + self._batch_size]) for i in bar])

    def _features(self, images_uint8: np.ndarray) -> np.ndarray:
        count = len(images_uint8)
        if self._fixed_batch and count < self._batch_size:  # filled up with the last image
            images_uint8 = np.concatenate([images_uint8, images_uint8[-1:].repeat(self._batch_size - count, 0)])
        try:
            answer = self._session.run([self._output], {self._input: self._prepared(images_uint8)})[0]
        except self._errors as error:
            raise EvaluationError(f"{self._name} failed on a batch of images: {_first_line(error)}") from None
        shape = list(np.shape(answer))
        is_vectors = len(shape) in (2, 4) and shape[0] == len(images_uint8) and shape[2:] in ([], [1, 1])
        if not is_vectors or answer.dtype.kind != "f":
            raise EvaluationError(
                f"{self._name} answers {answer.dtype} {shape} for {len(images_uint8)} images; "
                "one feature vector each, float [N, D], is expected. Name another output with --inception-output."
            )
        features = answer.reshape(len(answer), -1)[:count].astype(np.float32)
        if not np.isfinite(features).all():
            raise EvaluationError(f"{self._name} returns numbers that are not finite. Is --inception-range right?")
        return features

    def _prepared(self, images_uint8: np.ndarray) -> np.ndarray:
        """Resized, in the graph's range and type."""
        images = np.asarray(images_uint8)
        if self._dtype == "float32":
            low, high = self._range
            images = images.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
        if self._height is None or images.shape[2:] == (self._height, self._width):
            return images
        if self._dtype == "uint8":
            raise EvaluationError(
                f"{self._name} takes uint8 images of {self._height} x {self._width}, these are of "
                f"{images.shape[2]} x {images.shape[3]}: a graph in uint8 has to resize by itself"
            )
        how = cv2.INTER_AREA if images.shape[-1] > self._width else cv2.INTER_LINEAR
        resized = [cv2.resize(i.transpose(1, 2, 0), (self._width, self._height), interpolation=how) for i in images]
        return np.ascontiguousarray(np.stack(resized).transpose(0, 3, 1, 2))

    def _load(self, content: bytes) -> tuple[Any, tuple]:
        import onnx
        import onnxruntime
        from google.protobuf.message import DecodeError  # onnx itself is made of it

        try:
            model = onnx.load_model_from_string(content)
            if any(tensor.data_location or tensor.external_data for tensor in _messages(model, "TensorProto")):
                raise EvaluationError(f"{self._name} keeps its weights in other files: export it as one file")
            loops = {node.op_type for node in _messages(model, "NodeProto")} & _LOOPS
            if loops or model.functions:  # either can make a few bytes compute for ever
                found = ", ".join(sorted(loops)) or "functions of its own: inline them with onnx.inliner"
                raise EvaluationError(f"{self._name} holds {found}; a feature network is one plain graph")
        except DecodeError:
            raise EvaluationError(f"{self._name} is not an ONNX file, or a damaged one") from None
        state = onnxruntime.capi.onnxruntime_pybind11_state
        own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
        errors = (*own, RuntimeError, ValueError)  # onnxruntime's exceptions have no common base
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # an error arrives as an exception; logging it too would print it twice
        try:
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]), errors
        except errors as error:
            raise EvaluationError(f"{self._name} cannot be run: {_first_line(error)}") from None

    def _read_input(self) -> tuple[str, str, int | None, int | None, int | None]:
        """Name, type, height, width and batch size of the one input; None stands for any number."""
        inputs = [(i.name, _DTYPES.get(i.type), i.shape) for i in self._session.get_inputs()]
        if len(inputs) == 1 and inputs[0][1] and len(inputs[0][2]) == 4:
            name, dtype, (batch, channels, height, width) = inputs[0]
            sizes = [size if isinstance(size, int) and size > 0 else None for size in (batch, height, width)]
            if channels in (3, None) or isinstance(channels, str):
                return name, dtype, sizes[1] if sizes[2] else None, sizes[2] if sizes[1] else None, sizes[0]
        inputs = "; ".join(f"{i.name} {i.type} {i.shape}" for i in self._session.get_inputs())
        raise EvaluationError(
            f"{self._name} takes {inputs[:200]}; one input of RGB images, float32 or uint8 [N, 3, H, W], is expected"
        )

    def _read_output(self, wanted: str) -> str:
        names = [output.name for output in self._session.get_outputs()]
        if wanted in names:
            return wanted
        if wanted or len(names) != 1:
            raise EvaluationError(
                f"{self._name} has the outputs {', '.join(names)[:200]}: name one of them with --inception-output"
            )
        return names[0]


def _messages(message: Any, kind: str) -> Iterator[Any]:
    """Every part of an ONNX file of this kind, wherever it is: in graphs, attributes, functions, training steps."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                if field.message_type.name == kind:
                    yield part
                yield from _messages(part, kind)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
