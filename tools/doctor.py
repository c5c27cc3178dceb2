#!/usr/bin/env python3
"""Say what will run where on this machine, and check it: packages, processor, kernels, precision, GPU, exports.

Every line is ok, wrong, or not applicable. Exits with 1 if a line is wrong.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from deploy import interrupts

if __name__ == "__main__":
    interrupts.exit_at_once()  # on Ctrl-C, while all that follows is imported

import argparse
import importlib.util
import json
from collections.abc import Iterator

from dcgan.config import TrainConfig
from tools.console import add_log_level, run, start_logging
from tools.doctor_checks import installed
from tools.doctor_checks.line import NOT_APPLICABLE, OK, WRONG, Line, Request, collect

EXAMPLES = """examples:
  python tools/doctor.py                                   about half a minute on a CPU
  python tools/doctor.py --device gpu --amp O1             wrong if the GPU or the precision cannot be had
  python tools/doctor.py --no-measure --json               for an issue report
"""
BEFORE_PADDLE = (installed.python, installed.packages, installed.processor, installed.memory, installed.disk)


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fields = {name: TrainConfig.__dataclass_fields__[name] for name in ("device", "amp", "cpu_kernels")}
    for name, field in fields.items():
        flags.add_argument(
            "--" + name.replace("_", "-"),
            default=field.default,
            choices=field.metadata["choices"],
            help=f"as in tools/train.py; a line is wrong if it is not available (default: {field.default})",
        )
    flags.add_argument("--work", default="work", help="folder that runs and exports go to (default: work)")
    flags.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also compute: gradients, an export in each runtime, images/s (default: yes)",
    )
    flags.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    add_log_level(flags)
    return flags


def examine(request: Request, measure: bool = True) -> Iterator[Line]:
    """Every line of the report, each as soon as it is known."""
    for check in BEFORE_PADDLE:
        yield from collect(check.__name__, check, request)
    if importlib.util.find_spec("paddle") is None:
        yield Line("everything else", NOT_APPLICABLE, "needs Paddle")
        return
    for check in _paddle_checks(measure):
        yield from collect(check.__name__.replace("_", " "), check, request)


def _paddle_checks(measure: bool) -> list:
    """The checks that import Paddle. One that cannot even be imported is a check that says so."""
    try:
        from dcgan.environment import import_paddle

        import_paddle()
        from tools.doctor_checks import decided, measured
    except Exception as error:  # a broken installation is what is looked for

        def imports(_: Request, error: Exception = error) -> Iterator[Line]:
            raise error

        return [imports]
    decisions = [decided.compute_plan, decided.gpus, decided.onnxruntime_cuda]
    measurements = [measured.gradients, measured.parity, measured.throughput]
    return [*decisions, *(measurements if measure else [])]


def main(argv: list[str] | None = None) -> int:
    """Print the lines; 1 if any of them is wrong."""
    arguments = parser().parse_args(argv)
    start_logging("error" if arguments.log_level == "info" else arguments.log_level)  # the lines say it themselves
    request = Request(arguments.device, arguments.amp, arguments.cpu_kernels, arguments.work)
    lines = []
    for line in examine(request, arguments.measure):
        lines.append(line)
        if not arguments.json:
            print(f"{line.verdict:<14}  {line.name}: {line.text}", flush=True)
    counts = {verdict: sum(line.verdict == verdict for line in lines) for verdict in (OK, WRONG, NOT_APPLICABLE)}
    if arguments.json:
        print(json.dumps({"request": request._asdict(), "counts": counts, "lines": [line._asdict() for line in lines]}))
    else:
        print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts[WRONG] else 0


def cli() -> None:
    """The installed command."""
    run(main)


if __name__ == "__main__":
    cli()
