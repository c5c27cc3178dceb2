"""What a model file may hold, checked before any runtime sees a byte of it: the operators of our exports, in bounds.

A runtime executes whatever a file says: endless loops, functions that double each other, gigabytes from a few bytes,
reading of other files, and (Paddle) operators that write files. So only what `tools/export.py` writes may run:
one chain of convolutions and what stands between them, weights in the file itself, and every intermediate image of a
size that is followed from layer to layer. Standard library only; ONNX's format is protobuf, Paddle's is JSON.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from deploy.manifest import ModelError

MAX_NODES = 500  # an older export of 256 x 256 has some 70
MAX_ELEMENTS = 1 << 26  # numbers of one intermediate result for one image
MAX_PRODUCTS = 1 << 42  # multiplications for one image
MAX_PROGRAM_BYTES = 16 << 20

Shape = tuple  # of whole numbers; the batch axis is 1

# ---- ONNX: the wire format -------------------------------------------------------------------------------------------

# Fields that may occur, by number (onnx.proto); those that may not hold functions, training, graphs, sparse tensors,
# other files. A name in capitals is read, the others are passed over.
_MODEL = {1: "ir", 2: "", 3: "", 4: "", 5: "", 6: "", 7: "GRAPH", 8: "OPSET", 14: ""}
_GRAPH = {1: "NODE", 2: "", 5: "TENSOR", 10: "", 11: "INPUT", 12: "OUTPUT", 13: "", 16: ""}
_NODE = {1: "INPUT", 2: "OUTPUT", 3: "", 4: "OP", 5: "ATTRIBUTE", 6: "", 7: "DOMAIN", 9: ""}
_ATTRIBUTE = {1: "NAME", 2: "FLOAT", 3: "INT", 4: "STRING", 7: "FLOATS", 8: "INTS", 13: "", 20: ""}
_TENSOR = {1: "DIMS", 2: "TYPE", 4: "FLOATS", 5: "INT32S", 7: "INT64S", 8: "NAME", 9: "RAW", 12: ""}
_TENSOR.update({13: "FILE", 14: "FILE"})  # where else the numbers are: read so that it can be refused by name
_ITEM_BYTES = {1: 4, 7: 8, 10: 2}  # float32, int64, float16
_INT64 = 7


def check_onnx(model: bytes) -> None:
    """Raise ModelError unless `model` is an ONNX file of the form that `tools/export.py` writes."""
    try:
        _check_graph(memoryview(model))
    except (_RefusedError, RecursionError) as refusal:
        raise ModelError(f"the ONNX file is not one of our exports: {refusal}. Export the model again.") from None


class _RefusedError(Exception):
    """What is wrong with the file, as the end of a sentence."""


def _need(condition: object, message: str) -> None:
    if not condition:
        raise _RefusedError(message)


def _varint(content: memoryview, at: int, longest: int = 10) -> tuple[int, int]:
    """The number at `at`, and where the next field begins."""
    value = 0
    for i in range(longest):
        _need(at + i < len(content), "it is cut short")
        byte = content[at + i]
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise _RefusedError("it is damaged")


def _fields(content: memoryview, known: dict[int, str], what: str) -> Iterator[tuple[str, Any]]:
    """Each known field of a message: its name here, and its number or content."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at, 5)
        number, kind = tag >> 3, tag & 7
        _need(number in known, f"its {what} has a field {number}, which no export writes")
        if kind == 0:
            value, at = _varint(content, at)
        elif kind in (1, 5, 2):
            size, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _varint(content, at)
            _need(size <= len(content) - at, "it is cut short")
            value, at = content[at : at + size], at + size
        else:
            raise _RefusedError("it is damaged")
        if known[number]:
            yield known[number], value


def _text(value: Any) -> str:
    _need(isinstance(value, memoryview) and len(value) <= 1000, "it holds a name that is none")
    return bytes(value).decode("utf-8", "replace")


def _signed(value: Any) -> int:
    _need(isinstance(value, int), "it is damaged")
    return value - (1 << 64) if value >= 1 << 63 else value


def _numbers(value: Any, most: int = 64) -> list[int]:
    """A repeated whole number, packed or one by one."""
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(_signed(number))
        _need(len(found) <= most, "it holds a list of numbers that is too long")
    return found


class _Value(NamedTuple):
    """What is known of a value: shape, whether it is a constant of the file, and small whole numbers themselves."""

    shape: Shape
    is_constant: bool = False
    numbers: tuple[int, ...] | None = None


def _check_graph(content: memoryview) -> None:
    _need(bytes(content[4:8]) != b"ORTM", "it is of onnxruntime's own format")
    parts: dict[str, list[Any]] = {"GRAPH": [], "OPSET": []}
    for name, value in _fields(content, _MODEL, "model"):
        if name in parts:
            parts[name].append(value)
    _need(len(parts["GRAPH"]) == 1, "it has no graph, or several")
    nodes: list[memoryview] = []
    values: dict[str, _Value] = {}
    for name, value in _fields(parts["GRAPH"][0], _GRAPH, "graph"):
        _need(isinstance(value, memoryview), "it is damaged")
        if name == "NODE":
            nodes.append(value)
        elif name == "TENSOR":
            key, tensor = _tensor(value)
            _need(key not in values, f"it holds {key[:60]!r} twice")
            values[key] = tensor
        elif name == "INPUT":
            key, shape = _input(value)
            _need(key not in values, f"it holds {key[:60]!r} twice")
            values[key] = _Value(shape)
        _need(len(nodes) <= MAX_NODES and len(values) <= 4 * MAX_NODES, "it has more parts than any export")
    products = 0
    for node in nodes:
        products += _check_node(node, values)
        _need(products <= MAX_PRODUCTS, "it computes more than any export")


def _tensor(content: memoryview) -> tuple[str, _Value]:
    found: dict[str, Any] = {"NAME": b"", "TYPE": 0, "RAW": None}
    dims: list[int] = []
    integers: list[int] = []
    listed = 0
    for name, value in _fields(content, _TENSOR, "tensor"):
        if name == "FILE":
            _need(value == 0 and isinstance(value, int), "it keeps weights in other files, which nobody checked")
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
    _need(item, f"its tensor {key[:60]!r} is of a type that no export has")
    _need(len(dims) <= 4 and all(0 < n <= MAX_ELEMENTS for n in dims), f"its tensor {key[:60]!r} has no size")
    count, raw = math.prod(dims), found["RAW"]
    _need(raw is None or isinstance(raw, memoryview), "it is damaged")
    held = len(raw) // item if raw is not None else len(integers) or listed
    _need(count <= held, f"its tensor {key[:60]!r} announces {count} numbers and holds {held}")
    numbers = None
    if found["TYPE"] == _INT64:
        _need(count <= 8, f"its tensor {key[:60]!r} is longer than any list of an export")
        numbers = tuple(integers[:count]) if raw is None else struct.unpack(f"<{count}q", raw[: 8 * count])
    return key, _Value(tuple(dims), True, numbers)


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
    _need(1 <= len(dims) <= 4 and math.prod(dims) <= MAX_ELEMENTS, f"its input {name[:60]!r} has no shape of an export")
    return name, (1, *dims[1:])


def _dimension(content: memoryview) -> int:
    sizes = [value for number, value in _raw_fields(content) if number == 1]
    return sizes[-1] if sizes and isinstance(sizes[-1], int) and 0 < sizes[-1] <= MAX_ELEMENTS else 1


def _raw_fields(content: Any) -> Iterator[tuple[int, Any]]:
    """Fields of a type description, of which ONNX has some twenty: all are let through, none can compute anything."""
    _need(isinstance(content, memoryview) and len(content) <= 10_000, "it is damaged")
    numbers = {number: str(number) for number in range(1, 21)}
    return ((int(name), value) for name, value in _fields(content, numbers, "type"))


# ---- ONNX: the operators --------------------------------------------------------------------------------------------

Attributes = dict[str, Any]


def _check_node(content: memoryview, values: dict[str, _Value]) -> int:
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
            _need(_text(value) in ("", "ai.onnx"), "it uses operators that are not ONNX's own")
        else:
            key, number = _attribute(value)
            attributes[key] = number
    rule = _OPERATORS.get(op)
    _need(rule, f"it uses the operator {op[:60]!r}")
    allowed, compute = rule
    unknown = sorted(set(attributes) - set(allowed))
    _need(not unknown, f"its operator {op} has the attribute {', '.join(unknown)[:60]!r}")
    _need(len(outputs) == 1 and outputs[0] not in values, f"its operator {op} has outputs that are none")
    missing = [name for name in inputs if name not in values]
    _need(inputs and not missing and len(inputs) <= 8, f"its operator {op} takes what nothing computed: {missing[:3]}")
    shape, products = compute([values[name] for name in inputs], attributes)
    _need(
        len(shape) <= 4 and all(n > 0 for n in shape) and math.prod(shape) <= MAX_ELEMENTS,
        f"its operator {op} makes {list(shape)} numbers of one image",
    )
    is_constant = all(values[name].is_constant for name in inputs)
    values[outputs[0]] = _Value(shape, is_constant)
    return products


def _attribute(content: Any) -> tuple[str, Any]:
    _need(isinstance(content, memoryview), "it is damaged")
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
    return name, numbers or number


def _same(inputs: list[_Value], attributes: Attributes) -> tuple[Shape, int]:
    return inputs[0].shape, math.prod(inputs[0].shape)


def _cast(inputs: list[_Value], attributes: Attributes) -> tuple[Shape, int]:
    _need(attributes.get("to") in (1, 2, 10), "it casts to a type that no export has")
    return _same(inputs, attributes)


def _with_one_number(inputs: list[_Value], attributes: Attributes) -> tuple[Shape, int]:
    _need(len(inputs) == 2 and math.prod(inputs[1].shape) == 1, "it adds or multiplies more than one number")
    return _same(inputs, attributes)


def _squeeze(inputs: list[_Value], attributes: Attributes) -> tuple[Shape, int]:
    _need(len(inputs) == 2 and inputs[1].numbers == (2, 3) and inputs[0].shape[2:] == (1, 1), "it squeezes other axes")
    return inputs[0].shape[:2], 0


def _unsqueeze(inputs: list[_Value], attributes: Attributes) -> tuple[Shape, int]:
    _need(len(inputs) == 2 and inputs[1].numbers == (2, 3) and len(inputs[0].shape) == 2, "it adds other axes")
    return (*inputs[0].shape, 1, 1), 0


def _onnx_convolution(inputs: list[_Value], attributes: Attributes, transposed: bool) -> tuple[Shape, int]:
    _need(2 <= len(inputs) <= 3 and inputs[1].is_constant, "it convolves with what it computed itself")
    image, kernel = inputs[0].shape, inputs[1].shape
    plain = attributes.get("group", 1) == 1 and attributes.get("dilations", [1, 1]) == [1, 1]
    _need(plain, "it convolves in groups or with gaps")
    pads = attributes.get("pads", [0, 0, 0, 0])
    _need(isinstance(pads, list) and len(pads) == 4, "it pads what is no image")
    return _convolution(image, kernel, attributes.get("strides", [1, 1]), pads, transposed)


def _convolution(image: Shape, kernel: Shape, strides: Any, pads: Sequence[Any], transposed: bool) -> tuple[Shape, int]:
    """Shape and multiplications of a convolution, or of a transposed one, of one image.

    Args: image - 1, channels, height, width.  kernel - with its output channels first, transposed: second.
          pads - top, left, bottom, right.
    """
    _need(len(image) == len(kernel) == 4, "it convolves what is no image")
    _need(strides in ([1, 1], [2, 2]), "it convolves in larger steps than two")
    _need(all(type(n) is int and 0 <= n <= 8 for n in pads), "it pads more than any export")
    source, target = (kernel[0], kernel[1]) if transposed else (kernel[1], kernel[0])
    _need(image[1] == source, f"it convolves {image[1]} channels with a kernel for {source}")
    sizes = []
    for axis in (0, 1):
        n, k, pad, stride = image[2 + axis], kernel[2 + axis], pads[axis] + pads[2 + axis], strides[axis]
        sizes.append(stride * (n - 1) + k - pad if transposed else (n + pad - k) // stride + 1)
    _need(min(sizes) > 0, "it convolves an image that is smaller than the kernel")
    taken = image[2] * image[3] if transposed else sizes[0] * sizes[1]
    return (1, target, *sizes), taken * math.prod(kernel)


def _slice(inputs: list[_Value], attributes: Attributes) -> tuple[Shape, int]:
    plain = 3 <= len(inputs) <= 4 and all(value.numbers for value in inputs[1:])
    _need(plain, "it cuts out what it computed itself")
    starts, ends = inputs[1].numbers, inputs[2].numbers
    axes = inputs[3].numbers if len(inputs) == 4 else tuple(range(len(starts)))
    shape = list(inputs[0].shape)
    _need(len(starts) == len(ends) == len(axes) and all(0 <= a < len(shape) for a in axes), "it cuts other axes")
    for start, end, axis in zip(starts, ends, axes):
        first, last, _ = slice(start, end).indices(shape[axis])
        shape[axis] = last - first
    return tuple(shape), 0


def _concat(inputs: list[_Value], attributes: Attributes) -> tuple[Shape, int]:
    shapes = [value.shape for value in inputs]
    alike = attributes.get("axis") == 1 and len({(len(s), s[0], s[2:]) for s in shapes}) == 1 and len(shapes[0]) == 4
    _need(alike, "it joins images that do not fit")
    return (1, sum(shape[1] for shape in shapes), *shapes[0][2:]), 0


def _depth_to_space(inputs: list[_Value], attributes: Attributes) -> tuple[Shape, int]:
    _need(attributes.get("blocksize") == 2 and len(inputs[0].shape) == 4, "it spreads channels in other blocks than 2")
    _, channels, height, width = inputs[0].shape
    return (1, channels // 4, 2 * height, 2 * width), 0


Rule = tuple[Sequence[str], Callable[[list[_Value], Attributes], tuple[Shape, int]]]
_CONVOLUTION = ("dilations", "group", "kernel_shape", "pads", "strides")
_OPERATORS: dict[str, Rule] = {
    "Add": ((), _with_one_number),
    "Cast": (("to", "saturate"), _cast),
    "Concat": (("axis",), _concat),  # with Slice and DepthToSpace: how older exports spell a transposed convolution
    "Conv": (_CONVOLUTION, lambda inputs, attributes: _onnx_convolution(inputs, attributes, False)),
    "ConvTranspose": (_CONVOLUTION, lambda inputs, attributes: _onnx_convolution(inputs, attributes, True)),
    "DepthToSpace": (("blocksize", "mode"), _depth_to_space),
    "LeakyRelu": (("alpha",), _same),
    "Mul": ((), _with_one_number),
    "Relu": ((), _same),
    "Round": ((), _same),
    "Slice": ((), _slice),
    "Squeeze": ((), _squeeze),
    "Tanh": ((), _same),
    "Unsqueeze": ((), _unsqueeze),
}

# ---- Paddle ---------------------------------------------------------------------------------------------------------

_OPERATION_KEYS = {"#", "A", "DA", "I", "O", "OA", "QA"}  # attributes, inputs, outputs; "regions" would hold programs
_PADDLE = {
    "p": (),
    "1.batch_norm_": ("is_test", "momentum", "epsilon", "data_format", "use_global_stats", "trainable_statistics"),
    "1.conv2d": ("strides", "paddings", "padding_algorithm", "dilations", "groups", "data_format"),
    "1.conv2d_transpose": (
        *("strides", "paddings", "output_padding", "padding_algorithm", "groups", "dilations", "data_format"),
    ),
    "1.data": ("name", "shape", "dtype", "place"),
    "1.fetch": ("name", "col"),
    "1.full_int_array": ("value", "dtype", "place"),
    "1.leaky_relu": ("negative_slope",),
    "1.relu": (),
    "1.squeeze": (),
    "1.tanh": (),
    "1.unsqueeze": (),
}


def check_paddle(program: bytes, parameters: bytes) -> None:
    """Raise ModelError unless the two are a Paddle program and its parameters as `tools/export.py` writes them."""
    try:
        _need(len(program) <= MAX_PROGRAM_BYTES, f"it is larger than {MAX_PROGRAM_BYTES >> 20} MiB")
        try:
            value = json.loads(program, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            raise _RefusedError("it is not JSON") from None
        _check_program(value, len(parameters))
    except _RefusedError as refusal:
        raise ModelError(f"the Paddle program is not one of our exports: {refusal}. Export the model again.") from None
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        message = "the Paddle program is not one of our exports: it is damaged. Export the model again."
        raise ModelError(message) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal names."""
    _need(len(dict(pairs)) == len(pairs), "it has an entry twice")
    return dict(pairs)


def _check_program(value: Any, parameter_bytes: int) -> None:
    _need(isinstance(value, dict) and set(value) == {"base_code", "program"}, "it is not a program")
    _need(value["base_code"].get("magic") == "pir", "it is not a program")
    regions = value["program"]["regions"]
    plain = set(value["program"]) == {"regions"} and len(regions) == 1 and len(regions[0]["blocks"]) == 1
    _need(plain and set(regions[0]) == {"#", "blocks"}, "it holds programs within programs")
    block = regions[0]["blocks"][0]
    _need(set(block) == {"#", "args", "ops"} and block["args"] == [], "it holds programs within programs")
    _need(isinstance(block["ops"], list) and len(block["ops"]) <= MAX_NODES, "it has more parts than any export")
    values: dict[int, _Value] = {}
    products = 0
    for op in block["ops"]:
        products += _check_operation(op, values)
        _need(products <= MAX_PRODUCTS, "it computes more than any export")
    weights = sum(4 * math.prod(v.shape) for v in values.values() if v.is_constant and v.numbers is None)
    _need(weights <= parameter_bytes, f"it announces {weights} bytes of parameters, there are {parameter_bytes}")


def _check_operation(op: Any, values: dict[int, _Value]) -> int:
    """Add what an operation computes to `values`; returns its multiplications for one image."""
    kind = op["#"]
    _need(isinstance(kind, str) and kind in _PADDLE, f"it uses the operator {str(kind)[:60]!r}")
    _need(set(op) <= _OPERATION_KEYS, f"its operator {kind} holds a program")
    if kind == "p":
        shape = _declared(op["O"])
        _need(all(n > 0 for n in shape) and len(shape) <= 4, "it has a parameter without a size")
        values[op["O"]["%"]] = _Value(shape, True)
        return 0
    attributes = {entry["N"]: _plain(entry["AT"]) for entry in op["A"]}
    unknown = sorted(set(attributes) - set(_PADDLE[kind]) - {"struct_name"})
    _need(not unknown, f"its operator {kind} has the attribute {', '.join(unknown)[:60]!r}")
    inputs = [values[source["%"]] for source in op["I"]]
    shape, products, numbers = _paddle_result(kind, inputs, attributes)
    _need(
        len(shape) <= 4 and all(n > 0 for n in shape) and math.prod(shape) <= MAX_ELEMENTS,
        f"its operator {kind} makes {list(shape)} numbers of one image",
    )
    _need(op["O"] and op["O"][0]["%"] not in values, f"its operator {kind} has outputs that are none")
    for at, output in enumerate(op["O"]):  # a BatchNorm has six; only the first is used
        values.setdefault(output["%"], _Value(shape, False, numbers) if at == 0 else _Value(()))
    return products


def _paddle_result(kind: str, inputs: list[_Value], attributes: Attributes) -> tuple[Shape, int, Any]:
    """Shape, multiplications, and numbers if it is a list of them."""
    if kind == "1.full_int_array":
        numbers = tuple(attributes["value"])
        _need(len(numbers) <= 8 and all(type(n) is int for n in numbers), "it holds a list of numbers that is too long")
        return (max(1, len(numbers)),), 0, numbers
    if kind == "1.data":
        shape = attributes["shape"]
        _need(2 <= len(shape) <= 4 and all(type(n) is int for n in shape), "its input has no shape of an export")
        return (1, *shape[1:]), 0, None
    if kind in ("1.unsqueeze", "1.squeeze"):
        rule = _unsqueeze if kind == "1.unsqueeze" else _squeeze
        return (*rule(inputs, attributes), None)
    if kind in ("1.conv2d", "1.conv2d_transpose"):
        transposed = kind == "1.conv2d_transpose"
        plain = attributes["groups"] == 1 and attributes["dilations"] == [1, 1] and inputs[1].is_constant
        plain = plain and attributes["data_format"] == "NCHW" and attributes["padding_algorithm"] == "EXPLICIT"
        plain = plain and attributes.get("output_padding", []) == [] and all(v.numbers == () for v in inputs[2:])
        pads = attributes["paddings"]
        _need(plain and len(pads) == 2, f"its operator {kind} is set as in no export")
        result = _convolution(inputs[0].shape, inputs[1].shape, attributes["strides"], [*pads, *pads], transposed)
        return (*result, None)
    if kind == "1.batch_norm_":
        _need(attributes["is_test"] is True and len(inputs) == 5, "it is a program for training")
        _need(all(v.is_constant and v.shape == (inputs[0].shape[1],) for v in inputs[1:]), "its BatchNorm does not fit")
    return (*_same(inputs, attributes), None)


def _plain(value: Any) -> Any:
    """An attribute without its types: numbers, texts, lists of them."""
    content = value["D"]
    if not isinstance(content, list):
        return content
    return [_plain(item) if isinstance(item, dict) else item for item in content]


def _declared(output: Any) -> Shape:
    dims = output["TT"]["D"][1]
    _need(isinstance(dims, list) and all(type(n) is int for n in dims), "it has a parameter without a size")
    _need(output["TT"]["D"][0] == {"#": "0.t_f32"}, "it has parameters that are not float32")
    return tuple(dims)
