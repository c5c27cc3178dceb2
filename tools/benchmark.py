"""Speed of this project on this machine (training, data, inference, serving) compared with other libraries."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from deploy import interrupts

if __name__ == "__main__":
    interrupts.exit_at_once()  # on Ctrl-C, while all that follows is imported

import argparse
import contextlib
import json
import pathlib
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from dcgan.environment import core_count, import_paddle
from tools.benchmarks import machine
from tools.console import add_log_level, run, start_logging

EXAMPLES = """examples:
  # a training iteration at batch 128: Paddle's operators, oneDNN's, torch; and how far each is from the lower bound
  python tools/benchmark.py train
  # seconds until generated faces are good, beside the tutorial's recipe and that of pytorch/examples
  python tools/benchmark.py train --to-quality 40 --base-channels 32 --seconds 10 --rounds 12 --seeds 0,1
  # preparing and loading, beside the tutorial's way; then 10,000 and 50,000 images in time and memory
  python tools/benchmark.py data --counts 10000,50000
  # inference at batch sizes 1, 16 and 128, and a cold start of deploy/infer.py
  python tools/benchmark.py infer --json
  # images over HTTP with 1 to 512 clients, beside FastAPI with one lock and LitServe; then ten minutes of overload
  python tools/benchmark.py serve --rounds 3
  python tools/benchmark.py serve --rounds 1 --against none --answers 100000 --overload-seconds 600
  # training with two processes against one, with the same images per iteration
  python tools/benchmark.py scale --processes 2 --rounds 4 --steps 6

Peers that are not installed are left out: pip install -r requirements-bench.txt
On a busy machine only the ratios are reliable; more --rounds make them better.
"""
PEERS = {"train": ("torch",), "data": ("tutorial",), "infer": ("torch",), "serve": ("lock", "litserve"), "scale": ()}


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument(
        "what",
        choices=PEERS,
        help="one iteration; prepare and load; generate; over HTTP; several processes",
    )
    flags.add_argument(
        "--against",
        default="all",
        metavar="PEERS",
        help="torch, tutorial (of data), lock or litserve (of serve), all or none (default: all)",
    )
    flags.add_argument(
        "--rounds", type=_at_least(int, 1), default=8, help="runs of every case, in alternating order (default: 8)"
    )
    flags.add_argument("--batch-size", type=_numbers, metavar="N", help="(default: 128; of infer: 1,16,128)")
    flags.add_argument("--image-size", type=_at_least(int, 1), default=64, metavar="S", help="pixels (default: 64)")
    flags.add_argument(
        "--base-channels", type=_at_least(int, 1), default=64, metavar="C", help="of both networks (default: 64)"
    )
    flags.add_argument("--threads", type=_at_least(int, 0), default=0, help="0: one for each core (default: 0)")
    flags.add_argument(
        "--data",
        type=pathlib.Path,
        help="data: a folder of .jpg files (default: 2,000 synthetic faces of CelebA's size)",
    )
    flags.add_argument(
        "--counts", type=_numbers, default=[], help="data: also time and memory for these numbers of synthetic faces"
    )
    flags.add_argument(
        "--model", type=pathlib.Path, help="infer: an export --format all (default: random weights, exported for it)"
    )
    flags.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORDS",
        help='train, infer: only cases whose names hold one of these, "torch" or "oneDNN, float32"; '
        "ratios are to the first of them",
    )
    flags.add_argument(
        "--to-quality",
        type=_at_least(float, 0),
        default=0.0,
        metavar="D",
        help="train: instead, seconds until the sliced Wasserstein distance of 500 images is at most D",
    )
    flags.add_argument("--seeds", type=_seeds, default=[0], help="of --to-quality: one training each (default: 0)")
    flags.add_argument(
        "--seconds",
        type=_at_least(float, 0.1),
        default=4.0,
        help="serve: of each load; --to-quality: of each turn (default: 4)",
    )
    flags.add_argument(
        "--answers", type=_at_least(int, 0), default=0, help="serve: also compare this many answers byte by byte"
    )
    flags.add_argument(
        "--overload-seconds",
        type=_at_least(float, 0),
        default=0.0,
        help="serve: also seconds of overload at twice the capacity (default: 0)",
    )
    flags.add_argument(
        "--overload-rate",
        type=_at_least(float, 0),
        default=0.0,
        help="serve: requests per second of the overload (default: twice what 64 clients got)",
    )
    flags.add_argument(
        "--processes",
        type=_at_least(int, 1),
        default=2,
        metavar="N",
        help="scale: processes compared with one (default: 2)",
    )
    flags.add_argument(
        "--steps", type=_at_least(int, 1), default=10, help="scale: iterations timed in each (default: 10)"
    )
    flags.add_argument("--json", action="store_true", help="one line of JSON on stdout instead of tables")
    add_log_level(flags)
    return flags


def main(argv: list[str] | None = None) -> int:
    flags = parser()
    args = flags.parse_args(argv)
    start_logging(args.log_level)
    against = _peers(flags, args)
    args.threads = args.threads or core_count()
    args.batch_size = args.batch_size or ([1, 16, 128] if args.what == "infer" else [128])

    from tools.benchmarks import report

    import_paddle()  # which takes away all handlers of signals
    with _ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        tables = report.RUNS[args.what](args, against, pathlib.Path(scratch), _say)
    result: dict[str, Any] = {"benchmark": args.what, "machine": machine.describe(), "tables": tables}
    print(json.dumps(result) if args.json else report.text(result))
    return 0


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM as an exception, as Ctrl-C is one: servers that were started end, and the temporary folder goes."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _peers(flags: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    known = PEERS[args.what]
    if args.against in ("all", "none"):
        return list(known) if args.against == "all" else []
    wanted = args.against.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        flags.error(f"--against of {args.what} may be all, none or {', '.join(known)}, received {unknown[0]!r}")
    return wanted


def _at_least(kind: Callable[[str], float], least: float) -> Callable[[str], float]:
    """A type of argparse: a number of this kind from `least` to a million; NaN is none."""

    def number(text: str) -> float:
        with contextlib.suppress(ValueError):
            if least <= kind(text) <= 1e6:
                return kind(text)
        raise argparse.ArgumentTypeError(f"a number from {least} to 1,000,000 is expected, received {text!r}")

    return number


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 10**7 for part in parts):
        raise argparse.ArgumentTypeError(f"whole numbers of 1 to 10,000,000, received {text!r}")
    return [int(part) for part in parts]


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise argparse.ArgumentTypeError(f"whole numbers from 0 on, received {text!r}")
    return [int(part) for part in parts]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    run(main)
