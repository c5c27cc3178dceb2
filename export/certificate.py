"""The proof of an export: every file of one network, in every runtime, against the network itself.

Reads the files as a user's machine will, from the folder, and collects figures and problems in a `parity.Report`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import paddle

from deploy.manifest import ModelEntry, ModelError, Signature
from deploy.runtimes import OnnxRuntime, PaddleInference

from . import parity, static_graph, structure
from .load_weights import Trained


class Exported(NamedTuple):
    """One network as files in `folder`. `operators` are those of its Paddle program, whether that is kept or not."""

    trained: Trained
    folder: Path
    models: Sequence[ModelEntry]
    operators: Sequence[static_graph.Operator]


def certify(exported: Exported, report: parity.Report, precision: str, device: str) -> None:
    """Compare everything that was written of one network with the network, numbers and files; nothing is raised.

    Args: precision, device - which tolerances apply, and where the runtimes compute ("cpu" or "gpu").
    When an ONNX model breaches, its first layer that differs is named before all other problems.
    """
    trained, tolerance = exported.trained, parity.TOLERANCES[precision, device]
    reference = parity.reference_of(trained.layer, parity.inputs_for(trained.signature))
    parity.check_reference(report, trained.name, reference)
    run = parity.run_layer(trained.layer)
    parity.measure(report, trained.name, "dygraph", lambda: run, reference, tolerance)
    for model in exported.models:
        before, measured = len(report.problems), len(report.rows)
        for runtime, load in _runtimes(exported, model, device).items():
            if model.output_dtype == "uint8":
                floats = _runtimes(exported, _float_model(exported), device)[runtime]
                parity.measure_uint8(report, model.files[0], runtime, load, floats, reference.inputs)
            else:
                parity.measure(report, model.files[0], runtime, load, reference, tolerance)
        found = [f"{model.files[-1]}: {problem}" for problem in _file_problems(exported, model)]
        report.expect_none(found, f"{model.files[-1]}: weights and attributes of {trained.group}")
        was_run = len(report.rows) > measured  # of one that onnxruntime cannot run no layers can be compared
        if model.kind == "onnx" and model.output_dtype != "uint8" and was_run and len(report.problems) > before:
            import onnx

            from .bisection import first_difference

            written = onnx.load(exported.folder / model.files[0])
            first = first_difference(trained.layer, written, reference, tolerance)
            report.problems.insert(before, f"{model.files[0]}: {first}")


def _runtimes(exported: Exported, model: ModelEntry, device: str) -> dict[str, Callable[[], parity.Run]]:
    """How each runtime that takes this model is made, by name."""
    contents = [(exported.folder / name).read_bytes() for name in model.files]
    signature = exported.trained.signature._replace(output_dtype=model.output_dtype)
    if model.kind == "onnx":
        return {"onnxruntime": lambda: _onnxruntime(contents[0], signature, device)}
    prefix = exported.folder / exported.trained.name
    runtimes: dict[str, Callable[[], parity.Run]] = {
        "static program": lambda: parity.run_layer(paddle.jit.load(str(prefix))),
        "Paddle Inference": lambda: PaddleInference(*contents, signature, device, onednn=False).run,
    }
    if device == "cpu":
        runtimes["Paddle Inference, oneDNN"] = lambda: PaddleInference(*contents, signature, device, onednn=True).run
    return runtimes


def _onnxruntime(content: bytes, signature: Signature, device: str) -> parity.Run:
    runtime = OnnxRuntime(content, signature, device)
    if runtime.device != device:
        raise ModelError(f"onnxruntime cannot use the {device} here. Install onnxruntime-gpu or use --device cpu")
    return runtime.run


def _float_model(exported: Exported) -> ModelEntry:
    return next(m for m in exported.models if m.kind == "onnx" and m.output_dtype != "uint8")


def _file_problems(exported: Exported, model: ModelEntry) -> list[str]:
    """How the numbers in the files differ from the network's."""
    layer, operators = exported.trained.layer, exported.operators
    if model.kind == "onnx":
        import onnx

        written = onnx.load(exported.folder / model.files[0])
        return structure.onnx_problems(written, operators, layer, model.precision)
    weights = static_graph.read_weights(exported.folder / exported.trained.name, layer)
    return structure.program_problems(weights, operators, layer)
