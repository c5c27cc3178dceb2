"""The records in a run's `metrics.jsonl`, read and written without Paddle."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..files import PathLike
from ..metrics.names import with_current_names

Record = dict[str, Any]


def read_records(path: PathLike) -> list[Record]:
    """The records in a `metrics.jsonl`; lines that are none, as a killed process leaves one, are passed over."""
    path = Path(path)
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", errors="replace", newline="\n") as lines:
        return [record for record in map(_record, lines) if record is not None]


def is_of_training(record: Record) -> bool:
    """Whether training wrote it, and not tools/evaluate.py, which adds its reports to the file."""
    return "evaluate" not in record


def append_record(path: PathLike, record: Record) -> None:
    """Add a line to a `metrics.jsonl`; numbers that are not finite become null, which is JSON."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(finite, allow_nan=False) + "\n")


def _record(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return with_current_names(record)
