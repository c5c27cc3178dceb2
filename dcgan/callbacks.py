"""What watches a run: log lines, sample grids, checkpoints, the watchdog. One small class each.

Callbacks act through public members of the model. Numbers are read from the device by `Recorder`, on log steps only;
pictures by `SampleGrid` and `QualityMeter`, on theirs. Where several processes train, those that compute together,
and say so, belong to each of them; files are the writer's business (see dcgan.distributed).
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from paddle.callbacks import Callback, ProgBarLogger

from .checkpoint import folder_name, list_checkpoints, read_state, remove_checkpoint
from .data.packed import PackedData
from .distributed import ALONE, World
from .engine import read_scalars, tensors_of
from .errors import CheckpointError, CollapseError, TrainingError
from .evaluate import mean_similarity, sliced_wasserstein
from .evaluate.meter import crop_of, protocol, protocol_label
from .files import PathLike, atomic_write
from .images import grid, side_by_side, to_uint8, with_title, write_png
from .params import write_params
from .records import Record, append_record, is_of_training, read_records
from .report import write_report

log = logging.getLogger(__name__)

Sink = Callable[[Record], None]
GRID_SEEDS = range(100)


class NoProgressBar(ProgBarLogger):
    """Takes the place of hapi's own progress bar, which knows neither resumed runs nor two networks."""

    def _nothing(self, *args: Any) -> None:
        """Prints nothing."""

    on_train_begin = on_epoch_begin = on_train_batch_begin = on_train_batch_end = on_epoch_end = _nothing


class StopAt(Callback):
    """Ends training after iteration number `step`, counted over all sessions of the run."""

    def __init__(self, step: int):
        super().__init__()
        self._step = step

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step >= self._step:
            self.model.stop_training = True


class Recorder(Callback):
    """Every `every` iterations: one read of the device, one record, handed to each sink in turn.

    A record holds step, epoch (counted from 1), loss_d, loss_g, score_real = mean D(x), score_fake = mean D(G(z)),
    gradient norms of both networks, pictures per second, elapsed and remaining seconds, and what `measures`, functions
    by name, return. Several processes make it together: losses and scores are means over them, pictures their sum.
    """

    def __init__(
        self, every: int, last_step: int, sinks: Iterable[Sink], measures: Mapping[str, Callable[[], Any]] | None = None
    ):
        super().__init__()
        self._every, self._last_step, self._sinks, self._measures = every, last_step, list(sinks), measures or {}
        self._pictures, self._since = 0, time.monotonic()
        self._started, self._first_step = self._since, 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._since = self._started = time.monotonic()
        self._first_step = self.model.global_step

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        self._pictures += (logs or {}).get("batch_size", 0) * self.model.world.size
        if self.model.global_step % self._every == 0 or self.model.global_step == self._last_step:
            record = self._record()
            for sink in self._sinks:
                sink(record)

    def _record(self) -> Record:
        model = self.model
        norms = {f"gradient_norm_{name[0]}": norm for name, norm in model.gradient_norms().items()}
        values = read_scalars({**model.scalars, **norms}, model.world)  # the device is waited for here, nowhere else
        now = time.monotonic()
        done = model.global_step - self._first_step
        record = {
            "step": model.global_step,
            "epoch": epoch_number(model),
            **{name: values[name] for name in sorted(values)},
            **{name: measure() for name, measure in self._measures.items()},
            "images_per_second": round(self._pictures / max(now - self._since, 1e-9), 1),
            "elapsed_seconds": round(now - self._started, 1),
            "remaining_seconds": round((now - self._started) / done * (self._last_step - model.global_step), 1),
        }
        self._pictures, self._since = 0, now
        return record


def epoch_number(model: Any) -> int:
    """The epoch, counted from 1, of the model's last iteration: after an epoch's last one, `epoch` has moved on."""
    return model.epoch + (model.epoch_step > 0)


class ProgressLine:
    """A sink: one line per record, rewritten in place on a terminal."""

    def __init__(self, epochs: int, last_step: int, stream: IO[str] | None = None):
        self._epochs, self._last_step = epochs, last_step
        self._stream = stream or sys.stderr
        self._rewrite = self._stream.isatty()

    def __call__(self, record: Record) -> None:
        line = (
            f"epoch {record['epoch']}/{self._epochs}  step {record['step']}/{self._last_step}"
            f"  loss D {record['loss_d']:.3f} G {record['loss_g']:.3f}"
            f"  D(x) {record['score_real']:.2f} D(G(z)) {record['score_fake']:.2f}"
            f"  {record['images_per_second']:.0f} pictures/s  ETA {_clock(record['remaining_seconds'])}"
        )
        if self._rewrite:
            columns = shutil.get_terminal_size().columns
            end = "\n" if record["step"] == self._last_step else ""
            self._stream.write("\r\x1b[K" + line[: columns - 1] + end)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


class History:
    """A sink: the records of a run in memory and, one JSON object a line, in `metrics.jsonl`.

    Starting at a step forgets the records after it: they belong to iterations that will be done again. The reports that
    tools/evaluate.py adds to the file stay in it, but are no records of training.
    """

    def __init__(self, path: PathLike, step: int = 0):
        self._path = Path(path)
        found = [r for r in read_records(path) if r["step"] <= step]
        self.records: list[Record] = list(filter(is_of_training, found))
        with atomic_write(self._path, "w") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in found)

    def __call__(self, record: Record) -> None:
        self.records.append(record)
        append_record(self._path, record)


class SampleGrid(Callback):
    """Every `every` iterations, at the start and at the end: the 10x10 grid of the same 100 seeds, in eval mode.

    `spread` is the standard deviation over the pictures, averaged over the pixels, in units of [-1, 1]: near 0 when
    all seeds give one face. A resumed run hands over the value it had.
    Beside `folder`, `comparison.png` always shows the first training pictures next to the latest grid. Several
    processes draw it together.
    """

    def __init__(
        self, every: int, last_step: int, folder: PathLike, images_uint8: np.ndarray, spread: float | None = None
    ):
        super().__init__()
        self._every, self._last_step, self._folder = every, last_step, Path(folder)
        self._real = with_title(grid(np.asarray(images_uint8[: len(GRID_SEEDS)]), columns=10), "training pictures")
        self.spread = spread

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.model.global_step == 0:
            self.draw()

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step % self._every == 0 or self.model.global_step == self._last_step:
            self.draw()

    def draw(self) -> None:
        """Write `step-NNNNNNNN.png` now."""
        model = self.model
        pictures = model.generate_together(GRID_SEEDS)
        losses = {name: model.scalars[name] for name in ("loss_d", "loss_g") if name in model.scalars}
        losses = read_scalars(losses, model.world)
        if not model.world.is_writer:
            return
        # Not where a session happens to end: a resumed run must not differ. Nor of an untrained generator.
        if model.global_step and model.global_step % self._every == 0:
            self.spread = float(pictures.std(axis=0).mean())
        title = f"step {model.global_step}"
        if losses:
            epoch, batch = epoch_number(model), model.epoch_step or model.epoch_length
            title = f"Epoch {epoch} Batch {batch} - D loss {losses['loss_d']:.4f}, G loss {losses['loss_g']:.4f}"
        drawn = with_title(grid(to_uint8(pictures)), title)
        write_png(self._folder / f"{folder_name(model.global_step)}.png", drawn)
        write_png(self._folder.parent / "comparison.png", side_by_side(self._real, drawn))


class LossPlot(Callback):
    """`loss.png`: losses and scores over the iterations, drawn anew at each sample step and at the end."""

    def __init__(self, every: int, records: Sequence[Record], path: PathLike):
        super().__init__()
        self._every, self._records, self._path = every, records, Path(path)

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step % self._every == 0:
            plot_losses(self._records, self._path)

    def on_train_end(self, logs: dict | None = None) -> None:
        plot_losses(self._records, self._path)


def plot_losses(records: Sequence[Record], path: PathLike) -> None:
    """Draw the losses of both networks above what D says of real and generated pictures, as PNG of 900 x 600."""
    records = records[:: math.ceil(len(records) / 2000)] if records else []  # more points than pixels cost time only
    if not records:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second to import, so not before it is needed
    from matplotlib.figure import Figure

    steps = [record["step"] for record in records]
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(2, 1, sharex=True)
    for axis, names in (
        (losses, {"loss_d": "discriminator", "loss_g": "generator"}),
        (scores, {"score_real": "D(x), real pictures", "score_fake": "D(G(z)), generated"}),
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
    """`report.html`, written anew at sample steps and at the end.

    A sample step is passed over while writing would take more than a fiftieth of the time: with 40 grids of 64 x 64
    faces it takes about a tenth of a second, most of it for the newest grid and the disk.
    """

    SHARE = 1 / 50

    def __init__(
        self, every: int, folder: PathLike, records: Sequence[Record], clock: Callable[[], float] = time.monotonic
    ):
        super().__init__()
        self._every, self._folder, self._records, self._clock = every, Path(folder), records, clock
        self._next = -math.inf

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step % self._every == 0 and self._clock() >= self._next:
            self.write()

    def on_train_end(self, logs: dict | None = None) -> None:
        self.write()

    def write(self) -> None:
        """Write the report now."""
        started = self._clock()
        write_report(self._folder, self._records)
        now = self._clock()
        self._next = now + (now - started) / self.SHARE


class ParamsSaver(Callback):
    """The tutorial's `generator.params` after each epoch and at the end: the generator that draws."""

    def __init__(self, path: PathLike):
        super().__init__()
        self._path = Path(path)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        write_params(self._path, tensors_of(self.model.drawing_network()))


class QualityMeter(Callback):
    """Every `every` iterations: how good 500 pictures of fixed seeds are, against the first 500 training pictures.

    `figures` are the latest, None before the first: distance (see dcgan.evaluate.sliced_wasserstein; smaller is better)
    and similarity, of generated and of real pictures (see dcgan.evaluate.mean_similarity). `protocol` says in one word
    how they were measured. `state` is what a resumed run remembers: its figures count if they are of this protocol.
    Costs a second or two of a CPU each time. Several processes draw the pictures together; the writer measures.
    """

    COUNT = 500
    FIGURES = ("distance", "similarity", "similarity_real")

    def __init__(self, every: int, data: PackedData, state: Mapping[str, Any] | None = None):
        super().__init__()
        self._every = every
        self._real = np.asarray(data.images[: self.COUNT])
        used = protocol(len(self._real), self._real.shape[-1], crop_of(data), data.digest, "the first")
        self.protocol = protocol_label(used)
        known = state if state and state.get("meter") == self.protocol else {}
        self.figures: dict[str, float | None] = {name: known.get(name) for name in self.FIGURES}

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self._every and self.model.global_step % self._every == 0:
            fake = to_uint8(self.model.generate_together(range(len(self._real))))
            if not self.model.world.is_writer:
                return
            self.figures["distance"] = sliced_wasserstein(self._real, fake)["mean"]
            if len(fake) > 1:
                self.figures["similarity"] = mean_similarity(fake)
                self.figures["similarity_real"] = self.figures["similarity_real"] or mean_similarity(self._real)


class CheckpointSaver(Callback):
    """A checkpoint every `every` iterations and at the end.

    Kept are the newest `keep`, the newest whose run was healthy, and the best by the run's own measure (the smallest
    `distance` in its `extra`, of those measured as the newest was). Several processes first make sure together that
    they hold the same numbers; then one writes.
    """

    def __init__(self, every: int, folder: PathLike, keep: int, extra: Callable[[], Mapping[str, Any]]):
        super().__init__()
        self._every, self._folder, self._keep, self._extra = every, Path(folder), keep, extra
        self._saved_step = -1

    def on_train_begin(self, logs: dict | None = None) -> None:
        if (self._folder / folder_name(self.model.global_step)).is_dir():  # the one that was just loaded
            self._saved_step = self.model.global_step
        now, extras = self._extra().get("meter"), map(_extra_of, list_checkpoints(self._folder))
        others = {str(extra.get("meter")) for extra in extras if extra.get("distance") and extra.get("meter") != now}
        if others:
            log.warning(
                "Earlier checkpoints, measured by %s, are not compared with new ones: %s", ", ".join(others), now
            )

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step % self._every == 0:
            self.save()

    def on_train_end(self, logs: dict | None = None) -> None:
        self.save()

    def save(self) -> None:
        """Write a checkpoint of this moment, unless it is there, then delete those that are not to be kept."""
        model = self.model
        is_due = model.world.share(self._saved_step != model.global_step)  # the writer knows what was there
        if is_due:
            model.check_replicas()
        if not model.world.is_writer:
            return
        if is_due:
            model.save(self._folder / folder_name(model.global_step), extra=self._extra())
            self._saved_step = model.global_step
        saved = list_checkpoints(self._folder)
        kept = {*saved[-self._keep :], last_healthy(saved), best(saved)}
        for path in saved:
            if path not in kept:
                remove_checkpoint(path)


def last_healthy(checkpoints: Sequence[Path]) -> Path | None:
    """The newest checkpoint that was saved while the watchdog's state was OK."""
    return next((path for path in reversed(checkpoints) if _extra_of(path).get("state") == "OK"), None)


def best(checkpoints: Sequence[Path]) -> Path | None:
    """The checkpoint with the smallest distance to the training pictures; the earlier of two equals.

    Only those count whose distance was measured by the same protocol as that of the newest that has one.
    """
    extras = [(extra, path) for path in checkpoints if (extra := _extra_of(path)).get("distance")]
    alike = [(extra["distance"], path) for extra, path in extras if extra.get("meter") == extras[-1][0].get("meter")]
    return min(alike)[1] if alike else None


def _extra_of(checkpoint: Path) -> dict[str, Any]:
    try:
        return read_state(checkpoint)["extra"]
    except (CheckpointError, KeyError):
        return {}


class Watchdog:
    """A sink: says whether the run is healthy, from numbers that are read anyway.

    As the first sink it adds `state` (OK, WARN, COLLAPSED or NOT FINITE) and `reason` to the record; its `act`, as the
    last sink, then ends the training if it must, when the record has been written and shown. It remembers nothing
    beyond the records of the run, so a resumed run judges as the uninterrupted one.
    """

    COLLAPSED_SPREAD, WARN_SPREAD = 0.1, 0.3  # spread of the grid over the spread of the training pictures
    WARM_UP_STEPS = 200  # an untrained generator draws one grey picture for every seed
    WINNING_RECORDS = 20  # so many records in a row with D all but certain

    def __init__(self, real_spread: float, records: Sequence[Record], on_collapse: str = "warn", world: World = ALONE):
        self._real_spread, self._records, self._on_collapse = real_spread, records, on_collapse
        self._world = world

    def __call__(self, record: Record) -> None:
        record["state"], record["reason"] = self._world.share(self._judge(record))  # one judge: all stop, or none
        before = self._records[-1].get("state", "OK") if self._records else "OK"
        if record["state"] != before:
            reason = f": {record['reason']}" if record["reason"] else ""
            line_break = "\n" if sys.stderr.isatty() else ""  # do not write over the progress line
            log.warning("%sstep %d is %s%s", line_break, record["step"], record["state"], reason)

    def act(self, record: Record) -> None:
        """Raise TrainingError if a number is not finite, CollapseError if the run collapsed and is not to go on."""
        said = f"training stopped at step {record['step']}: {record['reason']}."
        if record["state"] == "NOT FINITE":
            raise TrainingError(said)
        if record["state"] == "COLLAPSED" and self._on_collapse != "warn":
            raise CollapseError(said)

    def _judge(self, record: Record) -> tuple[str, str]:
        wrong = [k for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)]
        if wrong:
            return "NOT FINITE", f"{', '.join(wrong)} is not a finite number"
        spread = record.get("spread")  # None: not measured yet
        share = 1.0 if spread is None or not self._real_spread else spread / self._real_spread
        if record["step"] >= self.WARM_UP_STEPS and share < self.WARN_SPREAD:
            state = "COLLAPSED" if share < self.COLLAPSED_SPREAD else "WARN"
            return state, f"100 seeds differ only {share:.0%} as much as the training pictures do"
        recent = [*self._records[1 - self.WINNING_RECORDS :], record]
        if len(recent) == self.WINNING_RECORDS and all(
            (r["score_real"] or 0) > 0.99 and (r["score_fake"] or 0) < 0.01 for r in recent
        ):
            return "WARN", "the discriminator tells every picture: the generator hardly learns"
        return "OK", ""


class SignalStop(Callback):
    """SIGINT and SIGTERM end training after the running iteration; a second one ends the process at once.

    The handlers stay until `restore`, which is to be called when everything is saved. Several processes stop after the
    same iteration, the first after any of them has heard a signal.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, world: World = ALONE) -> None:
        super().__init__()
        self._world = world
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._previous = {number: signal.signal(number, self._stop) for number in self.SIGNALS}

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self._world.size > 1:
            self.received = self._world.agree(self.received or 0) or None
            self.model.stop_training |= self.received is not None

    def restore(self) -> None:
        """Put back the handlers that were there before.

        Not where a launcher has stopped several processes: it repeats its signal, which would end one that is done
        while the writer still saves and counts on it.
        """
        stopped_by_launcher = self.received is not None and self._world.size > 1
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if stopped_by_launcher else handler)
        self._previous = {}

    def _stop(self, number: int, frame: Any) -> None:
        self.received = number
        if self._world.size > 1:  # the launcher says it three times within a second, and kills after 30 s
            return
        self.model.stop_training = True
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        print("\nfinishing this iteration, then saving; once more ends at once without saving", file=sys.stderr)


def spread_of(images_uint8: np.ndarray, count: int = 1000) -> float:
    """As SampleGrid's `spread`, of the first `count` pictures, uint8 [N, C, H, W]."""
    return float((np.asarray(images_uint8[:count], np.float32) / 127.5).std(axis=0).mean())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
