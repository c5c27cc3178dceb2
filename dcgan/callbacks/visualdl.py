"""Scalars, sample grids and the networks' graphs for VisualDL, PaddlePaddle's dashboard. An optional package."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import paddle
from paddle.callbacks import Callback
from paddle.pir_utils import _switch_to_old_ir_, _switch_to_pir_

from ..checkpoints.checkpoint import folder_name
from ..errors import ProjectError
from ..files import PathLike
from ..runs.records import Record

FOLDER = "visualdl"


def check_installed() -> None:
    """Raise ProjectError if the visualdl package is missing."""
    if importlib.util.find_spec("visualdl") is None:
        raise ProjectError("--visualdl needs a package that is not installed. Run: pip install visualdl")


class Dashboard(Callback):
    """Writes `visualdl/` in a run folder: `visualdl --logdir work/train` shows it beside other runs.

    A sink, by `scalars`, and a callback: the grids that SampleGrid has just drawn every `every` iterations and at the
    end, the training images, and once the graph of both networks (half a second each). A resumed run appends.
    """

    def __init__(self, every: int, last_step: int, run: PathLike):
        super().__init__()
        from visualdl import LogWriter  # a second to import

        self._every, self._last_step, self._run = every, last_step, Path(run)
        self._folder = (self._run / FOLDER).absolute()  # VisualDL joins a relative file name to the folder once more
        with contextlib.redirect_stdout(sys.stderr):  # it says when it appends
            # One file for all sessions: VisualDL shows only the newest of several.
            self._writer = LogWriter(str(self._folder), file_name=str(self._folder / "vdlrecords.training.log"))
        self._graph_writer = LogWriter

    def scalars(self, record: Record) -> None:
        """Take one record: its finite numbers become `train/<name>`, as Paddle's own callback calls them."""
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(f"train/{name}", value, record["step"])

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.model.global_step == 0:
            self._add_image("training_images", self._run / "real.png")
            self._add_grid()
        for name, spec in (("generator", self.model.latent_spec), ("discriminator", self.model.image_spec)):
            folder = self._folder / name
            if not any(folder.glob("vdlgraph.*")):
                self._add_graph(getattr(self.model, name), spec, folder)

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step % self._every == 0 or self.model.global_step == self._last_step:
            self._add_grid()

    def on_train_end(self, logs: dict | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Everything to the disk."""
        self._writer.close()

    def _add_grid(self) -> None:
        self._add_image("faces", self._run / "samples" / f"{folder_name(self.model.global_step)}.png")

    def _add_image(self, tag: str, path: Path) -> None:
        image = cv2.imread(str(path))
        self._writer.add_image(tag, image[:, :, ::-1], self.model.global_step)

    def _add_graph(self, network: paddle.nn.Layer, spec: Any, folder: Path) -> None:
        duplicate = copy.deepcopy(network)  # VisualDL hooks and compiles what it is given
        duplicate.eval()
        with _old_programs(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self._graph_writer(str(folder)) as writer:
                writer.add_graph(duplicate, [spec])


@contextlib.contextmanager
def _old_programs() -> Iterator[None]:
    """Inside the block Paddle saves programs in its format of before 3.0, the only one that VisualDL 2.5.3 reads.

    paddle.pir_utils.OldIrGuard would also leave dynamic mode, where nothing can be traced.
    """
    flag = "FLAGS_enable_pir_api"
    before = paddle.get_flags(flag)
    paddle.set_flags({flag: False})
    _switch_to_old_ir_()
    try:
        yield
    finally:
        paddle.set_flags(before)
        _switch_to_pir_()
