"""A line of the doctor's report, and how a check that raises becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

OK, WRONG, NOT_APPLICABLE = "ok", "wrong", "not applicable"


class Line(NamedTuple):
    """What was looked at, the verdict (ok, wrong or not applicable), what was found, and figures for --json."""

    name: str
    verdict: str
    text: str
    figures: dict[str, Any] = {}


class Request(NamedTuple):
    """What the user asks for: the flags of the same names of tools/train.py, and the folder that runs go to."""

    device: str = "auto"
    amp: str = "auto"
    cpu_kernels: str = "auto"
    work: str = "work"


Check = Callable[[Request], Iterable[Line]]


def collect(name: str, check: Check, request: Request) -> list[Line]:
    """The lines of a check. One that raises is itself a line: the report goes on, and says so."""
    try:
        return list(check(request))
    except Exception as error:  # whatever is broken here is what a doctor is called for; the exit code is 1
        return [Line(name, WRONG, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")]
