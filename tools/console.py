"""What all tools share: errors become one line and an exit code, log messages go to stderr.

Exit codes: 0 done; 1 the work failed; 2 wrong usage (argparse's own); 128 + N ended by signal N (130 for Ctrl-C).
"""

from __future__ import annotations

import argparse
import logging
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

from dcgan.errors import ProjectError
from deploy import interrupts, process_limits
from deploy.files import PathLike
from deploy.manifest import ModelError
from deploy.streams import drop_stdout, log_to_stderr, open_standard_streams, printable

PYTHONS = (3, 9), (3, 13)  # the first and the last that PaddlePaddle 3.2.2 has packages for
EXPECTED = (ProjectError, ModelError, ValueError, OSError, MemoryError)


def add_log_level(parser: argparse._ActionsContainer, hidden: bool = False) -> None:
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help=argparse.SUPPRESS
        if hidden
        else "messages on stderr; debug adds the traceback to an error (default: info)",
    )


def start_logging(level: str) -> None:
    """Messages of this project as plain lines on stderr, at `level` and above."""
    log_to_stderr("WARNING", "%(message)s")
    for name in ("dcgan", "export", "deploy", "tools"):
        logging.getLogger(name).setLevel(level.upper())


def open_in_browser(page: PathLike) -> None:
    """Show an HTML file in the user's browser. Where there is none, or only one that takes the terminal, say so."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        browser = None
    takes_terminal = type(browser) is webbrowser.GenericBrowser  # lynx, w3m: they return when the user leaves them
    if browser is None or takes_terminal or not browser.open(Path(page).resolve().as_uri()):
        print(f"No browser found: open {page} yourself.", file=sys.stderr)


def run(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> None:
    """Call `main(argv)` and end the process: its return value, or 0, is the exit code.

    An error that a user can cause is printed as one line and exits with 1; a bug keeps its traceback.
    """
    interrupts.exit_at_once()
    open_standard_streams()
    try:
        interrupts.raise_outside_imports()
        process_limits.check_stack()
        try:
            code = main(argv) or 0
        except SystemExit as end:  # --help, wrong usage
            code = end.code
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = interrupts.INTERRUPTED
    except BrokenPipeError:  # `... | head`: the reader has left, there is nobody to tell
        drop_stdout()
        code = 1
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("dcgan", "export", "deploy", "tools"):
            raise
        print(f"error: {_what_to_install(error.name)}", file=sys.stderr)
        code = 1
    except Exception as error:
        if not isinstance(error, EXPECTED) and process_limits.reached(error) is None:
            raise
        if logging.getLogger("dcgan").isEnabledFor(logging.DEBUG):
            logging.getLogger("dcgan").debug("", exc_info=True)
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _what_to_install(name: str | None) -> str:
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return f"{name} is not installed. Run: pip install -r requirements.txt"
    first, last, here = (".".join(map(str, version[:2])) for version in (*PYTHONS, sys.version_info))
    return f"PaddlePaddle 3.2.2 has no package for Python {here}. Take Python {first} to {last}."


def one_line(error: BaseException) -> str:
    """An error as one line: a system error says what happened to which file."""
    return printable(_sentence(error))


def _sentence(error: BaseException) -> str:
    limit = process_limits.reached(error)
    if limit is not None:
        return limit
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return " ".join(str(error).split()) or type(error).__name__
