"""Files that appear whole or not at all. Standard library only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Union

PathLike = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def atomic_write(path: PathLike, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary binary file beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    The folder must exist. Raises OSError as open, write and rename do; the old file is then still there.
    `durable` waits for the disk, so that the file survives a power cut too: milliseconds, too much per image.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError as error:
        if str(error.filename or aside) == str(aside):  # a full disk does not even say which file it was
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
