"""The files of a run, and who may write them."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from deploy.files import Lock, LockedError, PathLike, make_folders, make_own_folder, remove_leftovers

from ..checkpoints import checkpoint
from ..errors import TrainingError
from .find_checkpoint import run_number


class RunFolder:
    """The files of one run. Holding its lock means owning it; the lock dies with the process that holds it."""

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self.samples, self.checkpoints = self.path / "samples", self.path / "checkpoints"
        self.metrics, self.loss_plot = self.path / "metrics.jsonl", self.path / "loss.png"
        self.params, self.real = self.path / "generator.params", self.path / "real.png"
        self.config = self.path / "config.json"
        self.lock = Lock(self.path / ".lock")

    @classmethod
    def create(cls, root: PathLike, data_name: str) -> RunFolder:
        """A new folder `00000-<data>` under `root`, its number one more than the largest there."""
        root = Path(root)
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "--out must be a folder, this is a file", str(root))
        make_folders(root)
        label = re.sub(r"[^\w.-]+", "-", data_name)[:40].strip("-.") or "data"  # a name is at most 255 bytes
        # Every numbered name counts, also that of a file or of a link to nothing: it is taken.
        number = 1 + max(map(run_number, os.listdir(root)), default=-1)
        while True:
            path = root / f"{number:05d}-{label}"
            try:
                path.mkdir()
            except FileExistsError:  # another process was faster
                number += 1
                continue
            return cls(path)

    def own(self) -> RunFolder:
        """Take the lock and clear away what a killed process left.

        Raises TrainingError if the run has an owner, OSError if one of its folders is a link.
        """
        try:
            self.lock.acquire()
        except LockedError:
            raise TrainingError(f"{self.path} is being trained by another process; wait for it or stop it") from None
        try:
            make_own_folder(self.samples)
            make_own_folder(self.checkpoints)
            checkpoint.remove_leftovers(self.checkpoints)
            remove_leftovers(self.path)
            remove_leftovers(self.samples)
        except BaseException:
            self.lock.release()
            raise
        return self
