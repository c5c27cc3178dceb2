"""`generator.params`, the tutorial's file: a pickled dict of arrays. Written plainly, read without running any of it.

A pickle is a program for a small machine that can call any function there is. The reader below is such a machine
without the calls: it knows the instructions that a dict of arrays needs, writes down what numpy would have been asked,
and makes arrays of these notes itself when all is checked. They take no more memory than the file.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy.files import PathLike, atomic_write
from deploy.untrusted import read_file

from ..errors import CheckpointError

MAX_BYTES = 4 << 30
MAX_INSTRUCTIONS = 20_000  # the generator of 256x256 needs under 2,000; bounds nesting too
MAX_DIMENSIONS = 32  # numpy 1's own limit; bounds the product of a shape
_DTYPES = frozenset(["f2", "f4", "f8", "i4", "i8"])
# Paddle 2.0 added a table from structured names to its internal ones; it is of no use to anyone else.
_NAME_TABLE = "StructuredToParameterName@@"

# What a file may name, as module and name, and what it stands for here.
_KINDS = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy ndarray": "array type",  # an argument of the one above
    "numpy dtype": "dtype",
    "_codecs encode": "bytes",  # how protocol 2 spells bytes: as text in latin1
    "__builtin__ bytes": "bytes",  # and no bytes at all
    "builtins tuple": "pair",  # some Paddle versions save a tensor as (name, array)
    "__builtin__ tuple": "pair",
}
_LITERALS = frozenset(
    ["BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"]
    + ["BININT", "BININT1", "BININT2", "LONG1"]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


def write_params(path: PathLike, tensors: Mapping[str, np.ndarray], comment: str = "") -> None:
    """Write a dict of arrays as the tutorial's `paddle.save` does; its `paddle.load` reads it. Atomic.

    Args: comment - follows the pickle, which says where it ends: no reader looks there.
    """
    content = pickle.dumps({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, protocol=2)
    # numpy 2 names a module that numpy 1 does not have; both have the old name. It stands once, before any content.
    content = content.replace(b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\n_reconstruct\n", 1)
    with atomic_write(path) as stream:
        stream.write(content + comment.encode())


def read_params(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays in a `.params` file by name, without executing anything in it.

    Raises CheckpointError when the file is missing, larger than 4 GiB, damaged, or holds anything but a dict of
    arrays; FileNotFoundError is never raised.
    """
    path = Path(path)
    try:
        content = read_file(path, MAX_BYTES)
        return _arrays(_describe(content), len(content))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except _RefusedError as refusal:
        raise CheckpointError(f"{path} was refused: {refusal}. Only a dict of arrays is read.") from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path} is not a whole .params file: {reason}") from None


class _RefusedError(Exception):
    """The file asks for something that a dict of arrays does not need. The message says for what."""


class _Note:
    """Something the file wants made: its kind, its arguments (None: not called yet) and its state."""

    def __init__(self, kind: str, arguments: tuple | None = None):
        self.kind, self.arguments, self.state = kind, arguments, None


def _describe(content: bytes) -> Any:
    """What the pickle `content` would make, of dicts, tuples, texts, bytes, numbers and notes.

    Tuples are never compared, hashed or printed: one that holds another twice, and so on, would take forever.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (opcode, argument, position) in enumerate(pickletools.genops(content)):
        name = opcode.name
        if count >= MAX_INSTRUCTIONS:
            raise _RefusedError(f"more than {MAX_INSTRUCTIONS} instructions")
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES:
            stack.append(tuple([stack.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, value])
        elif name == "SETITEMS":
            items = _pop_to_mark(stack)
            _set_items(stack[-1], items)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_named(argument))
        elif name == "STACK_GLOBAL":
            function, module = stack.pop(), stack.pop()
            is_name = isinstance(module, str) and isinstance(function, str)  # a tuple could take forever to print
            stack.append(_named(f"{module} {function}" if is_name else ""))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Note) or function.arguments is not None or not isinstance(arguments, tuple):
                raise _RefusedError(f"instruction REDUCE at byte {position} calls what no array needs")
            stack.append(_Note(function.kind, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Note) or stack[-1].arguments is None:
                raise _RefusedError(f"instruction BUILD at byte {position} changes what is not an array")
            stack[-1].state = state
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _RefusedError(f"instruction {name} at byte {position} does more than hold arrays")
    return stack.pop()


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _set_items(target: Any, items: list[Any]) -> None:
    names = items[::2]
    if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(name, str) for name in names):
        raise _RefusedError("it holds a dict whose keys are not names")
    target.update(zip(names, items[1::2]))


def _named(name: str) -> _Note:
    if name not in _KINDS:
        raise _RefusedError(f"it asks for {name.replace(' ', '.')[:100]!r}, which an array does not need")
    return _Note(_KINDS[name])


def _arrays(described: Any, most_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of a described dict, by name. `most_bytes` bounds their sum: one array can stand under many names."""
    if not isinstance(described, dict):
        raise _RefusedError("it holds something else than a dict")
    result, total = {}, 0
    for name, value in described.items():
        if name == _NAME_TABLE:
            continue
        if isinstance(value, _Note) and value.kind == "pair" and value.arguments:
            value = value.arguments[0]
        if isinstance(value, tuple) and len(value) == 2:
            value = value[1]
        if not isinstance(value, _Note) or value.kind != "array" or not isinstance(value.state, tuple):
            raise _RefusedError(f"its entry {name[:100]!r} is not an array")
        _, shape, dtype, fortran_order, content = value.state
        shape, flat_type = _checked_shape(shape), _checked_dtype(dtype)
        size = math.prod(shape) * flat_type.itemsize
        total += size
        if total > most_bytes:
            raise _RefusedError(f"its arrays up to {name[:100]!r} would take more memory than the file")
        flat = np.frombuffer(_checked_bytes(content, size), flat_type)
        result[name] = flat.reshape(shape, order="F" if fortran_order else "C").copy(order="C")
    return result


def _checked_shape(shape: Any) -> tuple[int, ...]:
    is_shape = isinstance(shape, tuple) and len(shape) <= MAX_DIMENSIONS
    if not is_shape or not all(type(n) is int and 0 <= n <= MAX_BYTES for n in shape):
        raise _RefusedError("it holds an array whose shape is not one")
    return shape


def _checked_dtype(dtype: Any) -> np.dtype:
    if isinstance(dtype, _Note) and dtype.kind == "dtype" and dtype.arguments and isinstance(dtype.state, tuple):
        name, order = dtype.arguments[0], dtype.state[1]
        if isinstance(name, str) and name in _DTYPES and isinstance(order, str) and order in ("<", "="):
            return np.dtype("<" + name)
    raise _RefusedError("it holds an array that is neither of floats nor of integers in little-endian order")


def _checked_bytes(content: Any, size: int) -> bytes:
    """`content`, bytes or a note of them, if there are `size`: looked at before a copy is made."""
    is_right = isinstance(content, bytes)
    if isinstance(content, _Note) and content.kind == "bytes":
        content, encoding = content.arguments or ("", "latin1")
        is_right = isinstance(content, str) and encoding == "latin1"
    if not is_right or len(content) != size:
        raise _RefusedError(f"it holds an array whose content is not the {size} bytes of its shape")
    return content.encode("latin1") if isinstance(content, str) else content
