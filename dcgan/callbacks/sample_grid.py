"""The sample grid: the same 100 seeds again and again, and how much they differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from paddle.callbacks import Callback

from deploy.files import PathLike, make_folders

from ..checkpoints.checkpoint import folder_name
from ..images import grid, side_by_side, to_uint8, with_title, write_png
from ..training.hapi import read_scalars
from .metrics_log import epoch_number

GRID_SEEDS = range(100)
FIRST_STEPS = (25, 50)  # written whatever the interval: whether faces appear is seen within the first minute


class SampleGrid(Callback):
    """The 10x10 grid of the same 100 seeds, in eval mode: at the start, at `FIRST_STEPS`, every `every` iterations, and
    at the end or where training is stopped.

    `sample_std` is the standard deviation over the images, averaged over the pixels, in units of [-1, 1]: near 0 when
    all seeds give one face. A resumed run hands over the value it had.
    Beside `folder`, `comparison.png` always shows the first training images next to the latest grid. Several
    processes generate it together.
    """

    def __init__(
        self, every: int, last_step: int, folder: PathLike, images_uint8: np.ndarray, sample_std: float | None = None
    ):
        super().__init__()
        self._every, self._last_step, self._folder = every, last_step, Path(folder)
        self._real = with_title(grid(np.asarray(images_uint8[: len(GRID_SEEDS)]), columns=10), "training images")
        self.sample_std = sample_std
        self._written_step: int | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        make_folders(self._folder)  # once: a run whose folder is moved away ends, and makes no second one
        if self.model.global_step == 0:
            self.write()

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        done = self.model.global_step
        if done == next_sample_step(done - 1, self._every, self._last_step):
            self.write()

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._written_step != self.model.global_step:
            self.write()

    def write(self) -> None:
        """Write `step-NNNNNNNN.png` now."""
        model = self.model
        self._written_step = model.global_step
        images = model.generate_sharded(GRID_SEEDS)
        losses = {name: model.scalars[name] for name in ("loss_d", "loss_g") if name in model.scalars}
        losses = read_scalars(losses, model.process_group)
        if not model.process_group.is_rank_zero:
            return
        # Not where a session happens to end: a resumed run must not differ. Nor of an untrained generator.
        if model.global_step and model.global_step % self._every == 0:
            self.sample_std = float(images.std(axis=0).mean())
        title = f"step {model.global_step}"
        if losses:
            epoch, batch = epoch_number(model), model.epoch_step or model.epoch_length
            title = f"Epoch {epoch} Batch {batch} - D loss {losses['loss_d']:.4f}, G loss {losses['loss_g']:.4f}"
        titled = with_title(grid(to_uint8(images)), title)
        write_png(self._folder / f"{folder_name(model.global_step)}.png", titled)
        write_png(self._folder.parent / "comparison.png", side_by_side(self._real, titled))


def next_sample_step(done: int, every: int, last_step: int) -> int:
    """The first iteration after `done` ones at which a grid is written."""
    return min((done // every + 1) * every, *[step for step in (last_step, *FIRST_STEPS) if step > done])


def sample_std_of(images_uint8: np.ndarray, count: int = 1000) -> float:
    """As SampleGrid's `sample_std`, of the first `count` images, uint8 [N, C, H, W]."""
    return float((np.asarray(images_uint8[:count], np.float32) / 127.5).std(axis=0).mean())
