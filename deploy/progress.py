"""A progress line on stderr: rewritten in place on a terminal, a new line twice a minute in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Yield `items` and show how many of `total` were taken, how many a second, and how long the rest will take."""
    stream, start, done = sys.stderr, time.monotonic(), 0
    on_terminal = stream.isatty()
    wait, end = (0.2, "\r") if on_terminal else (30.0, "\n")
    shown = start
    try:
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - shown >= wait:
                shown = now
                stream.write(f"{_line(done, total, unit, now - start):<72}{end}")
                stream.flush()
    finally:
        if on_terminal and shown != start:
            stream.write(f"{'':<72}\r")
            stream.flush()


def _line(done: int, total: int, unit: str, elapsed_seconds: float) -> str:
    rate = done / elapsed_seconds
    left = int((total - done) / rate)
    clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
    return f"{done:,} of {total:,} {unit}, {rate:,.0f}/s, {clock} left"
