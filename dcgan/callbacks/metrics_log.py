"""The records of a run: one read of the device per log step, and `metrics.jsonl`.

Callbacks act through public members of the model. Numbers are read from the device by `Recorder`, on log steps only;
images by `SampleGrid` and `QualityCallback`, on theirs. Where several processes train, those that compute together,
and say so, belong to each of them; rank 0 alone writes files (see dcgan.distributed).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from paddle.callbacks import Callback

from deploy.files import PathLike, atomic_write, make_folders
from deploy.untrusted import is_finite_number

from ..runs.records import Record, append_record, is_of_training, read_records
from ..training.hapi import read_scalars

Sink = Callable[[Record], None]


class Recorder(Callback):
    """Every `every` iterations: one read of the device, one record, handed to each sink in turn.

    A record holds step, epoch (counted from 1), loss_d, loss_g, score_real = mean D(x), score_fake = mean D(G(z)),
    gradient norms of both networks, images per second, elapsed and remaining seconds, and what `measures`, functions
    by name, return. Several processes make it together: losses and scores are means over them, images their sum.
    """

    def __init__(
        self, every: int, last_step: int, sinks: Iterable[Sink], measures: Mapping[str, Callable[[], Any]] | None = None
    ):
        super().__init__()
        self._every, self._last_step, self._sinks, self._measures = every, last_step, list(sinks), measures or {}
        self._images, self._since = 0, time.monotonic()
        self._started, self._first_step = self._since, 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._since = self._started = time.monotonic()
        self._first_step = self.model.global_step

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        self._images += (logs or {}).get("batch_size", 0) * self.model.process_group.size
        if self.model.global_step % self._every == 0 or self.model.global_step == self._last_step:
            record = self._record()
            for sink in self._sinks:
                sink(record)

    def _record(self) -> Record:
        model = self.model
        norms = {f"gradient_norm_{name[0]}": norm for name, norm in model.gradient_norms().items()}
        # The device is waited for here, nowhere else.
        values: dict[str, float | None] = {**read_scalars({**model.scalars, **norms}, model.process_group)}
        if model.precision.needs_scaler:  # a step whose gradients overflowed was skipped, and the scale is lower now
            values.update({name: None for name in norms if not math.isfinite(values[name])})
        now = time.monotonic()
        done = model.global_step - self._first_step
        record = {
            "step": model.global_step,
            "epoch": epoch_number(model),
            **{name: values[name] for name in sorted(values)},
            **{name: measure() for name, measure in self._measures.items()},
            "images_per_second": round(self._images / max(now - self._since, 1e-9), 1),
            "elapsed_seconds": round(now - self._started, 1),
            "remaining_seconds": round((now - self._started) / done * (self._last_step - model.global_step), 1),
        }
        self._images, self._since = 0, now
        return record


def epoch_number(model: Any) -> int:
    """The epoch, counted from 1, of the model's last iteration: after an epoch's last one, `epoch` has moved on."""
    return model.epoch + (model.epoch_step > 0)


def _is_complete(record: Record) -> bool:
    """Whether it has what the callbacks read of every record; another program may have written into the file."""
    numbers = [record.get(name, "") for name in ("loss_d", "loss_g", "score_real", "score_fake")]
    are_numbers = all(n is None or is_finite_number(n) for n in numbers)
    return are_numbers and record["step"] >= 0 and isinstance(record.get("state", "OK"), str)


class History:
    """A sink: the records of a run in memory and, one JSON object a line, in `metrics.jsonl`.

    Starting at a step forgets the records after it: they belong to iterations that will be done again. The reports that
    tools/evaluate.py adds to the file stay in it, but are no records of training.
    """

    def __init__(self, path: PathLike, step: int = 0):
        self._path = Path(path)
        found = [r for r in read_records(path) if r["step"] <= step]
        self.records: list[Record] = [r for r in found if is_of_training(r) and _is_complete(r)]
        make_folders(self._path.parent)
        with atomic_write(self._path, "w") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in found)

    def __call__(self, record: Record) -> None:
        self.records.append(record)
        append_record(self._path, record)
