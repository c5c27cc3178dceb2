"""The oneDNN library inside Paddle's CPU wheel, through ctypes: found, checked, and its errors turned into ours.

Paddle ships oneDNN for its inference programs and leaves it alone in dygraph. Nothing is installed or compiled for it.
The constants below are those of oneDNN 3's C interface (dnnl_types.h), which stays the same within a major version.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import paddle

MAJOR_VERSION = 3
_AVX2, _AVX512, _BFLOAT16 = 0x7, 0x27, 0x80  # bits of dnnl_cpu_isa_t
_CPU, _IN_ORDER = 1, 1

Handle = ctypes.c_void_p


class OneDnnUnavailableError(RuntimeError):
    """The library is not there, not of this version, or the processor is not one it is fast on: the text says which."""


class OneDnnError(RuntimeError):
    """A call of the library failed."""


class _Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int)]


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises OneDnnUnavailableError with the reason."""
    folder = Path(paddle.__file__).parent / "libs"
    path = next(iter(sorted(folder.glob("libdnnl.so.*"))), None)
    if path is None:
        raise OneDnnUnavailableError(f"this Paddle has no oneDNN library (libdnnl.so) in {folder.name}/")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise OneDnnUnavailableError(f"{path.name} cannot be loaded: {error}") from None
    loaded.dnnl_version.restype = ctypes.POINTER(_Version)
    version = loaded.dnnl_version().contents
    if version.major != MAJOR_VERSION:
        raise OneDnnUnavailableError(f"oneDNN {MAJOR_VERSION} is needed, this is {version.major}.{version.minor}")
    loaded.dnnl_primitive_desc_query_md.restype = Handle
    loaded.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
    loaded.dnnl_memory_desc_get_size.argtypes = [Handle]
    loaded.dnnl_memory_desc_equal.argtypes = [Handle, Handle]
    return loaded


@functools.cache
def has_bfloat16() -> bool:
    """Whether this processor computes bfloat16, as far as ONEDNN_MAX_CPU_ISA allows. Raises OneDnnUnavailableError
    where there is not even AVX2."""
    isa = library().dnnl_get_effective_cpu_isa()
    if isa & _AVX2 != _AVX2:
        raise OneDnnUnavailableError("this processor has no AVX2")
    return bool(isa & _BFLOAT16)


@functools.cache
def has_avx512() -> bool:
    """Whether this processor has AVX-512, as far as ONEDNN_MAX_CPU_ISA allows."""
    return library().dnnl_get_effective_cpu_isa() & _AVX512 == _AVX512


def call(function: str, *arguments: Any) -> None:
    """Call a function of the library; raise OneDnnError unless it reports success."""
    status = getattr(library(), function)(*arguments)
    if status:
        raise OneDnnError(f"{function} of oneDNN failed with status {status}")


def create(function: str, *arguments: Any) -> Handle:
    """Call a function that makes an object and return its handle."""
    handle = Handle()
    call(function, ctypes.byref(handle), *arguments)
    return handle


@functools.cache
def engine() -> Handle:
    """The CPU as oneDNN sees it."""
    return create("dnnl_engine_create", _CPU, ctypes.c_size_t(0))


@functools.cache
def stream() -> Handle:
    """The one queue that all calculations go through, in order."""
    return create("dnnl_stream_create", engine(), _IN_ORDER)
