"""Loss curves as a PNG file, and the HTML report, while the run trains."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from paddle.callbacks import Callback

from deploy.files import PathLike, atomic_write

from ..runs.records import Record
from ..runs.report import REPORT_FILE, write_report
from .periodic import PeriodicSaver


class LossPlot(PeriodicSaver):
    """`loss.png`: losses and scores over the iterations, written at each sample step and at the end."""

    def __init__(self, every: int, records: Sequence[Record], path: PathLike):
        super().__init__(every)
        self._records, self._path = records, Path(path)

    def save(self) -> None:
        plot_losses(self._records, self._path)


@contextlib.contextmanager
def matplotlib_defaults() -> Iterator[tuple[Any, Any]]:
    """Figure and its canvas, within matplotlib's own defaults: a matplotlibrc may ask for LaTeX, which may be missing.

    Half a second to import, so not before it is needed. Nothing is shown on a screen: a MPLBACKEND that does not
    exist, which makes the import itself fail, is no matter.
    """
    before = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    finally:
        if before is not None:
            os.environ["MPLBACKEND"] = before
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield Figure, FigureCanvasAgg


def plot_losses(records: Sequence[Record], path: PathLike) -> None:
    """Plot the losses of both networks above the scores of real and generated images, as PNG of 900 x 600."""
    records = records[:: math.ceil(len(records) / 2000)] if records else []  # more points than pixels cost time only
    if not records:
        return
    # A figure and its parts refer to each other. Python collects such circles rarely beside the many objects of Paddle:
    # memory grew by some 3 MB a plot. Only what is new is looked through; all of it would take longer than the plot.
    gc.freeze()
    try:
        with matplotlib_defaults() as classes:
            _write_plot(*classes, records, path)
    finally:
        gc.collect()
        gc.unfreeze()


def _write_plot(figure_class: Any, canvas_class: Any, records: Sequence[Record], path: PathLike) -> None:
    steps = [record["step"] for record in records]
    figure = figure_class(figsize=(9, 6), layout="constrained")
    canvas_class(figure)
    losses, scores = figure.subplots(2, 1, sharex=True)
    for axis, names in (
        (losses, {"loss_d": "discriminator", "loss_g": "generator"}),
        (scores, {"score_real": "D(x), real images", "score_fake": "D(G(z)), generated"}),
    ):
        for name, label in names.items():
            axis.plot(steps, [math.nan if r[name] is None else r[name] for r in records], label=label, linewidth=1)
        axis.grid(alpha=0.3)
        axis.legend(loc="best")
    losses.set(title="Losses of discriminator and generator", ylabel="loss")
    scores.set(ylabel="probability of being real", xlabel="iteration", ylim=(-0.02, 1.02))
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=100)


class ReportWriter(Callback):
    """`report.html`, written at the start, at sample steps and at the end.

    A sample step is skipped while writing would take more than a fiftieth of the time: with 40 grids of 64 x 64
    faces it takes about a tenth of a second, most of it for the newest grid and the disk.
    """

    SHARE = 1 / 50

    def __init__(
        self, every: int, folder: PathLike, records: Sequence[Record], clock: Callable[[], float] = time.monotonic
    ):
        super().__init__()
        self._every, self._folder, self._records, self._clock = every, Path(folder), records, clock
        self._next = -math.inf
        self._called_at: dict[int, Callable[[Path], None]] = {}

    def call_at(self, step: int, show: Callable[[Path], None]) -> None:
        """Write the report at iteration `step` too, and call `show` once with its path."""
        self._called_at[step] = show

    def on_train_begin(self, logs: dict | None = None) -> None:
        write_report(self._folder, self._records)  # the page can be opened from the start, and reloaded

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        show = self._called_at.pop(self.model.global_step, None)
        if show or (self.model.global_step % self._every == 0 and self._clock() >= self._next):
            self.write()
        if show:
            show(self._folder / REPORT_FILE)

    def on_train_end(self, logs: dict | None = None) -> None:
        self.write()

    def write(self) -> None:
        """Write the report now."""
        started = self._clock()
        write_report(self._folder, self._records)
        now = self._clock()
        self._next = now + (now - started) / self.SHARE
