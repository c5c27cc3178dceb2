"""An export folder replaced as a whole: no crash and no error leaves half of one, and nothing of yours is deleted.

A folder counts as an export by what it holds, never by a name: a manifest.json that reads as ours, and beside it only
the files that this manifest lists, as they were written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dcgan.errors import ExportError
from deploy.files import LITTER, Lock, LockedError, PathLike, aside_name, make_folders, sync_folder
from deploy.manifest import FILE_NAME, Manifest, ModelError, read_manifest, read_verified, to_json
from deploy.untrusted import MAX_JSON_BYTES, open_file, read_file

PARAMS_FILE = "generator.params"  # written beside an export, and kept by the next one
_MARKER = ".dcgan-export-in-progress"  # in a folder that is being filled; what holds it is ours


@contextlib.contextmanager
def replacing(folder: PathLike) -> Iterator[Path]:
    """An empty folder beside `folder`, which takes its place when the block ends well and is removed otherwise.

    A `generator.params` in `folder` is carried over: it belongs to no manifest, and may be what is being exported.
    Raises ExportError when `folder` holds anything that no export wrote (it is not deleted for you), or when another
    process is exporting to it.
    """
    folder = _plain(folder)
    make_folders(folder.parent)
    lock = Lock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire()
    except LockedError:
        raise ExportError(f"another process is exporting to {folder}; wait for it, or give another --out") from None
    aside = aside_name(folder)
    try:
        _recover(folder)
        _refuse_foreign(folder)
        aside.mkdir()
        (aside / _MARKER).touch()
        yield aside
        _carry_over(folder / PARAMS_FILE, aside)
        for path in aside.iterdir():
            with open(path, "r+b") as stream:  # Windows refuses to sync what is open for reading
                os.fsync(stream.fileno())
        _refuse_foreign(folder)  # once more: the block took a while
        _swap(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        lock.release()


def is_export(folder: PathLike) -> bool:
    """Whether `folder` is a real folder with a valid manifest of ours and nothing but what that lists."""
    folder = Path(folder)
    return not folder.is_symlink() and folder.is_dir() and (folder / FILE_NAME).exists() and not _foreign(folder)


def _plain(folder: PathLike) -> Path:
    """The absolute path, without "." and ".." at its end.

    Raises ExportError for the folder one is in, and for a name that is not UTF-8.
    """
    folder = Path(os.path.abspath(folder))
    try:
        is_used = Path.cwd() == folder or folder in Path.cwd().parents
    except FileNotFoundError:  # the working directory itself was deleted
        is_used = False
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        message = "has a name that is not UTF-8, and Paddle writes to no such path: give another --out"
        raise ExportError(f"{folder} {message}") from None
    if is_used or not folder.name:
        what = "holds the working directory" if is_used else "is the root of all folders"
        raise ExportError(f"{folder} {what}, and an export replaces its folder: give another --out")
    return folder


def _recover(folder: Path) -> None:
    """Clear away what killed exports to `folder` left, if it is theirs, and put an export back that lost its name."""
    ours = re.compile(rf"\.{re.escape(folder.name)}\.(?:[0-9a-f]{{16}}\.)?(part|old)", re.DOTALL)
    found = [path for path in sorted(folder.parent.iterdir()) if ours.fullmatch(path.name)]
    for path in found:
        is_plain = path.is_dir() and not path.is_symlink()
        if not is_plain or not (is_export(path) or (path / _MARKER).is_file()):
            continue
        if path.suffix == ".old" and not os.path.lexists(folder):  # a crash between two renames, see _swap
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    """Raise ExportError unless `folder` is missing, empty, or holds only what an export wrote."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise ExportError(f"{folder} is not a plain folder. Give another --out.")
    foreign = _foreign(folder)
    if foreign:
        raise ExportError(
            f"{folder} holds what no export wrote ({', '.join(foreign[:5])}), and an export replaces the whole folder. "
            "Move it away or give another --out."
        )


def _foreign(folder: Path) -> list[str]:
    """What is in `folder` and no export wrote: a manifest vouches for itself and its files, if it is one of ours."""
    known, changed = {PARAMS_FILE, *LITTER}, []
    plain = {path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
    with contextlib.suppress(ModelError):  # a damaged manifest, or another program's, vouches for nothing
        manifest = read_manifest(folder)
        known |= {FILE_NAME, *manifest.files}
        if added := _added_keys(folder, manifest):
            changed.append(f"{FILE_NAME} with {', '.join(added)}")
        for name in plain & set(manifest.files):  # a page that somebody edited is theirs
            try:
                read_verified(folder, manifest, name)
            except ModelError:
                changed.append(f"{name} changed since")
    return sorted([*({path.name for path in folder.iterdir()} - (known & plain)), *changed])


def _added_keys(folder: Path, manifest: Manifest) -> list[str]:
    """What stands in a valid manifest.json and no version of this project writes: it would be lost."""
    value = json.loads(read_file(folder / FILE_NAME, MAX_JSON_BYTES, within=folder))
    return sorted(value.keys() - to_json(manifest).keys() - {"calibration"})  # as `precise_bn` was called at first


def _carry_over(path: Path, folder: Path) -> None:
    """Copy the file `path` into `folder`, unless it is missing or `folder` has its own."""
    if path.is_file() and not (folder / path.name).exists():
        with open_file(path) as source, open(folder / path.name, "xb") as target:
            shutil.copyfileobj(source, target)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; what was there is gone afterwards.

    By two renames: a crash between them leaves the old export beside its place, and the next export puts it back. Linux
    can exchange two folders in one step, but not on every file system, and Python only reaches it through ctypes.
    """
    (new / _MARKER).unlink()
    sync_folder(new)
    old = None
    if folder.exists():
        old = aside_name(folder, "old")
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old:
            old.rename(folder)
        raise
    sync_folder(folder.parent)
    if old:
        shutil.rmtree(old, ignore_errors=True)
