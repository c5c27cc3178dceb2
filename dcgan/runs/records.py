"""The records in a run's `metrics.jsonl`, read and written without Paddle."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

from deploy.files import PathLike
from deploy.untrusted import is_file, read_file

from ..metrics.names import with_current_names

Record = dict[str, Any]

MAX_BYTES, MAX_RECORDS = 1 << 28, 1_000_000  # of a metrics.jsonl: some 6 million iterations with --log-every 10
_MAX_LINE = 1 << 20


def read_records(path: PathLike) -> list[Record]:
    """The records in a `metrics.jsonl`; lines that are none, as a killed process leaves one, are passed over.

    Raises OSError for what cannot be read: more than MAX_BYTES, or a link out of the folder of `path`.
    """
    path = Path(path)
    if not is_file(path):
        return []
    content = read_file(path, MAX_BYTES, within=path.parent)
    lines = (line for line in content.split(b"\n") if len(line) <= _MAX_LINE)
    found = (record for record in map(_record, lines) if record is not None)
    return list(itertools.islice(found, MAX_RECORDS))


def is_of_training(record: Record) -> bool:
    """Whether training wrote it, and not tools/evaluate.py, which adds its reports to the file."""
    return "evaluate" not in record


def append_record(path: PathLike, record: Record) -> None:
    """Add a line to a `metrics.jsonl`; numbers that are not finite become null, which is JSON."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    line = json.dumps(finite, allow_nan=False).encode() + b"\n"
    # O_NOFOLLOW: of another person's run, the file may be a link to one of yours
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666), "r+b", buffering=0) as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - 1))  # O_APPEND writes at the end all the same
        if end and stream.read(1) != b"\n":  # half a line, of a process that was killed
            line = b"\n" + line
        stream.write(line)  # in one call: two processes that append do not mix their lines


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return with_current_names(record)
