"""Transposed convolutions of kernel 4, stride 2, padding 1 as small convolutions: the same numbers, sooner.

Each output pixel is reached by 2 x 2 of the 16 taps; which ones depends on whether its row and its column are even or
odd. So each of these four kinds of pixels is an ordinary 2 x 2 convolution of the small input, and DepthToSpace lays
the four images into each other (the inverse of the argument in Shi et al. 2016, "Is the deconvolution layer the same
as a convolutional layer?"). onnxruntime 1.32 takes 0.85 to 0.95 of the time for it on a CPU, and OpenVINO computes in
bfloat16 only what is an ordinary convolution.
"""

from __future__ import annotations

from itertools import groupby, product

import numpy as np
import onnx

from deploy.manifest import Signature

from .onnx_graph import Graph, Node, facts_of, make_model, opset_of, take_apart

# Of output row 2 i + parity: the kernel rows that reach it, first the one over the earlier input row. Columns alike.
TAPS = {0: (3, 1), 1: (2, 0)}
PARITIES = list(product((0, 1), (0, 1)))
# Below, four convolutions of so few filters waste onnxruntime's vectors: one of four times as many, cut four ways.
FEWEST_FILTERS = 16
_DOUBLING = {"strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 1}
_TO_THE_END = np.iinfo(np.int64).max


def with_split_transposes(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """The same model without ConvTranspose nodes of kernel 4, stride 2, padding 1; others stay."""
    graph = take_apart(model)
    nodes: list[Node] = []
    arrays = dict(graph.arrays)
    for node in graph.nodes:
        if _doubles(node, graph):
            parts = _split(node, graph.arrays)
            nodes += parts.nodes
            arrays.update(parts.arrays)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.inputs}
    kept = Graph(nodes, {name: array for name, array in arrays.items() if name in used})
    return make_model(kept, signature, opset_of(model), facts_of(model))


def joined(model: onnx.ModelProto) -> Graph:
    """The graph with transposed convolutions where `with_split_transposes` has put others.

    A group of nodes that splitting would not give again, to the last number and attribute, is left as it is.
    """
    graph = take_apart(model)
    nodes: list[Node] = []
    arrays = dict(graph.arrays)
    for stem, group in groupby(graph.nodes, key=lambda node: node.name.partition(".")[0]):
        parts = list(group)
        whole = _join(stem, parts, graph.arrays) if len(parts) > 1 else None
        if whole is None:
            nodes += parts
            continue
        nodes += whole.nodes
        arrays.update(whole.arrays)
    used = {name for node in nodes for name in node.inputs}
    return Graph(nodes, {name: array for name, array in arrays.items() if name in used})


def _doubles(node: Node, graph: Graph) -> bool:
    given = {"dilations": [1, 1], "group": 1, **node.attributes}
    return (
        node.kind == "ConvTranspose"
        and node.inputs[1] in graph.arrays  # not where a stored float16 is cast first
        and graph.arrays[node.inputs[1]].shape[2:] == (4, 4)
        and all(given.get(name) == value for name, value in _DOUBLING.items())
        and not any(given.get("output_padding", ()))
        and "output_shape" not in given
    )


def _split(node: Node, arrays: dict[str, np.ndarray]) -> Graph:
    """The nodes that take the place of `node`, and their new arrays."""
    weight = arrays[node.inputs[1]]  # [inputs, filters, 4, 4]
    kernels = [weight[:, :, TAPS[r]][..., TAPS[s]].swapaxes(0, 1) for r, s in PARITIES]  # [filters, inputs, 2, 2]
    parts = (_four if weight.shape[1] >= FEWEST_FILTERS else _one_cut)(node, kernels, arrays)
    images = [part.output for part in parts.nodes[-4:]]
    depth = Node("Concat", f"{node.name}.depth", images, f"{node.name}.depth", {"axis": 1})
    space = Node("DepthToSpace", f"{node.name}.space", [depth.output], node.output, {"blocksize": 2})
    return Graph([*parts.nodes, depth, space], parts.arrays)


def _four(node: Node, kernels: list[np.ndarray], arrays: dict[str, np.ndarray]) -> Graph:
    nodes, new = [], {}
    for (r, s), kernel in zip(PARITIES, kernels):
        name = f"{node.name}.{r}{s}"
        new[f"{name}.weight"] = kernel
        inputs = [node.inputs[0], f"{name}.weight", *node.inputs[2:]]
        # even pixels also see the input before them, odd ones the one behind them
        pads = [1 - r, 1 - s, r, s]
        nodes.append(Node("Conv", name, inputs, name, {"kernel_shape": [2, 2], "pads": pads}))
    return Graph(nodes, new)


def _one_cut(node: Node, kernels: list[np.ndarray], arrays: dict[str, np.ndarray]) -> Graph:
    name, filters = f"{node.name}.all", len(kernels[0])
    new = {f"{name}.weight": np.concatenate(kernels)}
    inputs = [node.inputs[0], f"{name}.weight"]
    if node.inputs[2:]:
        new[f"{name}.bias"] = np.tile(arrays[node.inputs[2]], 4)
        inputs.append(f"{name}.bias")
    nodes = [Node("Conv", name, inputs, name, {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]})]  # [H + 1, W + 1]
    new[f"{node.name}.axes"] = np.array([1, 2, 3])
    for i, (r, s) in enumerate(PARITIES):
        part = f"{node.name}.{r}{s}"
        new[f"{part}.from"] = np.array([i * filters, r, s])
        new[f"{part}.to"] = np.array([(i + 1) * filters, *(_TO_THE_END if parity else -1 for parity in (r, s))])
        nodes.append(Node("Slice", part, [name, f"{part}.from", f"{part}.to", f"{node.name}.axes"], part, {}))
    return Graph(nodes, new)


def _join(stem: str, parts: list[Node], arrays: dict[str, np.ndarray]) -> Graph | None:
    """The transposed convolution that `parts` were, with its weight and bias, or None."""
    weights = [node.inputs[1] for node in parts if node.kind == "Conv"]
    if len(weights) not in (1, 4) or any(name not in arrays or arrays[name].ndim != 4 for name in weights):
        return None
    stacked = np.concatenate([arrays[name] for name in weights])  # [4 filters, inputs, 2, 2]
    filters = len(stacked) // 4
    weight = np.empty((stacked.shape[1], filters, 4, 4), stacked.dtype)
    for i, (r, s) in enumerate(PARITIES):
        weight[:, :, np.array(TAPS[r])[:, None], TAPS[s]] = stacked[i * filters : (i + 1) * filters].swapaxes(0, 1)
    found = {f"{stem}.weight": weight}
    if len(parts[0].inputs) > 2:
        found[f"{stem}.bias"] = arrays[parts[0].inputs[2]][:filters]
    whole = Node("ConvTranspose", stem, [parts[0].inputs[0], *found], parts[-1].output, dict(_DOUBLING))
    again = _split(whole, found)
    same = again.nodes == parts and all(np.array_equal(arrays[name], array) for name, array in again.arrays.items())
    return Graph([whole], found) if same else None
