"""Scalars and sample grids for VisualDL, PaddlePaddle's dashboard. An optional package."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
from pathlib import Path

import cv2
from paddle.callbacks import Callback

from deploy.files import PathLike, make_own_folder, refuse_link

from ..checkpoints.checkpoint import folder_name
from ..errors import ProjectError
from ..runs.records import Record

FOLDER = "visualdl"


def check_installed() -> None:
    """Raise ProjectError if the visualdl package is missing."""
    if importlib.util.find_spec("visualdl") is None:
        raise ProjectError("--visualdl needs a package that is not installed. Run: pip install visualdl")


class VisualDLWriter(Callback):
    """Writes `visualdl/` in a run folder: `visualdl --logdir work/train` shows it beside other runs.

    `scalars` takes the records of metrics.jsonl. As a callback it adds the training images and, every `every`
    iterations and at the end, the grid that SampleGrid has just written. A resumed run appends.
    """

    def __init__(self, every: int, last_step: int, run: PathLike):
        super().__init__()
        from visualdl import LogWriter  # a second to import

        self._every, self._last_step, self._run = every, last_step, Path(run)
        folder = (self._run / FOLDER).absolute()  # VisualDL joins a relative file name to the folder once more
        path = folder / "vdlrecords.training.log"  # one for all sessions: VisualDL shows only the newest of several
        make_own_folder(folder)
        refuse_link(path)
        with contextlib.redirect_stdout(sys.stderr):  # it says when it appends
            self._writer = LogWriter(str(folder), file_name=str(path))

    def scalars(self, record: Record) -> None:
        """Take one record: its finite numbers become `train/<name>`, as Paddle's own callback calls them."""
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(f"train/{name}", value, record["step"])

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.model.global_step == 0:
            self._add_image("training_images", self._run / "real.png")
            self._add_grid()

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step % self._every == 0 or self.model.global_step == self._last_step:
            self._add_grid()

    def on_train_end(self, logs: dict | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Write everything to the disk."""
        self._writer.close()

    def _add_grid(self) -> None:
        self._add_image("samples", self._run / "samples" / f"{folder_name(self.model.global_step)}.png")

    def _add_image(self, tag: str, path: Path) -> None:
        self._writer.add_image(tag, cv2.imread(str(path))[:, :, ::-1], self.model.global_step)
