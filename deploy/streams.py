"""Standard input, output and error as every program expects them, whatever the caller closed, and what may be written
to a terminal. Standard library only."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys


def drop_stdout() -> None:
    """Where the reader of a pipe has left, `... | head`: what is still to be printed goes nowhere, and exiting does not
    fail over it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_standard_streams() -> None:
    """Open those of descriptors 0, 1 and 2 that are closed (`>&-`), on nothing, and let any file name be printed.

    The next file that a program opens gets the lowest free number: with stderr closed that is 2, and what a library in
    C prints there then lands in a data file. Python has None for such a stream. Call this before any file is opened.

    Messages that cannot be written later, because their reader has gone or their disk is full, are dropped: that is no
    reason to end hours of work. oneDNN, which prints a line for each operator to stdout if the environment says so,
    does not: there the results go.
    """
    for name in ("ONEDNN_VERBOSE", "DNNL_VERBOSE"):
        os.environ.pop(name, None)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115 - for good
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(_Messages()), sys.stderr.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a test or a notebook puts there
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8


class _Messages(io.RawIOBase):
    """Descriptor 2, which takes everything."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)

    def write(self, content: bytes) -> int:
        with contextlib.suppress(OSError):
            return os.write(2, content)
        return len(content)


MAX_LINE = 2000  # characters of a message


def printable(text: str, max_length: int = MAX_LINE) -> str:
    """`text` as one line that does nothing to a terminal: what is not printable is spelled as in Python (`\\x1b`).

    Names of files and words of a checkpoint may be another person's: they could clear the screen, set its title, turn
    the text around, or add a line that looks like ours. What is longer than `max_length` is cut.
    """
    if len(text) > max_length:
        text = f"{text[:max_length]}... ({len(text):,} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PrintableFormatter(logging.Formatter):
    """Messages as `printable`; a traceback below one keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        record.message = printable(record.message)
        return super().formatMessage(record)


def log_to_stderr(level: str, form: str) -> None:
    """Have log messages written to standard error, one line each.  form - as of logging.Formatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter(form))
    logging.basicConfig(handlers=[handler], level=level)
