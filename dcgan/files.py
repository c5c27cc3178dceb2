"""Files that appear whole or not at all.

Written aside in the same folder, flushed to the disk, then renamed: a crash, a full disk or a `kill -9` leaves either
the old file or the new one. (Checkpoints and exports do the same with whole folders.)
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Union

PathLike = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    The folder must exist. Raises OSError as open, write and rename do; the old file is then still there.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(aside, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that finds the disk full does not say where
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()


def sync_folder(folder: PathLike) -> None:
    """Make renames inside `folder` survive a power cut. Does nothing where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused (ValueError): they are not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as stream:
        stream.write(text + "\n")
