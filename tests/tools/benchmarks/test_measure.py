"""Rounds of cases, each in a process of its own: their order, their failures, and ratios within a round."""

import logging
import sys
import threading
import time

import pytest

from tools.benchmarks import measure
from tools.benchmarks.measure import Case, Skip, Timing


def noted(path, name):
    def run():
        with open(path, "a") as stream:
            stream.write(name)

    return run


def unwilling():
    raise Skip("not today")


def uninstalled():
    raise ModuleNotFoundError("No module named 'gone'", name="gone")


def crashing():
    import os

    os._exit(3)


def warning():
    logging.getLogger("somewhere").warning("it is late")
    return lambda: None


def test_every_case_runs_once_a_round_forwards_and_backwards_in_turn(tmp_path):
    path = tmp_path / "order"
    cases = [Case(name, noted, {"path": str(path), "name": name}, 1, warm_up=0) for name in "abc"]
    timings, skipped = measure.measure(cases, 3, lambda text: None)
    assert path.read_text() == "abccbaabc"
    assert [t.case.name for t in timings] == ["a", "b", "c"] and skipped == {}
    assert all(len(t.seconds) == len(t.cpu_seconds) == 3 for t in timings)


def test_a_round_makes_the_calls_that_its_case_asks_for_one_after_the_other_and_gives_the_time_of_one(tmp_path):
    path = str(tmp_path / "order")
    cases = [Case("a", noted, {"path": path, "name": "a"}, 1, 0, 3), Case("b", pausing, {}, 1, 0, 100)]
    timings, _ = measure.measure(cases, 2, lambda text: None)
    assert (tmp_path / "order").read_text() == "aaaaaa"
    assert all(0.002 <= seconds < 100 * 0.002 for seconds in timings[1].seconds)


def pausing():
    return lambda: time.sleep(0.002)


def spinning(path):
    """As onnxruntime's threads do, which wait for more work for a second."""

    def spin():
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        noted(path, "rests ")()

    return lambda: threading.Thread(target=spin).start()


def test_no_case_starts_while_threads_of_the_one_before_still_spin(tmp_path):
    path = str(tmp_path / "order")
    cases = [Case("a", spinning, {"path": path}, 1, 0), Case("b", noted, {"path": path, "name": "b "}, 1, 0)]
    measure.measure(cases, 1, lambda text: None)
    assert (tmp_path / "order").read_text() == "rests b "


def test_a_case_that_cannot_run_is_a_line_in_the_report(tmp_path):
    cases = [Case(f.__name__, f, {}, 1) for f in (unwilling, uninstalled, crashing, warning)]
    timings, skipped = measure.measure(cases, 1, lambda text: None)
    assert skipped == {
        "unwilling": "not today",
        "uninstalled": "gone is not installed",
        "crashing": "its process ended with exit code 3",
    }
    assert [t.notes for t in timings] == [["it is late"]]


def test_ratios_are_medians_of_what_happened_in_the_same_round():
    """A machine that becomes three times as slow in the middle moves the medians, and not the ratio."""
    base = Timing(Case("base", warning, {}, 100), [1.0, 1.0, 3.0, 3.0, 3.0], [1] * 5, [])
    other = Timing(Case("other", warning, {}, 200), [0.5, 0.5, 1.5, 1.5, 9.0], [1] * 5, [])
    assert other.ratio(base) == pytest.approx(2 * 2)  # half the time for twice the units
    assert other.row(base)["per_second"] == pytest.approx(200 / 1.5)


@pytest.mark.parametrize(("cases", "rounds"), [([], 1), ([Case("a", warning, {}, 1)], 0)])
def test_nothing_to_measure_is_refused(cases, rounds):
    with pytest.raises(ValueError, match="at least one round and one case"):
        measure.measure(cases, rounds, lambda text: None)


def test_a_command_that_fails_says_so():
    with pytest.raises(RuntimeError, match="exited with 1: SystemExit: no|exited with 1: no"):
        measure.shell([sys.executable, "-c", "raise SystemExit('no')"], {})
