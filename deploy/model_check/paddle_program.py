"""Which Paddle programs may run: the operators of our exports, followed from shape to shape. The format is JSON."""

from __future__ import annotations

import json
import math
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

MAX_PROGRAM_BYTES = 16 << 20


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
        need(len(program) <= MAX_PROGRAM_BYTES, f"it is larger than {MAX_PROGRAM_BYTES >> 20} MiB")
        try:
            value = json.loads(program, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            raise RefusedError("it is not JSON") from None
        _check_program(value, len(parameters))
    except RefusedError as refusal:
        raise ModelError(f"the Paddle program is not one of our exports: {refusal}. Export the model again.") from None
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        message = "the Paddle program is not one of our exports: it is damaged. Export the model again."
        raise ModelError(message) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal names."""
    need(len(dict(pairs)) == len(pairs), "it has an entry twice")
    return dict(pairs)


def _check_program(value: Any, parameter_bytes: int) -> None:
    need(isinstance(value, dict) and set(value) == {"base_code", "program"}, "it is not a program")
    need(value["base_code"].get("magic") == "pir", "it is not a program")
    regions = value["program"]["regions"]
    plain = set(value["program"]) == {"regions"} and len(regions) == 1 and len(regions[0]["blocks"]) == 1
    need(plain and set(regions[0]) == {"#", "blocks"}, "it holds programs within programs")
    block = regions[0]["blocks"][0]
    need(set(block) == {"#", "args", "ops"} and block["args"] == [], "it holds programs within programs")
    need(isinstance(block["ops"], list) and len(block["ops"]) <= MAX_NODES, "it has more parts than any export")
    values: dict[int, Value] = {}
    products = 0
    for op in block["ops"]:
        products += _check_operation(op, values)
        need(products <= MAX_PRODUCTS, "it computes more than any export")
    weights = sum(4 * math.prod(v.shape) for v in values.values() if v.is_constant and v.numbers is None)
    need(weights <= parameter_bytes, f"it announces {weights} bytes of parameters, there are {parameter_bytes}")


def _check_operation(op: Any, values: dict[int, Value]) -> int:
    """Add what an operation computes to `values`; returns its multiplications for one image."""
    kind = op["#"]
    need(isinstance(kind, str) and kind in _PADDLE, f"it uses the operator {str(kind)[:60]!r}")
    need(set(op) <= _OPERATION_KEYS, f"its operator {kind} holds a program")
    if kind == "p":
        shape = _declared(op["O"])
        need(all(n > 0 for n in shape) and len(shape) <= 4, "it has a parameter without a size")
        values[op["O"]["%"]] = Value(shape, True)
        return 0
    attributes = {entry["N"]: _plain(entry["AT"]) for entry in op["A"]}
    need(len(attributes) == len(op["A"]), f"its operator {kind} has an attribute twice")  # Paddle takes the first
    unknown = sorted(set(attributes) - set(_PADDLE[kind]) - {"struct_name"})
    need(not unknown, f"its operator {kind} has the attribute {', '.join(unknown)[:60]!r}")
    inputs = [values[source["%"]] for source in op["I"]]
    shape, products, numbers = _paddle_result(kind, inputs, attributes)
    need(
        len(shape) <= 4 and all(n > 0 for n in shape) and math.prod(shape) <= MAX_ELEMENTS,
        f"its operator {kind} makes {list(shape)} numbers of one image",
    )
    need(op["O"] and op["O"][0]["%"] not in values, f"its operator {kind} has invalid outputs")
    for at, output in enumerate(op["O"]):  # a BatchNorm has six; only the first is used
        values.setdefault(output["%"], Value(shape, False, numbers) if at == 0 else Value(()))
    return products


def _paddle_result(kind: str, inputs: list[Value], attributes: Attributes) -> tuple[Shape, int, Any]:
    """Shape, multiplications, and numbers if it is a list of them."""
    if kind == "1.full_int_array":
        numbers = tuple(attributes["value"])
        need(len(numbers) <= 8 and all(type(n) is int for n in numbers), "it holds a list of numbers that is too long")
        return (max(1, len(numbers)),), 0, numbers
    if kind == "1.data":
        shape = attributes["shape"]
        need(2 <= len(shape) <= 4 and all(type(n) is int for n in shape), "its input has no shape of an export")
        return (1, *shape[1:]), 0, None
    if kind in ("1.unsqueeze", "1.squeeze"):
        rule = unsqueeze if kind == "1.unsqueeze" else squeeze
        return (*rule(inputs, attributes), None)
    if kind in ("1.conv2d", "1.conv2d_transpose"):
        transposed = kind == "1.conv2d_transpose"
        plain = attributes["groups"] == 1 and attributes["dilations"] == [1, 1] and inputs[1].is_constant
        plain = plain and attributes["data_format"] == "NCHW" and attributes["padding_algorithm"] == "EXPLICIT"
        plain = plain and attributes.get("output_padding", []) == [] and all(v.numbers == () for v in inputs[2:])
        pads = attributes["paddings"]
        need(plain and len(pads) == 2, f"its operator {kind} is set as in no export")
        result = convolution(inputs[0].shape, inputs[1].shape, attributes["strides"], [*pads, *pads], transposed)
        return (*result, None)
    if kind == "1.batch_norm_":
        need(attributes["is_test"] is True and len(inputs) == 5, "it is a program for training")
        need(all(v.is_constant and v.shape == (inputs[0].shape[1],) for v in inputs[1:]), "its BatchNorm does not fit")
    return (*same_shape(inputs, attributes), None)


def _plain(value: Any) -> Any:
    """An attribute without its types: numbers, texts, lists of them."""
    content = value["D"]
    if not isinstance(content, list):
        return content
    return [_plain(item) if isinstance(item, dict) else item for item in content]


def _declared(output: Any) -> Shape:
    dims = output["TT"]["D"][1]
    need(isinstance(dims, list) and all(type(n) is int for n in dims), "it has a parameter without a size")
    need(output["TT"]["D"][0] == {"#": "0.t_f32"}, "it has parameters that are not float32")
    return tuple(dims)
