"""Checkpoints: one folder per step that appears whole or not at all, checksummed, made of safetensors and JSON only.

`step-00000100/` holds one `.safetensors` file per group of tensors (generator, discriminator, ...) and `state.json`:
counters, config, data digest, and size and SHA-256 of each file. Nothing in it can run code. Knows numpy, not Paddle.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from deploy.files import LITTER, PathLike, aside_name, json_bytes, make_folders, sync_folder
from deploy.untrusted import UnsafeFileError, parse_json, read_file

from ..errors import CheckpointError

FORMAT = 1
STATE_FILE = "state.json"
MAX_STATE_BYTES = 1 << 24
log = logging.getLogger(__name__)

_GROUP = re.compile(r"[a-z_]{1,64}")
_FOLDER = re.compile(r"step-([0-9]{8,15})")
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_LEFTOVER = re.compile(r"\.step-[0-9]{8,15}\.[0-9a-f]+\.(part|old)")

Tensors = dict[str, np.ndarray]


class Checkpoint(NamedTuple):
    """What `read_checkpoint` returns: the folder, its state, and the tensors by group and name."""

    folder: Path
    state: dict[str, Any]
    groups: dict[str, Tensors]


def misfits(own: Mapping[str, Any], saved: Mapping[str, np.ndarray]) -> list[str]:
    """All that keeps the `saved` tensors from being those of `own`, by name: missing, unknown, of another shape.

    Args: own - tensors or arrays, of which only names and shapes are looked at.
    """
    problems = [f"{name} is missing" for name in own if name not in saved]
    problems += [f"{name} is unknown" for name in saved if name not in own]
    shapes = {name: (list(saved[name].shape), list(own[name].shape)) for name in own if name in saved}
    return problems + [
        f"{name} has shape {found}, expected {expected}"
        for name, (found, expected) in shapes.items()
        if found != expected
    ]


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The iteration in the name of a folder that `list_checkpoints` found."""
    return int(folder.name.removeprefix("step-"))


def write_checkpoint(folder: PathLike, groups: Mapping[str, Tensors], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint folder, replacing an older one of the same name, and return its path.

    Args: groups - tensors by name, by group; each group is one file.  state - JSON values; `format`, `files` and
          `checksum` are added.
    Raises OSError when the disk is full or not writable, FileExistsError for a file, or a folder that holds what no
    checkpoint does, ValueError or TypeError for a state that is not JSON and for group names that are not small
    letters; nothing of the new checkpoint remains then, and what was there before is untouched.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not _may_be_replaced(folder):
        message = "it is no checkpoint, or holds other files too, and is not replaced: give a new path"
        raise FileExistsError(errno.EEXIST, message, str(folder))
    for name in groups:
        if not _GROUP.fullmatch(name):
            raise ValueError(f"the name of a group must be 1 to 64 small letters or underscores, received {name!r}")
    make_folders(folder.parent)
    aside = aside_name(folder)
    try:
        aside.mkdir()
        files = {f"{name}.safetensors": _write_group(aside / f"{name}.safetensors", groups[name]) for name in groups}
        _write_state(aside / STATE_FILE, {**state, "format": FORMAT, "files": files})
        sync_folder(aside)
        doomed = _take_name(folder) if os.path.lexists(folder) else None
        aside.rename(folder)
        sync_folder(folder.parent)
        if doomed:  # only now: deleting takes a while, and until the new one has its name this is all there is
            _delete(doomed)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def read_state(folder: PathLike) -> dict[str, Any]:
    """The checked `state.json` of a checkpoint folder, without its tensors. Raises CheckpointError, OSError."""
    path = Path(folder) / STATE_FILE
    if not os.path.lexists(path):
        raise CheckpointError(f"{folder} is not a checkpoint: it holds no {STATE_FILE}")
    try:
        state = parse_json(_read(path, MAX_STATE_BYTES))
        checksum = _state_checksum(state) if isinstance(state, dict) else None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not checksum or not isinstance(state.get("files"), dict) or not isinstance(state.get("format"), int):
        raise CheckpointError(f"{path} is not the state of a checkpoint")
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {state['format']}; this version reads format {FORMAT}. Use the version that wrote it."
        )
    if state.get("checksum") != checksum:
        raise CheckpointError(f"{path} was changed or damaged: its checksum does not match")
    return state


def read_checkpoint(folder: PathLike) -> Checkpoint:
    """Read a checkpoint whose every file is as it was written.

    Args: folder - as written by `write_checkpoint`.
    Raises CheckpointError naming the file that is missing, truncated or changed; OSError for one that may be whole but
    cannot be read now: no permission, an error of the disk.
    """
    folder = Path(folder)
    state = read_state(folder)
    groups = {}
    for file_name, entry in state["files"].items():
        name, suffix = os.path.splitext(file_name)
        if suffix != ".safetensors" or not _GROUP.fullmatch(name):
            raise CheckpointError(f"{folder / STATE_FILE} lists a file that no checkpoint has: {file_name!r:.200}")
        if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int):
            raise CheckpointError(f"{folder / STATE_FILE} does not say how many bytes {file_name} holds")
        groups[name] = _read_group(folder / file_name, entry)
    return Checkpoint(folder, state, groups)


def list_checkpoints(root: PathLike) -> list[Path]:
    """Checkpoint folders directly under `root`, oldest step first."""
    root = Path(root)
    if not root.is_dir():
        return []
    found = [(int(match[1]), path) for path in root.iterdir() if (match := _FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def read_newest(root: PathLike) -> Checkpoint:
    """The newest whole checkpoint under `root`; a damaged one is named in a warning and passed over.

    Raises CheckpointError when there is none, OSError as `read_checkpoint`: whether to go back behind what may be whole
    is for the user to decide.
    """
    tried = list_checkpoints(root)
    for folder in reversed(tried):
        try:
            return read_checkpoint(folder)
        except CheckpointError as error:
            log.warning("%s; trying the checkpoint before it", error)
    raise CheckpointError(f"no {'whole ' if tried else ''}checkpoint under {root}")


def holds_nothing_else(folder: PathLike) -> bool:
    """Whether a folder is a checkpoint, and no file in it is another's: what may be deleted without asking."""
    try:
        named = {STATE_FILE, *LITTER, *read_state(folder)["files"]}
    except (CheckpointError, OSError):
        return False
    return all(path.name in named and _is_ours(path) for path in Path(folder).iterdir())


def remove_checkpoint(folder: PathLike) -> None:
    """Delete a checkpoint folder. It loses its name first, so that a crash leaves no torn checkpoint behind.

    Of one that is a link, as to another disk, the link goes; what it points to is not ours to delete.
    """
    _delete(_take_name(Path(folder)))


def remove_leftovers(root: PathLike) -> None:
    """Delete what a killed process left half written or half deleted under `root`. The caller owns the run.

    A leftover has a name that `write_checkpoint` gives and holds only files that a checkpoint has.
    """
    root = Path(root)
    for path in root.iterdir() if root.is_dir() else ():
        if not _LEFTOVER.fullmatch(path.name):
            continue
        if path.is_symlink():  # to a checkpoint elsewhere, half removed
            path.unlink()
        elif _may_be_replaced(path):
            shutil.rmtree(path, ignore_errors=True)


def _may_be_replaced(folder: Path) -> bool:
    """Whether all that is there is a link, or a folder of a checkpoint's files, whole or not."""
    return folder.is_symlink() or (folder.is_dir() and all(map(_is_ours, folder.iterdir())))


def _is_ours(path: Path) -> bool:
    name, suffix = os.path.splitext(path.name)
    is_named = path.name in (STATE_FILE, *LITTER) or (suffix == ".safetensors" and _GROUP.fullmatch(name) is not None)
    return is_named and not path.is_symlink() and path.is_file()


def _take_name(folder: Path) -> Path:
    """Rename a checkpoint so that nothing lists it any more, and return where it is now."""
    return folder.rename(aside_name(folder, "old"))


def _delete(doomed: Path) -> None:
    if doomed.is_symlink():
        doomed.unlink()
    else:
        shutil.rmtree(doomed)


def _write_group(path: Path, tensors: Tensors) -> dict[str, Any]:
    # Not safetensors' save_file: it reports a full disk as its own error and makes files that only their owner reads.
    content = save_safetensors({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()})
    with open(path, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _read(path: Path, max_bytes: int) -> bytes:
    """The content of a file of a checkpoint. Raises CheckpointError for what is no such file, OSError naming it where
    the system does not let us read it."""
    try:
        return read_file(path, max_bytes, within=path.parent)
    except UnsafeFileError as error:  # a pipe or a device, which may have no end, or a larger file
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise CheckpointError(f"{path} is missing or not a file") from None
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _read_group(path: Path, entry: Mapping[str, Any]) -> Tensors:
    size = entry["bytes"]
    try:
        content = _read(path, size)
    except MemoryError:
        raise CheckpointError(f"{path} holds {size} bytes, more than there is memory for") from None
    if len(content) != size:
        raise CheckpointError(f"{path} holds {len(content)} bytes, expected {size}: it is truncated or changed")
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise CheckpointError(f"{path} was changed or damaged: its SHA-256 does not match")
    try:
        return load_safetensors(content)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not a safetensors file that numpy can hold: {error}") from None


def _write_state(path: Path, state: dict[str, Any]) -> None:
    state = json.loads(json.dumps(state, allow_nan=False))  # as it will be read: names are text, tuples are lists
    state = {**state, "checksum": _state_checksum(state)}
    with open(path, "wb") as stream:
        stream.write(json_bytes(state))
        stream.flush()
        os.fsync(stream.fileno())


def _state_checksum(state: Mapping[str, Any]) -> str:
    """SHA-256 of the state without its checksum, in one canonical spelling."""
    rest = {name: value for name, value in state.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
