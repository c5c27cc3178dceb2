"""Which runs there are, and which checkpoint a path means: `--resume PATH` and `--checkpoint PATH`."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from deploy.files import PathLike

from ..checkpoints import checkpoint
from ..errors import CheckpointError

log = logging.getLogger(__name__)


def run_number(name: str) -> int:
    """The number of the run called `name`: 7 of "00007-cartoon"; -1 of a name that is no run's."""
    found = re.match(r"([0-9]{5,15})-", name)
    return int(found[1]) if found else -1


def run_folders(root: PathLike) -> list[Path]:
    """Run folders under `root`, oldest first."""
    root = Path(root)
    if not root.is_dir():
        return []
    runs = [path for path in root.iterdir() if path.is_dir() and run_number(path.name) >= 0]
    return sorted(runs, key=lambda path: (run_number(path.name), path.name))


def find_checkpoint(path: PathLike) -> checkpoint.Checkpoint:
    """The checkpoint that `--resume PATH` means: that folder, or the newest whole one of that run or of the newest run.

    Args: path - a checkpoint folder, a folder of checkpoints, a run folder, or a folder of numbered runs.
    Raises CheckpointError.
    """
    found = _find(Path(path))
    # From inside a run, `checkpoints/step-00000500` has no parents that name the run and the folder of runs.
    folder = found.folder
    if len(folder.parts) >= 3 and ".." not in folder.parts:
        return found
    is_name = folder.name not in ("", "..")  # a checkpoint that is a link keeps its own name
    whole = Path(os.path.realpath(folder.parent), folder.name) if is_name else Path(os.path.realpath(folder))
    return found._replace(folder=whole)


def _find(path: Path) -> checkpoint.Checkpoint:
    if (path / checkpoint.STATE_FILE).is_file():
        return checkpoint.read_checkpoint(path)
    if (path / "checkpoints").is_dir():
        return checkpoint.read_newest(path / "checkpoints")
    if checkpoint.list_checkpoints(path):
        return checkpoint.read_newest(path)
    for run in reversed(run_folders(path)):
        if checkpoint.list_checkpoints(run / "checkpoints"):
            return checkpoint.read_newest(run / "checkpoints")
        log.warning("%s has saved no checkpoint; looking at the run before it", run)
    raise CheckpointError(
        f"no checkpoint found at {path.absolute()}: expected a checkpoint folder, the folder of a run that has saved "
        "one, or a folder of such runs"
    )
