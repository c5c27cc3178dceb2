"""Read a file of unknown origin: what a path in a configuration, a download or another person's folder leads to.

Such a path may lead to a pipe that never answers, a device without an end, a link to a private file, or a sparse file
of terabytes. Standard library only.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
from pathlib import Path
from typing import IO, Any

from deploy.files import PathLike

MAX_JSON_BYTES = 16 << 20  # of a config, a manifest or a report; ours have some 20 thousand
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnsafeFileError(OSError):
    """A path leads to no regular file, out of its folder, or to more bytes than may be read. `strerror` says which."""


def open_file(path: PathLike, within: PathLike | None = None) -> IO[bytes]:
    """The regular file at `path`, open for reading. Nothing else is ever opened, so this does not wait.

    Args: within - a folder that the file must really lie in, whatever links say; None: links may lead anywhere.
    Raises UnsafeFileError, OSError.
    """
    target = os.fspath(path)
    # What lies directly in the folder and is no link need not be resolved, which takes as long as reading a small file.
    if within is not None and (os.path.dirname(target) != os.fspath(within) or os.path.islink(target)):
        target, folder = os.path.realpath(target), os.path.realpath(within)
        if os.path.commonpath([target, folder]) != folder:
            raise UnsafeFileError(errno.EXDEV, f"it is a link that leads out of {os.fspath(within)}", os.fspath(path))
    _check_kind(os.stat(target), path)  # before it is opened: opening a device may already do something
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    if within is not None:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(target, flags)
    try:
        _check_kind(os.fstat(descriptor), path)  # what was opened, not what was there before
    except BaseException:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def refuse_constant(name: str) -> None:
    """`parse_constant` of json.loads, which by itself takes NaN and Infinity. Raises ValueError."""
    raise ValueError(f"{name} is not a JSON number")


def parse_json(text: str | bytes) -> Any:
    """json.loads for what others wrote. Raises ValueError, too, for NaN, Infinity and numbers that a float cannot hold:
    written again they would be no JSON. RecursionError as json.loads."""
    return json.loads(text, parse_constant=refuse_constant, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is larger than a number can be")
    return value


def is_finite_number(value: object) -> bool:
    """Whether a JSON value is a number that a float can hold: no bool, NaN or whole number of 400 digits."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def read_file(path: PathLike, max_bytes: int, within: PathLike | None = None) -> bytes:
    """The content of a regular file of at most `max_bytes` bytes, as it was when it was opened.

    Raises UnsafeFileError (see `open_file`; EFBIG for a larger one), OSError.
    """
    with open_file(path, within) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > max_bytes:
            message = f"it has {size:,} bytes, more than the {max_bytes:,} that are read"
            raise UnsafeFileError(errno.EFBIG, message, os.fspath(path))
        return stream.read(size)


def is_file(path: PathLike) -> bool:
    """Whether there is a regular file, links followed; False, where Path.is_file raises, for an impossible path."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _check_kind(facts: os.stat_result, path: PathLike) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(facts.st_mode)), "something else")
        raise UnsafeFileError(errno.EINVAL, f"it is {kind}; a file is expected", os.fspath(Path(path)))
