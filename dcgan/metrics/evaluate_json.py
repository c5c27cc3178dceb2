"""How a report is read back, and which figures may stand side by side: those of one protocol, and no others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.files import PathLike
from deploy.untrusted import MAX_JSON_BYTES, is_finite_number, read_file

from ..errors import EvaluationError
from .names import with_current_names

FILE_NAME = "evaluate.json"
START = rb'\A\{\s*"figures": \{.*"protocol": \{'  # a regular expression: how such a file begins, see own_files.py


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What two protocols do not share, one line each: `n: 5000, 500`. Empty if their figures may be compared."""
    pair = [flat(protocol) for protocol in (first, second)]
    names = [*pair[0], *(name for name in pair[1] if name not in pair[0])]
    return [
        f"{name}: {pair[0].get(name)}, {pair[1].get(name)}" for name in names if pair[0].get(name) != pair[1].get(name)
    ]


def compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, float]:
    """Change of each figure that two reports share: now minus before. Raises EvaluationError if protocols differ."""
    found = differences(before["protocol"], now["protocol"])
    if found:
        raise EvaluationError(
            f"not compared: the figures were measured in different ways ({'; '.join(found)}). Measure both alike."
        )
    shared = [name for name in now["figures"] if name in before["figures"]]
    return {name: now["figures"][name] - before["figures"][name] for name in shared}


def read_report(path: PathLike) -> dict[str, Any]:
    """The report in an `evaluate.json`, or in the folder that holds one. Raises EvaluationError, FileNotFoundError."""
    path = Path(path)
    run = path if path.is_dir() else None
    path = path / FILE_NAME if run else path
    try:
        report = json.loads(read_file(path, MAX_JSON_BYTES, within=run))
    except FileNotFoundError:
        raise FileNotFoundError(f"no report at {path}: give an evaluate.json or the folder that holds one") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path} is not JSON: {error}") from None
    parts = [report.get(name) for name in ("figures", "protocol")] if isinstance(report, dict) else []
    if len(parts) != 2 or not all(isinstance(part, dict) for part in parts) or not _are_numbers(parts[0]):
        raise EvaluationError(f"{path} is not a report of this tool: expected an object with figures and protocol")
    report["figures"] = with_current_names(report["figures"])
    if "meter" in report["protocol"]:  # as it was called at first
        report["protocol"]["version"] = report["protocol"].pop("meter")
    return report


def _are_numbers(figures: Mapping[str, Any]) -> bool:
    return all(map(is_finite_number, figures.values()))


def flat(values: Mapping[str, Any], prefix: str = "", depth: int = 6) -> dict[str, Any]:
    """Nested objects as one, the names joined by dots: {"a.b": 1} from {"a": {"b": 1}}."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and depth
        result.update(flat(value, f"{prefix}{name}.", depth - 1) if nested else {f"{prefix}{name}": value})
    return result
