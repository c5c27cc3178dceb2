"""gloo, which moves tensors between CPUs, and its one fault that Python cannot catch.

A neighbour that dies makes gloo raise in the thread that called it: a RuntimeError. But where gloo's own thread answers
the neighbour's request just then, it throws there (tcp/pair.cc, sendAsyncMode; Paddle 3.2.2), nobody can catch it, and
C++ aborts the process: a core file, and no line that says who has died.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import time
from typing import Any

_kept: list[Any] = []  # C++ holds bare pointers to what is in here


def delay_abort(seconds: float) -> None:
    """Make a C++ exception that nobody catches abort this process `seconds` later, so that it can end by itself first.

    The thread that threw waits; the others go on. Does nothing without GNU's C++ library, which Paddle has on Linux.
    """
    try:
        set_terminate = ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE
    except (OSError, AttributeError):
        return
    handler = ctypes.CFUNCTYPE(None)
    set_terminate.argtypes, set_terminate.restype = [handler], handler

    def wait() -> None:
        atexit.register(_leave)
        time.sleep(seconds)
        abort()

    waiting = handler(wait)
    abort = set_terminate(waiting)
    _kept[:] = [waiting, abort]


def _leave() -> None:
    """End the process without C++'s own clearing up, which crashes while a thread of gloo waits inside it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
