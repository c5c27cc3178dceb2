"""What an exported file holds, compared with the trained network number by number: parity's other half.

A weight that is 1% off may move no image by more than the tolerance. Here nothing has a tolerance: weights must equal
the network's to the bit (BatchNorm folded by the same rule), and operators and attributes those of the traced program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from paddle import nn

from .static_graph import Operator

if TYPE_CHECKING:  # without ONNX, programs are compared all the same
    import onnx

    from .onnx_graph import Graph

# Paddle's operator -> ONNX's; a BatchNorm is part of the convolution before it.
_KINDS = {
    "conv2d": "Conv",
    "conv2d_transpose": "ConvTranspose",
    "leaky_relu": "LeakyRelu",
    "relu": "Relu",
    "squeeze": "Squeeze",
    "tanh": "Tanh",
    "unsqueeze": "Unsqueeze",
}
# What precision and uint8 add around the network.
_FRAME = {name: "Cast" for name in ("to_float16", "to_float32", "to_uint8")}
_FRAME.update(shift="Add", scale="Mul", round="Round")
_FRAME_ARRAYS = {"one", "half_range"}


def program_problems(weights: Mapping[str, np.ndarray], operators: Sequence[Operator], layer: nn.Layer) -> list[str]:
    """How a written Paddle program differs from `layer`; empty when it does not.

    Args: weights, operators - as static_graph reads them from the program.
    """
    expected = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    problems = _array_problems(weights, expected)
    for op in operators:
        if op.kind == "batch_norm" and not op.attributes.get("is_test"):
            problems.append(f"{op.layer} is in training mode")
    return problems


def onnx_problems(
    model: onnx.ModelProto, operators: Sequence[Operator], layer: nn.Layer, precision: str = "fp32"
) -> list[str]:
    """How an ONNX model differs from `layer` and from the program it was made of; empty when it does not.

    Args: precision - fp32, fp16 (every array rounded to float16) or fp16-weights (weights so, biases not).
    """
    from .onnx_graph import is_weight_cast, read_graph

    graph = read_graph(model)
    arrays = {n: a for n, a in graph.arrays.items() if a.dtype.kind == "f" and n not in _FRAME_ARRAYS}
    expected = expected_arrays(operators, layer)
    for name, array in expected.items():
        if precision == "fp16" or (precision == "fp16-weights" and name.endswith(".weight")):
            expected[name] = array.astype(np.float16)
    casts = {node.name for node in model.graph.node if is_weight_cast(model, node)}
    graph = graph._replace(nodes=[node for node in graph.nodes if node.name not in casts])
    return [*_array_problems(arrays, expected), *_node_problems(graph, operators)]


def expected_arrays(operators: Sequence[Operator], layer: nn.Layer) -> dict[str, np.ndarray]:
    """Weights and biases of the convolutions of `layer`, float32, BatchNorm folded in, read from the layers alone."""
    from .onnx_graph import folded

    parts = dict(layer.named_sublayers())
    arrays: dict[str, np.ndarray] = {}
    for op in operators:
        part = parts.get(op.layer)
        if op.kind in ("conv2d", "conv2d_transpose"):
            arrays[f"{op.layer}.weight"] = part.weight.numpy()
            last = op
        elif op.kind == "batch_norm":
            name, axis = f"{last.layer}.weight", 0 if last.kind == "conv2d" else 1
            norm = {"weight": part.weight, "bias": part.bias, "mean": part._mean, "variance": part._variance}
            values = {key: tensor.numpy() for key, tensor in norm.items()}
            epsilon = float(np.float32(part._epsilon))  # both formats keep it as a float32
            arrays[name], arrays[f"{last.layer}.bias"] = folded(arrays[name], axis, values, epsilon)
    return arrays


def _array_problems(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> list[str]:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not of the network" for name in found if name not in expected]
    for name in sorted(set(found) & set(expected)):
        a, b = found[name], expected[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            problems.append(f"{name} is {a.dtype} {list(a.shape)}, expected {b.dtype} {list(b.shape)}")
        elif a.tobytes() != b.tobytes():
            wrong = a != b
            largest = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
            problems.append(f"{name} differs in {int(wrong.sum()):,} of {a.size:,} numbers, by up to {largest:.2g}")
    return problems


def _node_problems(graph: Graph, operators: Sequence[Operator]) -> list[str]:
    nodes = [node for node in graph.nodes if _FRAME.get(node.name) != node.kind]
    steps = [op for op in operators if op.kind != "batch_norm"]
    unknown = [op.kind for op in steps if op.kind not in _KINDS]
    if unknown:
        return [f"the program holds operators that this check does not know: {', '.join(unknown)}"]
    kinds = [_KINDS[op.kind] for op in steps]
    if [node.kind for node in nodes] != kinds:
        return [f"its operators are {[node.kind for node in nodes]}, expected {kinds}"]
    problems = []
    for node, op in zip(nodes, steps):
        for name, value in _attributes(op).items():
            found = node.attributes.get(name)
            if found != value:
                problems.append(f"{node.name}: {name} is {_said(found)}, expected {_said(value)}")
    return problems


def _attributes(op: Operator) -> dict[str, Any]:
    """The ONNX attributes that a Paddle operator calls for."""
    given = op.attributes
    if op.kind == "leaky_relu":
        return {"alpha": float(np.float32(given["negative_slope"]))}
    if op.kind in ("conv2d", "conv2d_transpose"):
        return {
            "strides": list(given["strides"]),
            "pads": [*given["paddings"], *given["paddings"]],
            "dilations": list(given["dilations"]),
            "group": given["groups"],
        }
    return {}


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
