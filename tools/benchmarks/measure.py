"""Rounds in which every case runs once, forwards and backwards in turn: what a busy machine slows, it slows for all.

Each case lives in a process of its own, so that no library's threads, memory or settings reach another's, and a case
that cannot run here is a line in the report instead of its end.
"""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Run = Callable[[], object]
STARTING_SECONDS = 600.0  # importing, building and warming up, on a busy machine
RESTING_SECONDS = 5.0  # at most, for a case's threads to stop waiting by spinning; onnxruntime's do after a second


class Case(NamedTuple):
    """Something to be timed: `factory(**arguments)` is called in the case's process and returns what a round calls.

    `units` - what one call gets done: images, or operations.  `warm_up` - calls before the first round.
    `calls` - of a round, one right after the other, where a single one is too short, or the first after a rest slower.
    """

    name: str
    factory: Callable[..., Run]
    arguments: dict[str, Any]
    units: float
    warm_up: int = 2
    calls: int = 1


class Timing(NamedTuple):
    """The rounds of one case: seconds of a call by the clock, its processor time over all threads, what was logged."""

    case: Case
    seconds: list[float]
    cpu_seconds: list[float]
    notes: list[str]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def per_second(self) -> float:
        """Units per second in the median round."""
        return self.case.units / self.median

    def ratio(self, base: Timing) -> float:
        """How many times as fast as `base`, for each unit: the median over the rounds of the ratio within a round."""
        ratios = [b / s for b, s in zip(base.seconds, self.seconds)]
        return statistics.median(ratios) * self.case.units / base.case.units

    def row(self, base: Timing) -> dict[str, Any]:
        """Plain values for a table or JSON."""
        return {
            "name": self.case.name,
            "median_seconds": self.median,
            "fastest_seconds": min(self.seconds),
            "median_cpu_seconds": statistics.median(self.cpu_seconds),
            "per_second": self.per_second,
            "ratio": self.ratio(base),
            "rounds": len(self.seconds),
            "notes": self.notes,
        }


class Skip(Exception):  # noqa: N818 - not an error: a reason why a case is not run
    """Raised by a factory: this case cannot run here, and why."""


def measure(cases: Sequence[Case], rounds: int, say: Callable[[str], object]) -> tuple[list[Timing], dict[str, str]]:
    """Timings of the cases that can run here, in their order, and the reasons of those that cannot, by name.

    `say` is told what happens. Raises ValueError if there is nothing to measure.
    """
    if rounds < 1 or not cases:
        raise ValueError(f"at least one round and one case are needed, received {rounds} and {len(cases)}")
    workers, skipped = [], {}
    try:
        for case in cases:  # one after the other: starting is work, too
            say(f"starting {case.name}")
            worker = _Worker(case)
            reason = worker.start()
            if reason:
                skipped[case.name] = reason
                worker.stop()
            else:
                workers.append(worker)
        for i in range(rounds):
            say(f"round {i + 1} of {rounds}")
            for worker in workers if i % 2 == 0 else reversed(workers):
                worker.round()
        return [Timing(w.case, w.seconds, w.cpu_seconds, w.notes) for w in workers], skipped
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that holds one case and runs it when told to."""

    def __init__(self, case: Case):
        self.case, self.notes = case, []
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        context = multiprocessing.get_context("spawn")  # forking a process that has threads is asking for a deadlock
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, case.factory, case.arguments, case.warm_up, case.calls)
        self._process = context.Process(target=_serve, args=arguments)
        self._process.start()
        theirs.close()

    def start(self) -> str:
        """Wait until the case is warm; returns why it cannot run, or ""."""
        try:
            if not self._pipe.poll(STARTING_SECONDS):
                return f"it was not ready after {STARTING_SECONDS:g} s"
            self.notes, reason = self._pipe.recv()
        except EOFError:
            self._process.join()
            return f"its process ended with exit code {self._process.exitcode}"
        return reason

    def round(self) -> None:
        self._pipe.send("run")
        seconds, cpu_seconds = self._pipe.recv()
        self.seconds.append(seconds)
        self.cpu_seconds.append(cpu_seconds)

    def stop(self) -> None:
        self._pipe.close()  # the process sees the end of its pipe
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Any, factory: Callable[..., Run], arguments: dict[str, Any], warm_up: int, calls: int) -> None:
    notes = _Notes()
    logging.getLogger().addHandler(notes)
    try:
        run = factory(**arguments)
        for _ in range(warm_up):
            run()
    except ModuleNotFoundError as error:
        pipe.send((notes.lines, f"{error.name} is not installed"))
        return
    except Skip as reason:
        pipe.send((notes.lines, str(reason)))
        return
    _rest()
    pipe.send((notes.lines, ""))
    while _told(pipe):
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(calls):
            run()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        _rest()
        pipe.send((seconds / calls, cpu_seconds / calls))


def _rest() -> None:
    """Wait until this process uses no processor time: its threads would take a core from the case that comes next."""
    deadline = time.monotonic() + RESTING_SECONDS
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before < 0.002:
            return


def _told(pipe: Any) -> bool:
    try:
        return pipe.recv() == "run"
    except EOFError:
        return False


class _Notes(logging.Handler):
    """What a case warns of belongs to its figures."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def shell(command: Sequence[str], environment: dict[str, str]) -> str:
    """Run a command and return what it printed. Raises RuntimeError with its last line if it fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"{' '.join(command[:3])} exited with {done.returncode}: {lines[-1] if lines else ''}")
    return done.stdout
