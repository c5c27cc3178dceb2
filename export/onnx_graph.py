"""The converter's ONNX made into one that a person can read: few nodes, good names, BatchNorm folded, facts attached.

`clean` rebuilds the graph; `with_float16`, `with_float16_weights` and `with_uint8` derive variants; `check` is what
every model must pass before it is written. Works with `onnx` alone and gives the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dcgan.errors import ExportError
from deploy.files import PathLike, atomic_write
from deploy.manifest import Signature

BATCH = "batch"
PRODUCER = "dcgan-paddle"
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LITTER = ("Identity", "Constant", "BatchNormalization", "Dropout")
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_DTYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


class Node(NamedTuple):
    """One operator: value names in and out (each of ours has one output), attributes by name."""

    kind: str
    name: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]


class Graph(NamedTuple):
    """A chain of nodes in order of execution, and the arrays they use by name."""

    nodes: list[Node]
    arrays: dict[str, np.ndarray]


def clean(
    converted: onnx.ModelProto, names: Mapping[str, str], signature: Signature, facts: Mapping[str, str]
) -> onnx.ModelProto:
    """The same computation with folded BatchNorm, without Identity and Constant nodes, named after the layers.

    Args: converted - as paddle2onnx made it.  names - its weight names -> the network's ("conv_1.weight").
          signature - names and shapes of input and output.  facts - for the model's metadata.
    Raises ExportError naming what is left over that should not be.
    """
    graph = _fold_batch_norms(_without_litter(converted.graph))
    graph = _named(graph, names, converted.graph.input[0].name, converted.graph.output[0].name, signature)
    return make_model(graph, signature, converted.opset_import[0].version, facts)


def with_float16(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """The same model with float16 weights and arithmetic, float32 in and out.

    Raises ExportError naming a weight that float16 cannot hold.
    """
    graph, first, last = read_graph(model), signature.input_name, signature.output_name
    arrays = {n: _float16(n, array) if array.dtype == np.float32 else array for n, array in graph.arrays.items()}
    inner = [
        node._replace(
            inputs=[f"{first}.float16" if name == first else name for name in node.inputs],
            output=f"{last}.float16" if node.output == last else node.output,
        )
        for node in graph.nodes
    ]
    into = Node("Cast", "to_float16", [first], f"{first}.float16", {"to": TensorProto.FLOAT16})
    back = Node("Cast", "to_float32", [f"{last}.float16"], last, {"to": TensorProto.FLOAT})
    return make_model(Graph([into, *inner, back], arrays), signature, opset_of(model), facts_of(model))


def with_float16_weights(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """The same model with the weights of its convolutions stored as float16: half the bytes, float32 arithmetic.

    Each weight goes through a Cast, which a runtime computes once when it loads the model. Biases stay float32.
    Raises ExportError naming a weight that float16 cannot hold.
    """
    graph = read_graph(model)
    weights = [node.inputs[1] for node in graph.nodes if node.kind in _CONVOLUTIONS]
    arrays = {name: _float16(name, array) if name in weights else array for name, array in graph.arrays.items()}
    casts = [
        Node("Cast", f"to_float32_{name}", [name], f"{name}.float32", {"to": TensorProto.FLOAT}) for name in weights
    ]
    inner = [n._replace(inputs=[f"{i}.float32" if i in weights else i for i in n.inputs]) for n in graph.nodes]
    facts = {**facts_of(model), "precision": "fp16-weights"}
    return make_model(Graph([*casts, *inner], arrays), signature, opset_of(model), facts)


def with_uint8(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """The same generator with images as uint8 [N, 3, S, S], to the bit what dcgan.images.to_uint8 makes of them.

    Round takes halves to the even number, as np.rint does. tanh leaves nothing outside [-1, 1] that rounding would not
    bring back, so nothing is clipped. This is the form in which torch-fidelity takes a generator.
    """
    graph, image = read_graph(model), signature.output_name
    inner = [node._replace(output="pixels") if node.output == image else node for node in graph.nodes]
    head = [
        Node("Add", "shift", ["pixels", "one"], "shift.output", {}),
        Node("Mul", "scale", ["shift.output", "half_range"], "scale.output", {}),
        Node("Round", "round", ["scale.output"], "round.output", {}),
        Node("Cast", "to_uint8", ["round.output"], image, {"to": TensorProto.UINT8}),
    ]
    arrays = {**graph.arrays, "one": np.float32([1.0]), "half_range": np.float32([127.5])}
    facts = {**facts_of(model), "output": describe(image, "uint8", signature.output_shape) + ", RGB, 0 to 255"}
    return make_model(Graph([*inner, *head], arrays), signature._replace(output_dtype="uint8"), opset_of(model), facts)


def check(model: onnx.ModelProto, signature: Signature) -> None:
    """Raise ExportError unless the model is valid, wholly typed, free of litter, and shaped as `signature` says."""
    problems = [
        f"{node.op_type} node {node.name or '(unnamed)'} is left over"
        for node in model.graph.node
        if node.op_type in _LITTER or (node.op_type == "Cast" and not node.name.startswith("to_"))
    ]
    values = {value.name: value for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]}
    problems += _interface_problems(values, model, signature)
    for node in model.graph.node:
        for name in () if is_weight_cast(model, node) else node.output:
            shape = _shape(values[name]) if name in values else []
            if not shape or shape[0] != BATCH or not all(isinstance(n, int) and n > 0 for n in shape[1:]):
                problems.append(f"{name} has shape {shape}, expected {BATCH} and whole numbers")
    for initializer in model.graph.initializer:
        if initializer.data_location == TensorProto.EXTERNAL:
            problems.append(f"{initializer.name} lies in another file")
        elif not np.isfinite(numpy_helper.to_array(initializer)).all():
            problems.append(f"{initializer.name} holds NaN or Inf")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        problems.append(str(error))
    if problems:
        raise ExportError(f"the ONNX model is not as it should be: {'; '.join(problems)}")


def is_weight_cast(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether `node` only turns a stored float16 weight into the float32 that is computed with."""
    if node.op_type != "Cast" or node.input[0] not in {initializer.name for initializer in model.graph.initializer}:
        return False
    return helper.get_attribute_value(node.attribute[0]) == TensorProto.FLOAT


def write(model: onnx.ModelProto, path: PathLike) -> None:
    """Write the model as one file, atomically; the same model gives the same bytes."""
    with atomic_write(path) as stream:
        stream.write(model.SerializeToString(deterministic=True))


def read_arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The model's weights by name."""
    return {initializer.name: numpy_helper.to_array(initializer) for initializer in model.graph.initializer}


def folded(weight: np.ndarray, axis: int, batch_norm: Mapping[str, np.ndarray], epsilon: float) -> tuple:
    """Weight and bias of one convolution that equals a convolution followed by BatchNorm.

    Args: axis - of the output channels in `weight`.  batch_norm - weight, bias, mean, variance.
    Computed in float64 and rounded once to float32.
    """
    gamma, beta, mean, variance = (batch_norm[k].astype(np.float64) for k in ("weight", "bias", "mean", "variance"))
    scale = gamma / np.sqrt(variance + epsilon)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    return (weight * scale.reshape(shape)).astype(np.float32), (beta - mean * scale).astype(np.float32)


def describe(name: str, dtype: str, shape: Sequence[int]) -> str:
    """A tensor in words: "z, float32 [batch, 100]"."""
    return f"{name}, {dtype} [{', '.join([BATCH, *map(str, shape)])}]"


def _without_litter(graph: onnx.GraphProto) -> Graph:
    """Constants become arrays, Identity nodes disappear, nodes without use too."""
    arrays = {initializer.name: numpy_helper.to_array(initializer) for initializer in graph.initializer}
    renamed: dict[str, str] = {}
    nodes = []
    for proto in graph.node:
        inputs = [renamed.get(name, name) for name in proto.input]
        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        if proto.op_type == "Constant":
            arrays[proto.output[0]] = numpy_helper.to_array(attributes["value"])
        elif proto.op_type == "Identity":
            renamed[proto.output[0]] = inputs[0]
        else:
            nodes.append(Node(proto.op_type, proto.name, inputs, proto.output[0], attributes))
    output = renamed.get(graph.output[0].name)
    if output:  # an Identity gave the output its name: its source takes it
        nodes = [n._replace(output=graph.output[0].name) if n.output == output else n for n in nodes]
    return Graph(nodes, arrays)


def _fold_batch_norms(graph: Graph) -> Graph:
    """Each BatchNorm that follows a convolution, and is its only reader, becomes part of the convolution."""
    arrays = dict(graph.arrays)
    nodes: list[Node] = []
    for node in graph.nodes:
        before = nodes[-1] if nodes else None
        if node.kind != "BatchNormalization" or before is None or not _is_foldable(before, node, graph):
            nodes.append(node)
            continue
        parts = dict(zip(("weight", "bias", "mean", "variance"), (arrays[name] for name in node.inputs[1:])))
        name = before.inputs[1]
        weight, bias = folded(
            arrays[name], 0 if before.kind == "Conv" else 1, parts, node.attributes.get("epsilon", 1e-5)
        )
        arrays[name], arrays[f"{name}.bias"] = weight, bias
        nodes[-1] = before._replace(inputs=[*before.inputs[:2], f"{name}.bias"], output=node.output)
    used = {name for node in nodes for name in node.inputs}
    return Graph(nodes, {name: array for name, array in arrays.items() if name in used})


def _is_foldable(convolution: Node, batch_norm: Node, graph: Graph) -> bool:
    readers = [n for n in graph.nodes for name in n.inputs if name in (convolution.output, convolution.inputs[1])]
    return (
        convolution.kind in _CONVOLUTIONS
        and convolution.attributes.get("group", 1) == 1
        and len(convolution.inputs) == 2
        and batch_norm.inputs[0] == convolution.output
        and not batch_norm.attributes.get("training_mode", 0)
        and readers == [convolution, batch_norm]
    )


def _named(graph: Graph, names: Mapping[str, str], source: str, result: str, signature: Signature) -> Graph:
    """Nodes as `conv_1`, `relu_1`, `tanh_5`; their values as `conv_1.output`; weights as in the network."""
    new = {source: signature.input_name}
    nodes, layer, taken = [], "", set()
    for node in graph.nodes:
        if node.kind in _CONVOLUTIONS:
            weight = names.get(node.inputs[1], node.inputs[1])
            name = layer = weight.rpartition(".")[0] or weight
            new.update(zip(node.inputs[1:], (f"{name}.weight", f"{name}.bias")))
        else:
            name = _snake(node.kind) + (f"_{layer.rpartition('_')[2]}" if layer else "")
            new.update({array: f"{name}.axes" for array in node.inputs if array in graph.arrays})
        if name in taken:
            raise ExportError(f"two nodes of the ONNX model would be called {name}")
        taken.add(name)
        new[node.output] = signature.output_name if node.output == result else f"{name}.output"
        nodes.append(node._replace(name=name, inputs=[new[i] for i in node.inputs], output=new[node.output]))
    return Graph(nodes, {new[name]: array for name, array in graph.arrays.items()})


def make_model(graph: Graph, signature: Signature, opset: int, facts: Mapping[str, str]) -> onnx.ModelProto:
    """The graph as a model in which every value has a shape."""
    order = {name: i for i, name in enumerate(dict.fromkeys(name for node in graph.nodes for name in node.inputs))}
    proto = helper.make_graph(
        [helper.make_node(n.kind, n.inputs, [n.output], name=n.name, **n.attributes) for n in graph.nodes],
        facts.get("network", PRODUCER),
        [helper.make_tensor_value_info(signature.input_name, TensorProto.FLOAT, [BATCH, *signature.input_shape])],
        [
            helper.make_tensor_value_info(
                signature.output_name, _DTYPES[signature.output_dtype], [BATCH, *signature.output_shape]
            )
        ],
        [numpy_helper.from_array(graph.arrays[name], name) for name in sorted(graph.arrays, key=order.__getitem__)],
    )
    opsets = [helper.make_opsetid("", opset)]
    # The oldest file format that has this opset: the most runtimes read it.
    model = helper.make_model(
        proto, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets), producer_name=PRODUCER
    )
    helper.set_model_props(model, {name: facts[name] for name in sorted(facts)})
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(f"the shapes of the ONNX model cannot be inferred: {error}") from None


def read_graph(model: onnx.ModelProto) -> Graph:
    """A model that `make_model` made, taken apart."""
    nodes = [
        Node(
            n.op_type, n.name, list(n.input), n.output[0], {a.name: helper.get_attribute_value(a) for a in n.attribute}
        )
        for n in model.graph.node
    ]
    return Graph(nodes, read_arrays(model))


def _float16(name: str, array: np.ndarray) -> np.ndarray:
    if float(np.abs(array).max(initial=0.0)) > _FLOAT16_MAX:
        raise ExportError(f"{name} holds numbers beyond {_FLOAT16_MAX:g}, the largest of float16. Use fp32.")
    return array.astype(np.float16)


def _interface_problems(values: Mapping[str, Any], model: onnx.ModelProto, signature: Signature) -> list[str]:
    expected = {
        signature.input_name: (TensorProto.FLOAT, [BATCH, *signature.input_shape]),
        signature.output_name: (_DTYPES[signature.output_dtype], [BATCH, *signature.output_shape]),
    }
    found = {v.name: (v.type.tensor_type.elem_type, _shape(v)) for v in [*model.graph.input, *model.graph.output]}
    return [] if found == expected else [f"inputs and outputs are {found}, expected {expected}"]


def _shape(value: onnx.ValueInfoProto) -> list[Any]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def opset_of(model: onnx.ModelProto) -> int:
    return model.opset_import[0].version


def facts_of(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _snake(kind: str) -> str:
    """LeakyRelu -> leaky_relu."""
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(kind))
