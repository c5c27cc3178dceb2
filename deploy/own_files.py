"""Which files may be replaced: those that this project wrote, told from what is in them. Standard library only.

A name proves nothing: people have a grid.png, a scores.json or an index.html of their own. So what is written for them
bears a mark near its start or its end, where its format has room for a comment: HTML, PNG, JPEG and JSON near the
start; GIF, MP4, .npz and .params at the end. Packed files and export folders are told by their JSON instead.
"""

from __future__ import annotations

import errno
import os
import re

from deploy.files import PathLike
from deploy.untrusted import open_file

MARK = "written by dcgan-paddle"
_HEAD_BYTES, _TAIL_BYTES = 4096, 128


def refuse_foreign(path: PathLike, unmarked: bytes = rb"(?!)") -> None:
    """Raise FileExistsError unless there is nothing at `path`, or a file that this project wrote.

    An empty file counts as ours: nothing is lost with it, and a power cut leaves such. Links are followed.
    Args: unmarked - a regular expression for the start of what is ours and bears no mark, such as what earlier versions
          wrote; by default one that never matches.
    Raises OSError too where no file is, but a folder or a pipe, or where the file cannot be read.
    """
    try:
        with open_file(path) as stream:
            head = stream.read(_HEAD_BYTES)
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = stream.read(_TAIL_BYTES)
    except FileNotFoundError:
        if os.path.lexists(path):  # a link to nothing
            raise foreign(path) from None
        return
    mark = MARK.encode()
    if head and mark not in head and mark not in tail and not re.search(unmarked, head, re.DOTALL):
        raise foreign(path)


def foreign(path: PathLike) -> FileExistsError:
    """The error for a file that is not replaced."""
    message = "nothing in this file shows that this project wrote it, so it is kept: move it away or give another --out"
    return FileExistsError(errno.EEXIST, message, os.fspath(path))
