"""Ctrl-C at any moment ends a program with 130 and at most one line. Standard library only, and little of that.

Python raises KeyboardInterrupt wherever it happens to be. While modules are imported that is a traceback of theirs, or
"ImportError: initialization failed" where C code was called; and the first second of a tool is imports.
"""

from __future__ import annotations

import _signal as signal  # `signal` itself imports enum and more: milliseconds in which Ctrl-C is a traceback
import os

TYPE_CHECKING = False  # as typing has it
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 128 + signal.SIGINT


def exit_at_once() -> None:
    """From here on Ctrl-C ends the process without a word: nothing has been begun. Call this before what takes time
    to import. A caller that has Ctrl-C ignored, as `nohup` and `&` in a script do, keeps it so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_outside_imports() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, which work can clean up after; but not in the middle of an import.

    Does nothing without `exit_at_once` before: in a library the handler is the caller's.
    """
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, _raise)


def ignore_hangups() -> None:
    """From here on SIGHUP is passed over until somebody handles it: who asks a server that is just starting to load its
    model again gets what is being loaded."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)  # not sys.exit: an exception in an import may be swallowed by C code or become another one


def _raise(number: int, frame: FrameType | None) -> None:
    inner = frame
    while inner is not None:
        if inner.f_code.co_filename.startswith("<frozen importlib"):
            _exit(number, frame)
        inner = inner.f_back
    raise KeyboardInterrupt
