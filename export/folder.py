"""An export folder replaced as a whole: whoever looks, or whatever crashes, finds the old one or the new one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from dcgan.errors import ExportError
from dcgan.files import PathLike, sync_folder
from deploy.manifest import FILE_NAME, ModelError, read_manifest

PARAMS_FILE = "generator.params"  # written beside an export, and kept by the next one
_ALWAYS_OURS = {FILE_NAME, PARAMS_FILE}


@contextlib.contextmanager
def replacing(folder: PathLike) -> Iterator[Path]:
    """An empty folder beside `folder`, which takes its place when the block ends well and is removed otherwise.

    A `generator.params` in `folder` is carried over: it belongs to no manifest, and may be what is being exported.
    Raises ExportError when `folder` holds anything that no export wrote (it is not deleted for you), or when another
    process is exporting to it.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("part", "old"))
    lock = FileLock(str(folder.with_name(f".{folder.name}.lock")))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ExportError(f"another process is exporting to {folder}; wait for it, or give another --out") from None
    try:
        if old.exists() and not folder.exists():  # a crash between two renames, see _swap
            old.rename(folder)
        _refuse_foreign(folder)
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir()
        yield aside
        _carry_over(folder / PARAMS_FILE, aside)
        for path in aside.iterdir():
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(aside)
        _swap(aside, folder, old)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        lock.release()


def _refuse_foreign(folder: Path) -> None:
    """Raise ExportError unless `folder` is missing, empty, or holds only what an export wrote."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise ExportError(f"{folder} is not a plain folder. Give another --out.")
    present = {path.name for path in folder.iterdir()}
    plain = {path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
    known = set(_ALWAYS_OURS)
    if FILE_NAME in present:
        with contextlib.suppress(ModelError):  # a damaged manifest vouches for nothing
            known |= set(read_manifest(folder).files)
    foreign = sorted(present - (known & plain))
    if foreign:
        raise ExportError(
            f"{folder} holds what no export wrote ({', '.join(foreign[:5])}), and an export replaces the whole folder. "
            "Move it away or give another --out."
        )


def _carry_over(path: Path, folder: Path) -> None:
    """Copy the file `path` into `folder`, unless it is missing or `folder` has its own."""
    if path.is_file() and not (folder / path.name).exists():
        shutil.copy2(path, folder / path.name)


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Put `new` in the place of `folder`; what was there is gone afterwards."""
    if not folder.exists():
        new.rename(folder)
    elif _exchange(new, folder):
        shutil.rmtree(new)
    else:  # not atomic: a crash here leaves the old export as `old`, which the next export puts back
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old)
    sync_folder(folder.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders in one step of the file system. False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    at_cwd, exchange = -100, 2
    return rename(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0
