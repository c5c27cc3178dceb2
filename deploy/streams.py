"""Standard input, output and error as every program expects them, whatever the caller closed. Standard library only."""

from __future__ import annotations

import io
import os
import sys


def open_standard_streams() -> None:
    """Open those of descriptors 0, 1 and 2 that are closed (`>&-`), on nothing, and let any file name be printed.

    The next file that a program opens gets the lowest free number: with stderr closed that is 2, and what a library in
    C prints there then lands in a data file. Python has None for such a stream. Call this before any file is opened.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a test or a notebook puts there
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
