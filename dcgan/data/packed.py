"""Packed images: one uint8 array [N, 3, S, S] in a .npy, and a JSON beside it that says what it is.

The JSON is a claim: it holds the digest of the pixels, and a packed file counts only while the two agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from deploy.files import PathLike
from deploy.untrusted import UnsafeFileError, open_file, read_file

from ..errors import DataError

FORMAT, FORMAT_VERSION = "packed images", 2  # the version goes up when the same source would give other pixels
_FORMATS = (FORMAT, "packed pictures")  # version 1: OpenCV's decoder; in CMYK and 16 bits a level may differ


@dataclass(frozen=True, eq=False)
class PackedData:
    """Images ready to be learned from. `images` are read from `path` where they are needed, never as a whole."""

    path: Path
    images: PackedImages  # uint8 [N, 3, S, S], RGB, rows from top to bottom
    digest: str  # SHA-256 of the pixels, hexadecimal
    info: dict  # the JSON beside the file; empty for a .npy that came without one of ours

    def __len__(self) -> int:
        return len(self.images)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two packed files the same data for a resumed run; JSON values."""
        return {"digest": self.digest, "count": len(self.images)}


def is_packed(data: str) -> bool:
    """Whether `data` names a packed file rather than a source of images."""
    return data.lower().endswith(".npy") and not Path(data).is_dir()


def open_packed(path: PathLike) -> PackedData:
    """The packed images of a .npy, after a whole pass for their digest (about 1 GB/s).

    With our JSON beside it, everything the JSON says is checked; a .npy of unknown origin is accepted if it is uint8
    [N, 3, S, S] in C order. Raises DataError if not, or if the file is missing or damaged. Nothing in it is executed.
    """
    path = Path(path)
    images, info = open_images(path), read_info(path)
    digest = _digest(images)
    if info:
        found = {"count": len(images), "image_size": images.shape[-1], "sha256": digest}
        wrong = [f"{name} {info.get(name)} became {value}" for name, value in found.items() if info.get(name) != value]
        if wrong:
            raise DataError(f"{path} is damaged or not the file that its .json describes: {', '.join(wrong)}")
    return PackedData(path, images, digest, info)


def open_images(path: Path) -> PackedImages:
    """The images of a .npy. Raises DataError unless it is whole and uint8 [N, 3, S, S] in C order."""
    try:
        stream = open_file(path)
    except FileNotFoundError:
        raise DataError(f"there is no packed file {path} (looked for {path.absolute()})") from None
    except UnsafeFileError as error:
        raise DataError(f"{path} is not a packed file: {error.strerror}") from None
    with contextlib.ExitStack() as on_error:
        on_error.enter_context(stream)
        kind, is_fortran, shape = _read_npy_header(stream, path)
        start, end = stream.tell(), stream.seek(0, 2)
        if kind != "|u1" or len(shape) != 4 or 0 in shape or shape[1] != 3 or shape[2] != shape[3]:
            raise DataError(f"{path} holds {kind} {list(shape)}: expected uint8 (|u1) [N, 3, S, S], N at least 1")
        if is_fortran:
            raise DataError(f"{path} is in Fortran order: save the result of numpy.ascontiguousarray instead")
        size_bytes = math.prod(shape)
        if end - start != size_bytes:
            raise DataError(f"{path} is damaged: {end - start} bytes follow its header, which announces {size_bytes}")
        on_error.pop_all()
    return PackedImages(stream, path, start, tuple(shape))


class PackedImages:
    """Indexed as an array uint8 [N, 3, S, S] is, and read from the file at each indexing; all that it gives is a copy.

    Not mapped into memory: touching a mapped page behind the end of a file that was cut kills the process (SIGBUS).
    Reading 128 scattered images of 64 x 64 takes 0.24 ms, copying them out of a mapping 0.11 ms.
    Indexing raises DataError if the file was cut or overwritten in place. What is renamed over it, as `prepare` does,
    does not matter: the file that was opened stays. It is closed with this object.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, stream: IO[bytes], path: Path, start: int, shape: tuple[int, ...]):
        """`stream` - of the file at `path`, now this object's.  start - where its pixels begin, bytes."""
        self.shape, self.nbytes = shape, math.prod(shape)
        self._stream, self._path, self._start, self._facts = stream, path, start, _facts(stream)
        self._image_bytes = math.prod(shape[1:])
        self._position = threading.Lock()

    def __del__(self) -> None:
        self._stream.close()  # a file that is left to the interpreter is a ResourceWarning

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Args: index - an int, a slice, a list or array of ints or of bools; or a tuple that begins with one."""
        if isinstance(index, tuple):
            index, *rest = index
            is_one = isinstance(index, (int, np.integer))
            return self[index][tuple(rest) if is_one else (slice(None), *rest)]
        chosen = self._chosen(index)
        images = np.empty((*chosen.shape, *self.shape[1:]), np.uint8)
        if isinstance(index, slice) and index.step in (None, 1):
            self._read(images, chosen[0] if len(chosen) else 0)
        else:
            for image, i in zip(images.reshape(-1, *self.shape[1:]), chosen.reshape(-1).tolist()):
                self._read(image, i)
        if _facts(self._stream) != self._facts:  # after reading, so that nothing of a change is ever used
            raise self._changed()
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All images in memory."""
        return self[:].astype(dtype or np.uint8, copy=False)

    def _chosen(self, index: Any) -> np.ndarray:
        """The numbers of the images that `index` means."""
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        chosen = np.asarray(index)
        if chosen.dtype == bool:
            return np.arange(len(self))[chosen]
        chosen = np.where(chosen < 0, chosen + len(self), chosen)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"there are {len(self)} images, received an index of {index!r:.100}")
        return chosen.astype(np.intp, casting="same_kind" if chosen.size else "unsafe")

    def _read(self, images: np.ndarray, first: int) -> None:
        """Fill `images` with those from number `first` on."""
        rest, offset = memoryview(images.reshape(-1)), self._start + int(first) * self._image_bytes
        while rest:
            count = self._read_some(rest, offset)
            if not count:
                raise self._changed()
            rest, offset = rest[count:], offset + count

    def _read_some(self, buffer: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._stream.fileno(), [buffer], offset)
        with self._position:  # Windows: the loader's thread and others share one position in the file
            os.lseek(self._stream.fileno(), offset, os.SEEK_SET)
            content = os.read(self._stream.fileno(), min(len(buffer), 1 << 26))
        buffer[: len(content)] = content
        return len(content)

    def _changed(self) -> DataError:
        return DataError(
            f"{self._path} was cut or overwritten while it was in use: leave packed files alone until training has "
            "ended; then prepare it again and continue with --resume"
        )


def _facts(stream: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns


_NPY_HEADER = re.compile(
    rb"\{'descr': '([^']{1,20})', 'fortran_order': (True|False), 'shape': \(([0-9, ]{0,99})\), ?\} *\n"
)


def _read_npy_header(stream: IO[bytes], path: Path) -> tuple[str, bool, list[int]]:
    """Type, Fortran order and shape. Matched, not evaluated as numpy does: only what numpy.save writes is accepted."""
    start = stream.read(10)
    length = struct.unpack("<H", start[8:])[0] if start[:7] == b"\x93NUMPY\x01" and len(start) == 10 else 0
    found = _NPY_HEADER.fullmatch(stream.read(length))
    if not found:
        raise DataError(f"{path} is not a .npy of one plain array: expected uint8 [N, 3, S, S], as numpy.save writes")
    kind, is_fortran, shape = found.groups()
    return kind.decode("ascii", "replace"), is_fortran == b"True", [int(part) for part in re.findall(rb"[0-9]+", shape)]


def npy_header(count: int, size: int) -> bytes:
    """Header of a .npy of uint8 [count, 3, size, size]: 128 bytes for any count, so that it can be replaced."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 3, {size}, {size}), }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode() + b"\n"


_MAX_INFO_BYTES = 256 << 20  # it names each file that was left out


def info_path(path: Path) -> Path:
    """Where the JSON of the packed file `path` is: FILE.npy -> FILE.json."""
    return path.with_suffix(".json")


def read_info(path: Path) -> dict:
    """The JSON beside a packed file; empty if there is none, or if it is not one of ours."""
    try:
        info = json.loads(read_file(info_path(path), _MAX_INFO_BYTES))
    except (FileNotFoundError, UnsafeFileError, ValueError, RecursionError):
        return {}
    return info if isinstance(info, dict) and info.get("format") in _FORMATS else {}


def _digest(images: PackedImages) -> str:
    digest = hashlib.sha256()
    step = max(1, 2**22 // images[0].size)
    for start in range(0, len(images), step):
        digest.update(images[start : start + step])
    return digest.hexdigest()
