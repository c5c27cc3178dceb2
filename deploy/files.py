"""Files and folders that appear whole or not at all, and locks that say who may write. Standard library only.

What is written is written aside in the same folder, under a random name that no other process has, flushed to the disk
and then renamed: a crash, a full disk or a `kill -9` leaves the old content or the new one. Process numbers are no such
names: two containers that share a folder are both process 1.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Union

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")  # what Finder and Explorer leave in a folder that they show
PathLike = Union[str, "os.PathLike[str]"]
log = logging.getLogger(__name__)

_ASIDE = re.compile(r"\..+\.[0-9a-f]{16}\.part", re.DOTALL)
_LONGEST_NAME = 200  # bytes of a name that is kept whole; file systems allow 255, and the aside name is 23 longer
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class LockedError(OSError):
    """Another process holds the lock."""


def make_folders(path: PathLike) -> None:
    """Make the folder `path` and those above it, where they are missing. Raises OSError as Path.mkdir does.

    pathlib's and os's own ways call themselves for each folder above, and end in a RecursionError after a thousand.
    """
    missing = [Path(path)]
    while not os.path.lexists(missing[-1].parent):
        missing.append(missing[-1].parent)
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = "wb", durable: bool = True) -> Iterator[IO]:
    """Open a temporary file beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    The folder must exist. Raises OSError as open, write and rename do, naming `path`; the old file is then still there.
    Of several processes that write the same path the last one wins, with a whole file. A device, a pipe or a socket at
    `path` is never replaced (OSError): with the rights of root, `/dev/null` would be a file from then on.
    Args: mode - "wb", or "w" for UTF-8.  durable - wait for the disk, so that the file survives a power cut too:
          milliseconds, too much per image.
    """
    path = Path(path)
    aside = descriptor = None
    _refuse_device(path)
    try:
        with _named(path):
            aside, descriptor = _open_aside(path)
            with open(descriptor, mode, **_text(mode)) as stream:
                yield stream
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
                if fcntl is None:
                    stream.close()  # Windows renames no open file
                os.replace(aside, path)  # elsewhere still open, so still locked, and nobody's leftover
            if durable:
                sync_folder(path.parent)
    finally:
        if aside is not None:
            with contextlib.suppress(FileNotFoundError):
                aside.unlink()


@contextlib.contextmanager
def private_folder(path: PathLike) -> Iterator[Path]:
    """A new folder beside `path`, removed with all that is in it when the block ends.

    For programs that write no stream but a path of their own choice of suffix, and would follow a link that lies there:
    into this folder nobody else can put one. Raises OSError naming `path` if it cannot be made.
    """
    folder = aside_name(path)
    with _named(Path(path)):
        folder.mkdir(0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """An OSError about no file, as a full disk raises it, or about one written aside is about `path` instead."""
    try:
        yield
    except OSError as error:
        if error.filename is None or _ASIDE.fullmatch(os.path.basename(str(error.filename))):
            error.filename, error.filename2 = str(path), None
        raise


def _refuse_device(path: Path) -> None:
    """Raise OSError if there is something at `path` that is neither a file nor a folder, links followed."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # there is nothing, or creating it will say what is wrong
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a device, a pipe or a socket; a file is expected", str(path))


def _text(mode: str) -> dict[str, str]:
    """How text is spelled. Bytes of file names that are no UTF-8 stay what they are."""
    return {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape"}


def aside_name(path: PathLike, kind: str = "part") -> Path:
    """A hidden path beside `path` that nobody else has: `.name.0123456789abcdef.part`. Nothing is created."""
    path = Path(path)
    name = path.name if len(os.fsencode(path.name)) <= _LONGEST_NAME else path.name[:40]
    return path.with_name(f".{name}.{secrets.token_hex(8)}.{kind}")


def remove_leftovers(folder: PathLike) -> None:
    """Remove the files that killed processes left unfinished in `folder`, and nothing else.

    A leftover is a regular file with a name of `aside_name` that nobody holds open: writers lock what they write.
    """
    for path in Path(folder).iterdir():
        if not _ASIDE.fullmatch(path.name) or fcntl is None:
            continue
        with contextlib.suppress(OSError):  # it is gone, is a link or no file, or its writer is at work
            descriptor = os.open(path, os.O_RDWR | _NO_LINK)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(descriptor)


def sync_folder(folder: PathLike) -> None:
    """Make renames inside `folder` survive a power cut. Does nothing where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_own_folder(path: PathLike) -> None:
    """Make the folder `path` unless it is there. Raises OSError if it is a link or no folder: what is written into a
    link lands elsewhere, and the folder that this lies in may be of another person."""
    path = Path(path)
    try:
        path.mkdir()
    except FileExistsError:
        refuse_link(path)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a folder is expected, this is none", str(path)) from None


def refuse_link(path: PathLike) -> None:
    """Raise OSError if `path` is a link, to whatever."""
    if os.path.islink(path):
        message = "it is a link, and nothing is written through it: put what it leads to in its place"
        raise OSError(errno.ELOOP, message, os.fspath(path))


def write_json(path: PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused (ValueError): they are not JSON."""
    content = json_bytes(value)
    with atomic_write(path) as stream:
        stream.write(content)


def json_bytes(value: object) -> bytes:
    """`value` as indented JSON in UTF-8 with a newline at its end; names of files that are no UTF-8 are escaped.

    Raises ValueError for NaN and infinity, TypeError for what JSON does not have.
    """
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"


class Lock:
    """A file that one process at a time holds, across containers too; the lock dies with the process.

    The file is never written to, and never followed if it is a link: filelock before 3.13 truncates what it points to.
    On a file system that knows no locks (some Lustre mounts) holding it is a warning: nothing protects then.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise LockedError at once. Raises OSError if the path is a link or no plain file."""
        if self._descriptor is not None:
            return
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise OSError(error.errno, "a lock must be a plain file, this is a link", str(self.path)) from None
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "a lock must be a plain file", str(self.path))
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; does nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def is_locked(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor is not None

    def _lock(self, descriptor: int) -> None:
        try:
            if fcntl is None:
                import msvcrt

                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise LockedError(error.errno, "another process holds the lock", str(self.path)) from None
            if error.errno not in _NO_LOCKS:
                raise
            log.warning(
                "The file system of %s knows no locks: nothing stops a second process from writing there.", self.path
            )

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _open_aside(path: Path) -> tuple[Path, int]:
    """A new, locked file beside `path`, and its descriptor."""
    while True:
        aside = aside_name(path)
        # O_EXCL follows no link and opens nothing that exists
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if fcntl is None:
            return aside, descriptor
        with contextlib.suppress(OSError):  # where there are no locks, nothing is ever taken for a leftover
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # `remove_leftovers` may hold it, for a moment
        if os.fstat(descriptor).st_nlink:  # 0: `remove_leftovers` was faster than the lock
            return aside, descriptor
        os.close(descriptor)
