"""A C++ exception that nobody catches, thrown in a thread of C++'s own: here `std::terminate` is called directly."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs GNU's C++ library")

PROGRAM = """
import ctypes, sys, threading, time
from dcgan.distributed.gloo import delay_abort
delay_abort({seconds})
threading.Thread(target=ctypes.CDLL("libstdc++.so.6")._ZSt9terminatev, daemon=True).start()
time.sleep({works})
print("process 1 ended unexpectedly", end="")
sys.exit(1)
"""


def run(seconds, works):
    program = PROGRAM.format(seconds=seconds, works=works)
    root = Path(__file__).resolve().parents[3]
    return subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=100)


def test_a_process_in_which_gloo_threw_ends_by_itself_with_its_own_words_and_exit_code():
    done = run(seconds=60, works=0.5)
    assert (done.returncode, done.stdout) == (1, "process 1 ended unexpectedly"), done.stderr


def test_a_process_that_does_not_end_by_itself_is_aborted_as_without_us():
    done = run(seconds=0.1, works=60)
    assert done.returncode == -signal.SIGABRT and "terminate called" in done.stderr
