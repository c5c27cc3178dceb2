"""Files that appear whole, locks, files of unknown origin: the modules of deploy/, which stands alone, in one place."""

from __future__ import annotations

from deploy.files import (
    Lock,
    LockedError,
    PathLike,
    aside_name,
    atomic_write,
    remove_leftovers,
    sync_folder,
    write_json,
)
from deploy.untrusted import MAX_JSON_BYTES, UnsafeFileError, is_file, open_file, read_file

__all__ = [
    "MAX_JSON_BYTES",
    "Lock",
    "LockedError",
    "PathLike",
    "UnsafeFileError",
    "aside_name",
    "atomic_write",
    "is_file",
    "open_file",
    "read_file",
    "remove_leftovers",
    "sync_folder",
    "write_json",
]
