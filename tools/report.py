#!/usr/bin/env python3
"""Show training runs: a gallery of all, the report of one, or several side by side. Training writes reports itself."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from deploy import interrupts

if __name__ == "__main__":
    interrupts.exit_at_once()  # on Ctrl-C, while all that follows is imported

import argparse
from pathlib import Path

from dcgan.runs.gallery import write_gallery
from dcgan.runs.report import find_run, write_comparison, write_report
from tools.console import add_log_level, open_in_browser, run, start_logging

RUNS = Path("work/train")
EXAMPLES = """examples:
  python tools/report.py --open                            all runs under work/train, in the browser
  python tools/report.py work/train/00003-cartoon --open   one run
  python tools/report.py --compare work/train/00000-cartoon work/train/00001-cartoon --open
"""


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument(
        "run",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="a run folder, or a folder of runs: its newest (default: a gallery of the runs under work/train)",
    )
    flags.add_argument("--compare", nargs="+", type=Path, metavar="RUN", help="these runs side by side on one page")
    flags.add_argument(
        "--out",
        type=Path,
        default=Path("work/compare.html"),
        metavar="FILE",
        help="file for --compare; the report of one run is in its folder (default: work/compare.html)",
    )
    flags.add_argument("--open", action="store_true", help="open the page in the browser")
    add_log_level(flags)
    return flags


def main(argv: list[str] | None = None) -> int:
    """Print the path of the page as the last line."""
    arguments = parser().parse_args(argv)
    start_logging(arguments.log_level)
    if arguments.compare:
        path = write_comparison([find_run(folder) for folder in arguments.compare], arguments.out)
    elif arguments.run:
        path = write_report(find_run(arguments.run))
    else:
        find_run(RUNS)  # raises where there is none
        path = write_gallery(RUNS)
    print(path)
    if arguments.open:
        open_in_browser(path)
    return 0


def cli() -> None:
    """The installed command."""
    run(main)


if __name__ == "__main__":
    cli()
