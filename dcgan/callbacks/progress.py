"""The progress line on stderr."""

from __future__ import annotations

import shutil
import sys
from typing import IO

from ..runs.records import Record


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
            f"  {record['images_per_second']:.0f} images/s  ETA {_clock(record['remaining_seconds'])}"
        )
        if self._rewrite:
            columns = shutil.get_terminal_size().columns
            end = "\n" if record["step"] == self._last_step else ""
            self._stream.write("\r\x1b[K" + line[: columns - 1] + end)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
