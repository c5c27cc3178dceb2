"""Which ONNX files may run: the operators of our exports, followed from shape to shape. The format is protobuf."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from deploy.manifest import ModelError
from deploy.model_check.shapes import (
    MAX_ELEMENTS,
    MAX_NODES,
    MAX_PRODUCTS,
    Attributes,
    RefusedError,
    Shape,
    Value,
    convolution,
    need,
    same_shape,
    squeeze,
    unsqueeze,
)

# Fields that may occur, by number (onnx.proto); those that may not hold functions, training, graphs, sparse tensors,
# other files. A name in capitals is read, the others are passed over.
_MODEL = {1: "ir", 2: "", 3: "", 4: "", 5: "", 6: "", 7: "GRAPH", 8: "OPSET", 14: ""}
_GRAPH = {1: "NODE", 2: "", 5: "TENSOR", 10: "", 11: "INPUT", 12: "OUTPUT", 13: "", 16: ""}
_NODE = {1: "INPUT", 2: "OUTPUT", 3: "", 4: "OP", 5: "ATTRIBUTE", 6: "", 7: "DOMAIN", 9: ""}
_ATTRIBUTE = {1: "NAME", 2: "FLOAT", 3: "INT", 4: "STRING", 7: "FLOATS", 8: "INTS", 13: "", 20: ""}
_TENSOR = {1: "DIMS", 2: "TYPE", 4: "FLOATS", 5: "INT32S", 7: "INT64S", 8: "NAME", 9: "RAW", 12: ""}
_TENSOR.update({13: "FILE", 14: "FILE"})  # where else the numbers are: read so that it can be refused by name
_TYPE = {number: str(number) for number in range(1, 21)}
# How each is encoded (0: a number, 2: bytes, 5: four bytes). Protobuf passes over a field of another encoding, so what
# is read here must have its own.
_ENCODINGS = {
    **dict.fromkeys(("ir", "INT", "TYPE"), (0,)),
    **dict.fromkeys(("INTS", "DIMS", "INT32S", "INT64S", "FILE"), (0, 2)),
    **{"FLOAT": (5,), "FLOATS": (5, 2), **dict.fromkeys(_TYPE.values(), (0, 2))},
}
_BYTES = (2,)  # all others
_ITEM_BYTES = {1: 4, 7: 8, 10: 2}  # float32, int64, float16
_INT64 = 7


def check_onnx(model: bytes) -> None:
    """Raise ModelError unless `model` is an ONNX file of the form that `tools/export.py` writes."""
    try:
        _check_graph(memoryview(model))
    except (RefusedError, RecursionError) as refusal:
        raise ModelError(f"the ONNX file is not one of our exports: {refusal}. Export the model again.") from None


def _varint(content: memoryview, at: int, longest: int = 10) -> tuple[int, int]:
    """The number at `at`, and where the next field begins."""
    value = 0
    for i in range(longest):
        need(at + i < len(content), "it is cut short")
        byte = content[at + i]
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise RefusedError("it is damaged")


def _fields(content: memoryview, known: dict[int, str], what: str) -> Iterator[tuple[str, Any]]:
    """Each known field of a message: its name here, and its number or content."""
    need(isinstance(content, memoryview), "it is damaged")  # a number where a message is expected
    at = 0
    while at < len(content):
        tag, at = _varint(content, at, 5)
        number, kind = tag >> 3, tag & 7
        need(number in known, f"its {what} has a field {number}, which no export writes")
        if kind == 0:
            value, at = _varint(content, at)
        elif kind in (1, 5, 2):
            size, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _varint(content, at)
            need(size <= len(content) - at, "it is cut short")
            value, at = content[at : at + size], at + size
        else:
            raise RefusedError("it is damaged")
        name = known[number]
        if name:
            need(kind in _ENCODINGS.get(name, _BYTES), f"its {what} has a field {number} of another encoding")
            yield name, value


def _text(value: Any) -> str:
    need(isinstance(value, memoryview) and len(value) <= 1000, "it holds a name that is none")
    return bytes(value).decode("utf-8", "replace")


def _signed(value: Any) -> int:
    need(isinstance(value, int), "it is damaged")
    return value - (1 << 64) if value >= 1 << 63 else value


def _numbers(value: Any, most: int = 64) -> list[int]:
    """A repeated whole number, packed or one by one."""
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(_signed(number))
        need(len(found) <= most, "it holds a list of numbers that is too long")
    return found


def _check_graph(content: memoryview) -> None:
    need(bytes(content[4:8]) != b"ORTM", "it is of onnxruntime's own format")
    parts: dict[str, list[Any]] = {"GRAPH": [], "OPSET": []}
    for name, value in _fields(content, _MODEL, "model"):
        if name in parts:
            parts[name].append(value)
    need(len(parts["GRAPH"]) == 1, "it has no graph, or several")
    nodes: list[memoryview] = []
    values: dict[str, Value] = {}
    for name, value in _fields(parts["GRAPH"][0], _GRAPH, "graph"):
        need(isinstance(value, memoryview), "it is damaged")
        if name == "NODE":
            nodes.append(value)
        elif name == "TENSOR":
            key, tensor = _tensor(value)
            need(key not in values, f"it holds {key[:60]!r} twice")
            values[key] = tensor
        elif name == "INPUT":
            key, shape = _input(value)
            need(key not in values, f"it holds {key[:60]!r} twice")
            values[key] = Value(shape)
        need(len(nodes) <= MAX_NODES and len(values) <= 4 * MAX_NODES, "it has more parts than any export")
    products = 0
    for node in nodes:
        products += _check_node(node, values)
        need(products <= MAX_PRODUCTS, "it computes more than any export")


def _tensor(content: memoryview) -> tuple[str, Value]:
    found: dict[str, Any] = {"NAME": b"", "TYPE": 0, "RAW": None}
    dims: list[int] = []
    integers: list[int] = []
    listed = 0
    for name, value in _fields(content, _TENSOR, "tensor"):
        if name == "FILE":
            need(value == 0 and isinstance(value, int), "it keeps weights in other files, which nobody checked")
        elif name == "DIMS":
            dims += _numbers(value, 8)
        elif name == "INT64S":
            integers += _numbers(value)
        elif name in ("FLOATS", "INT32S"):
            listed += len(value) if isinstance(value, memoryview) else 4
        else:
            found[name] = value
    key = _text(found["NAME"]) if found["NAME"] else ""
    item = _ITEM_BYTES.get(found["TYPE"])
    need(item, f"its tensor {key[:60]!r} is of a type that no export has")
    need(len(dims) <= 4 and all(0 < n <= MAX_ELEMENTS for n in dims), f"its tensor {key[:60]!r} has no size")
    count, raw = math.prod(dims), found["RAW"]
    need(raw is None or isinstance(raw, memoryview), "it is damaged")
    held = len(raw) // item if raw is not None else len(integers) or listed
    need(count <= held, f"its tensor {key[:60]!r} announces {count} numbers and holds {held}")
    numbers = None
    if found["TYPE"] == _INT64:
        need(count <= 8, f"its tensor {key[:60]!r} is longer than any list of an export")
        numbers = tuple(integers[:count]) if raw is None else struct.unpack(f"<{count}q", raw[: 8 * count])
    return key, Value(tuple(dims), True, numbers)


def _input(content: memoryview) -> tuple[str, Shape]:
    """Name and shape of an input; the batch axis, and every other that is open, count as 1."""
    name, dims = "", []
    for number, value in _raw_fields(content):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for _, tensor_type in _raw_fields(value):
                for inner, shape in _raw_fields(tensor_type):
                    if inner == 2:
                        dims += [_dimension(dim) for _, dim in _raw_fields(shape)]
    need(1 <= len(dims) <= 4 and math.prod(dims) <= MAX_ELEMENTS, f"its input {name[:60]!r} has no shape of an export")
    return name, (1, *dims[1:])


def _dimension(content: memoryview) -> int:
    sizes = [value for number, value in _raw_fields(content) if number == 1]
    return sizes[-1] if sizes and isinstance(sizes[-1], int) and 0 < sizes[-1] <= MAX_ELEMENTS else 1


def _raw_fields(content: Any) -> Iterator[tuple[int, Any]]:
    """Fields of a type description, of which ONNX has some twenty: all are let through, none can compute anything."""
    need(isinstance(content, memoryview) and len(content) <= 10_000, "it is damaged")
    return ((int(name), value) for name, value in _fields(content, _TYPE, "type"))


def _check_node(content: memoryview, values: dict[str, Value]) -> int:
    """Add what a node computes to `values`; returns its multiplications for one image."""
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: Attributes = {}
    op = ""
    for name, value in _fields(content, _NODE, "node"):
        if name == "INPUT":
            inputs.append(_text(value))
        elif name == "OUTPUT":
            outputs.append(_text(value))
        elif name == "OP":
            op = _text(value)
        elif name == "DOMAIN":
            need(_text(value) in ("", "ai.onnx"), "it uses operators that are not ONNX's own")
        else:
            key, number = _attribute(value)
            need(key not in attributes, f"a node has the attribute {key[:60]!r} twice")  # runtimes take the first
            attributes[key] = number
    rule = _OPERATORS.get(op)
    need(rule, f"it uses the operator {op[:60]!r}")
    allowed, compute = rule
    unknown = sorted(set(attributes) - set(allowed))
    need(not unknown, f"its operator {op} has the attribute {', '.join(unknown)[:60]!r}")
    need(len(outputs) == 1 and outputs[0] not in values, f"its operator {op} has invalid outputs")
    missing = [name for name in inputs if name not in values]
    need(inputs and not missing and len(inputs) <= 8, f"its operator {op} takes what nothing computed: {missing[:3]}")
    shape, products = compute([values[name] for name in inputs], attributes)
    need(
        len(shape) <= 4 and all(n > 0 for n in shape) and math.prod(shape) <= MAX_ELEMENTS,
        f"its operator {op} makes {list(shape)} numbers of one image",
    )
    is_constant = all(values[name].is_constant for name in inputs)
    values[outputs[0]] = Value(shape, is_constant)
    return products


def _attribute(content: Any) -> tuple[str, Any]:
    need(isinstance(content, memoryview), "it is damaged")
    name, number, numbers = "", None, []
    for kind, value in _fields(content, _ATTRIBUTE, "attribute"):
        if kind == "NAME":
            name = _text(value)
        elif kind == "INT":
            number = _signed(value)
        elif kind == "INTS":
            numbers += _numbers(value)
        elif kind == "STRING":
            number = _text(value)
    need(not numbers or number is None, f"its attribute {name[:60]!r} is a number and a list")
    return name, numbers or number


def _cast(inputs: list[Value], attributes: Attributes) -> tuple[Shape, int]:
    need(attributes.get("to") in (1, 2, 10), "it casts to a type that no export has")
    return same_shape(inputs, attributes)


def _of_each_number(inputs: list[Value], attributes: Attributes) -> tuple[Shape, int]:
    need(len(inputs) == 1, "it gives a function of one image several")
    return same_shape(inputs, attributes)


def _with_one_number(inputs: list[Value], attributes: Attributes) -> tuple[Shape, int]:
    need(len(inputs) == 2 and math.prod(inputs[1].shape) == 1, "it adds or multiplies more than one number")
    return same_shape(inputs, attributes)


def _onnx_convolution(inputs: list[Value], attributes: Attributes, transposed: bool) -> tuple[Shape, int]:
    need(2 <= len(inputs) <= 3 and inputs[1].is_constant, "it convolves with what it computed itself")
    image, kernel = inputs[0].shape, inputs[1].shape
    plain = attributes.get("group", 1) == 1 and attributes.get("dilations", [1, 1]) == [1, 1]
    need(plain, "it convolves in groups or with gaps")
    pads = attributes.get("pads", [0, 0, 0, 0])
    need(isinstance(pads, list) and len(pads) == 4, "it pads what is no image")
    return convolution(image, kernel, attributes.get("strides", [1, 1]), pads, transposed)


def _slice(inputs: list[Value], attributes: Attributes) -> tuple[Shape, int]:
    plain = 3 <= len(inputs) <= 4 and all(value.numbers for value in inputs[1:])
    need(plain, "it cuts out what it computed itself")
    starts, ends = inputs[1].numbers, inputs[2].numbers
    axes = inputs[3].numbers if len(inputs) == 4 else tuple(range(len(starts)))
    shape = list(inputs[0].shape)
    need(len(starts) == len(ends) == len(axes) and all(0 <= a < len(shape) for a in axes), "it cuts other axes")
    for start, end, axis in zip(starts, ends, axes):
        first, last, _ = slice(start, end).indices(shape[axis])
        shape[axis] = last - first
    return tuple(shape), 0


def _concat(inputs: list[Value], attributes: Attributes) -> tuple[Shape, int]:
    shapes = [value.shape for value in inputs]
    alike = attributes.get("axis") == 1 and len({(len(s), s[0], s[2:]) for s in shapes}) == 1 and len(shapes[0]) == 4
    need(alike, "it joins images that do not fit")
    return (1, sum(shape[1] for shape in shapes), *shapes[0][2:]), 0


def _depth_to_space(inputs: list[Value], attributes: Attributes) -> tuple[Shape, int]:
    need(attributes.get("blocksize") == 2 and len(inputs[0].shape) == 4, "it spreads channels in other blocks than 2")
    _, channels, height, width = inputs[0].shape
    return (1, channels // 4, 2 * height, 2 * width), 0


Rule = tuple[Sequence[str], Callable[[list[Value], Attributes], tuple[Shape, int]]]
_CONVOLUTION = ("dilations", "group", "kernel_shape", "pads", "strides")
_OPERATORS: dict[str, Rule] = {
    "Add": ((), _with_one_number),
    "Cast": (("to", "saturate"), _cast),
    "Concat": (("axis",), _concat),  # with Slice and DepthToSpace: how older exports spell a transposed convolution
    "Conv": (_CONVOLUTION, lambda inputs, attributes: _onnx_convolution(inputs, attributes, False)),
    "ConvTranspose": (_CONVOLUTION, lambda inputs, attributes: _onnx_convolution(inputs, attributes, True)),
    "DepthToSpace": (("blocksize", "mode"), _depth_to_space),
    "LeakyRelu": (("alpha",), _of_each_number),
    "Mul": ((), _with_one_number),
    "Relu": ((), _of_each_number),
    "Round": ((), _of_each_number),
    "Slice": ((), _slice),
    "Squeeze": ((), squeeze),
    "Tanh": ((), _of_each_number),
    "Unsqueeze": ((), unsqueeze),
}
