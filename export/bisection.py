"""Which layer of an ONNX model is the first to compute something else than the trained network does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import paddle
from paddle import nn

from .parity import Reference, Tolerance, allowed_difference

_LATENTS = 7  # enough to see a fault, few enough to hold every activation


def first_difference(layer: nn.Layer, model: onnx.ModelProto, reference: Reference, tolerance: Tolerance) -> str:
    """A sentence on the first node whose output differs, or that none does.

    The output may differ by as much as in the certificate; another activation by the same share of the largest there,
    or of 1 if that is more.
    """
    allowed_at_end = allowed_difference(reference, tolerance)
    share = allowed_at_end / (reference.scale or 1.0)
    inputs = reference.inputs[-_LATENTS:]
    ours, theirs = _layer_values(layer, model, inputs), _onnx_values(model, inputs)
    for node in model.graph.node:
        name = node.output[0]
        if name not in ours:
            continue
        expected, found = ours[name], theirs[name].astype(np.float32)
        if found.size != expected.size:
            return f"the first layer that differs is {node.name} ({node.op_type}): {found.shape} for {expected.shape}"
        largest = np.abs(found.reshape(expected.shape) - expected).max()
        is_end = name == model.graph.output[0].name
        allowed = allowed_at_end if is_end else share * max(1.0, float(np.abs(expected).max()))
        if not largest <= allowed:
            return f"the first layer that differs is {node.name} ({node.op_type}), by {largest:.1e} above {allowed:.1e}"
    return "layer by layer, the ONNX model in onnxruntime computes what the trained network computes"


def _layer_values(layer: nn.Layer, model: onnx.ModelProto, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Activations of the trained network under the names that the ONNX model has for them.

    A convolution stands for itself and the BatchNorm folded into it; what lies between two convolutions is seen as the
    input of the second.
    """
    entering: dict[str, np.ndarray] = {}
    leaving: dict[str, np.ndarray] = {}
    handles = []
    for name, part in layer.named_sublayers():
        key = name.replace("bn_", "conv_")

        def see(_: nn.Layer, given: tuple, result: paddle.Tensor, key: str = key, name: str = name) -> None:
            leaving[key] = result.numpy()
            if key == name:
                entering[key] = given[0].numpy()

        handles.append(part.register_forward_post_hook(see))
    try:
        with paddle.no_grad():
            output = layer(paddle.to_tensor(inputs)).numpy()
    finally:
        for handle in handles:
            handle.remove()
    values = {}
    for node in model.graph.node:
        if node.name in leaving and node.op_type in ("Conv", "ConvTranspose"):
            values[node.input[0]] = entering[node.name]
            if node.output[0] != node.name:
                values[node.output[0]] = leaving[node.name]
    return {**values, model.graph.output[0].name: output}


def _onnx_values(model: onnx.ModelProto, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Every value that the model computes, by name."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(opened.graph.value_info)
    names = [value.name for value in opened.graph.output]
    session = onnxruntime.InferenceSession(opened.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {opened.graph.input[0].name: inputs})))
