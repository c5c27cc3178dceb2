"""`generator.params`, the tutorial's file: a pickled dict of arrays, read without running anything in it.

A pickle is a program. The reader below first looks at every instruction and refuses those that a dict of arrays does
not need, then runs the rest with inert stand-ins in place of numpy's constructors: nothing in the file can name a
function, and no array takes more memory than the file itself holds.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError
from .files import PathLike, atomic_write

MAX_BYTES = 4 << 30
MAX_INSTRUCTIONS = 20_000  # the generator of 256x256 needs under 2,000; bounds nesting too
_DTYPES = {"f2": np.float16, "f4": np.float32, "f8": np.float64, "i4": np.int32, "i8": np.int64}
# Paddle 2.0 added a table from structured names to its internal ones; it is of no use to anyone else.
_NAME_TABLE = "StructuredToParameterName@@"
# Instructions that build dicts, tuples, strings, numbers and bytes, and the three that build an array.
_ALLOWED = frozenset(
    "PROTO FRAME STOP MARK EMPTY_DICT DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 MEMOIZE BINPUT "
    "LONG_BINPUT BINGET LONG_BINGET BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BININT "
    "BININT1 BININT2 LONG1 NONE NEWTRUE NEWFALSE GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)


def write_params(path: PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a dict of arrays as the tutorial's `paddle.save` does; its `paddle.load` reads it. Atomic."""
    with atomic_write(path) as stream:
        pickle.dump({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, stream, protocol=2)


def read_params(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays in a `.params` file by name, without executing anything in it.

    Raises CheckpointError when the file is missing, larger than 4 GiB, damaged, or holds anything but a dict of
    arrays; FileNotFoundError is never raised.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"{path} holds {size} bytes, at most {MAX_BYTES} are read")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    _refuse_programs(path, content)
    try:
        loaded = _ArraysOnly(io.BytesIO(content)).load()
        return _arrays(loaded)
    except (CheckpointError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} was refused: {error}. Only a dict of arrays is read.") from None
    except (ValueError, TypeError, EOFError, AttributeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path} is not a whole .params file: {error or type(error).__name__}") from None


def _refuse_programs(path: Path, content: bytes) -> None:
    """Raise CheckpointError for any instruction that a dict of arrays does not need, before the first one runs."""
    count = 0
    try:
        for opcode, argument, position in pickletools.genops(content):
            count += 1
            if count > MAX_INSTRUCTIONS:
                raise CheckpointError(f"{path} was refused: more than {MAX_INSTRUCTIONS} instructions")
            if opcode.name not in _ALLOWED:
                raise CheckpointError(
                    f"{path} was refused: instruction {opcode.name} at byte {position} does more than hold arrays"
                )
            if opcode.name == "LONG_BINPUT" and argument > count:
                raise CheckpointError(f"{path} was refused: instruction at byte {position} asks for absurd memory")
    except (ValueError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{path} is not a whole .params file: {error}") from None


class _Dtype:
    """Stands in for numpy.dtype: remembers the type's name and byte order."""

    def __init__(self, name: str, *_: Any):
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class _Array:
    """Stands in for numpy.ndarray: remembers what numpy would be told, and makes the array only when all is checked."""

    def __init__(self, *_: Any):
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def build(self) -> np.ndarray:
        _, shape, dtype, fortran_order, content = self.state
        if not isinstance(dtype, _Dtype) or dtype.name not in _DTYPES or dtype.order not in "<=|":
            raise CheckpointError("it holds an array that is neither of floats nor of integers in little-endian order")
        if not isinstance(content, bytes) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise CheckpointError("it holds an array whose shape or content is not one")
        flat_type = np.dtype(_DTYPES[dtype.name])
        if math.prod(shape) * flat_type.itemsize != len(content):
            raise CheckpointError(f"an array of shape {tuple(shape)} does not fit its {len(content)} bytes")
        return np.frombuffer(content, flat_type).reshape(shape, order="F" if fortran_order else "C").copy(order="C")


class _Latin1:
    """Stands in for _codecs.encode, by which protocol 2 spells bytes."""

    def __new__(cls, text: str, encoding: str = "latin1") -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise CheckpointError("it encodes text in a way that no array does")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise CheckpointError("it gives a state to text")


class _Pair:
    """Stands in for tuple: some Paddle versions save a tensor as (name, array)."""

    def __new__(cls, items: tuple = ()) -> Any:
        return tuple(items)

    def __setstate__(self, state: Any) -> None:
        raise CheckpointError("it gives a state to a tuple")


# Classes only, each with its own __setstate__: BUILD can then not write attributes into this module's objects.
_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1,
    ("builtins", "tuple"): _Pair,
    ("__builtin__", "tuple"): _Pair,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise CheckpointError(f"it asks for {module}.{name}, which an array does not need")
        return _STAND_INS[module, name]


def _arrays(loaded: Any) -> dict[str, np.ndarray]:
    if not isinstance(loaded, dict):
        raise CheckpointError(f"it holds a {type(loaded).__name__}")
    result = {}
    for name, value in loaded.items():
        if name == _NAME_TABLE:
            continue
        if isinstance(value, tuple) and len(value) == 2:
            value = value[1]
        if not isinstance(name, str) or not isinstance(value, _Array):
            raise CheckpointError(f"its entry {name!r} is not an array")
        result[name] = value.build()
    return result
