#!/usr/bin/env python3
"""How much faster several processes train than one, with the same images per iteration and all cores in use.

Each round runs one process with all threads, then --processes of them, which share the threads and the batch. Starts
and warm-up are not counted. Each process is this very script, called with --measure.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dcgan.environment import core_count
from dcgan.errors import ProjectError
from tools.benchmarks import machine
from tools.console import add_log_level, run, start_logging

WARM_UP_STEPS = 3
EXAMPLES = """examples:
  python tools/benchmark_scale.py                        two processes against one, 128 images per iteration
  python tools/benchmark_scale.py --processes 4 --rounds 5 --json
"""


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--processes", type=int, default=2, metavar="N", help="against one (default: 2)")
    flags.add_argument("--rounds", type=int, default=3, help="of one, then several processes (default: 3)")
    flags.add_argument("--steps", type=int, default=10, help="iterations that are timed in each (default: 10)")
    flags.add_argument(
        "--batch-size", type=int, default=128, metavar="N", help="of all processes together (default: 128)"
    )
    flags.add_argument("--image-size", type=int, default=64, metavar="S", help="pixels (default: 64)")
    flags.add_argument("--base-channels", type=int, default=64, metavar="C", help="of both networks (default: 64)")
    flags.add_argument("--device", default="auto", help="as tools/train.py takes it (default: auto)")
    flags.add_argument("--json", action="store_true", help="one line of JSON on stdout instead of a table")
    flags.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    add_log_level(flags)
    return flags


def main(argv: list[str] | None = None) -> int:
    flags = parser()
    args = flags.parse_args(argv)
    start_logging(args.log_level)
    if args.measure:
        return _measured(args)
    if min(args.processes, args.rounds, args.steps) < 1 or args.batch_size % args.processes:
        flags.error(f"--processes, --rounds and --steps are at least 1, and {args.processes} must divide --batch-size")
    results: dict[int, list[dict[str, float]]] = {1: [], args.processes: []}
    for number in range(args.rounds):
        for processes in results:
            results[processes].append(_launched(args, processes))
            rate = results[processes][-1]["images_per_second"]
            print(f"round {number + 1}: {processes} processes, {rate:.1f} images/s", file=sys.stderr)
    summary = {"machine": machine.describe(), "batch_size": args.batch_size, "rows": summarised(results)}
    print(json.dumps(summary) if args.json else table(summary["rows"]))
    return 0


def summarised(results: dict[int, list[dict[str, float]]]) -> list[dict[str, float]]:
    """One row per number of processes: medians over the rounds, and the median of the ratio to one process within each
    round as `ratio`, so that a neighbour's load does not decide it."""
    rows = []
    for processes, runs in results.items():
        row: dict[str, float] = {"processes": processes}
        row.update({name: statistics.median(found[name] for found in runs) for name in runs[0]})
        pairs = zip(runs, results[1])
        row["ratio"] = statistics.median(a["images_per_second"] / b["images_per_second"] for a, b in pairs)
        rows.append(row)
    return rows


def table(rows: list[dict[str, float]]) -> str:
    lines = [
        f"{'processes':>9}  {'images/s':>10}  {'ratio':>5}  {'ms/iteration':>12}  {'exchange ms':>11}  {'wait ms':>7}"
    ]
    for row in rows:
        lines.append(
            f"{row['processes']:>9}  {row['images_per_second']:>10.1f}  {row['ratio']:>5.2f}  "
            f"{row['iteration_ms']:>12.1f}  {row['exchange_ms']:>11.1f}  {row['waiting_ms']:>7.1f}"
        )
    return "\n".join(lines)


def _launched(args: argparse.Namespace, processes: int) -> dict[str, float]:
    """Figures of one start with so many processes."""
    with tempfile.TemporaryDirectory(prefix="benchmark-scale-") as folder:
        result = pathlib.Path(folder) / "result.json"
        # One process too: the launcher gives its children sessions of their own, which Linux schedules apart.
        command = [sys.executable, "-m", "paddle.distributed.launch"]
        command += ["--nproc_per_node", str(processes), "--log_dir", folder]
        command += [str(pathlib.Path(__file__).resolve()), "--measure", str(result)]
        for name in ("steps", "image_size", "base_channels", "device"):
            command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
        command += ["--batch-size", str(args.batch_size // processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, core_count() // processes))}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
        if answer.returncode or not result.exists():
            said = [line for log in sorted(pathlib.Path(folder).glob("workerlog.*")) for line in log.open()]
            raise ProjectError(f"{processes} processes failed: {(said or [answer.stderr])[-1].strip()[-500:]}")
        return json.loads(result.read_text("utf-8"))


def _measured(args: argparse.Namespace) -> int:
    """One of the processes: train on random images; the writer leaves the figures in --measure."""
    from dcgan.environment import import_paddle

    import_paddle()
    from dcgan.config import TrainConfig
    from dcgan.distributed.process_group import init_process_group

    process_group = init_process_group(args.device)
    config = TrainConfig(
        image_size=args.image_size,
        base_channels=args.base_channels,
        batch_size=args.batch_size,
        device=args.device,
    )
    figures = measure(config, args.steps, process_group)
    if process_group.is_rank_zero:
        pathlib.Path(args.measure).write_text(json.dumps(figures), "utf-8")
    process_group.shutdown()
    return 0


def measure(config: Any, steps: int, process_group: Any) -> dict[str, float]:
    """Train `steps` iterations on random images and time them, after a warm-up.

    Returns images_per_second of all processes, and of this one milliseconds per iteration: iteration_ms, of which
    exchange_ms pass in averages of tensors and waiting_ms before them, for the slowest process. On a GPU, which works
    on while these calls return, the last two are the calls' cost alone.
    """
    import numpy as np

    from dcgan.model import DCGAN
    from dcgan.training.hapi import read_scalars
    from deploy.seeds import bits

    model = DCGAN(config, process_group)
    model.sync_from_rank_zero()
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    images = bits(np.array([process_group.rank]), int(np.prod(shape))).reshape(shape).astype(np.float32) / 2.0**31 - 1
    spent = {"all_reduce_mean": 0.0, "barrier": 0.0}
    for name in spent:
        setattr(process_group, name, _timed(getattr(process_group, name), spent, name))
    try:
        for step in range(WARM_UP_STEPS + steps):
            if step == WARM_UP_STEPS:
                read_scalars(model.scalars)  # waits for the device
                process_group.barrier()
                spent.update(all_reduce_mean=0.0, barrier=0.0)
                started = time.perf_counter()
            model.train_batch([images])
        read_scalars(model.scalars)  # waits for the device
        seconds = time.perf_counter() - started
    finally:
        for name in spent:
            delattr(process_group, name)  # the method of the class shows again
    return {
        "images_per_second": config.batch_size * process_group.size * steps / seconds,
        "iteration_ms": 1000 * seconds / steps,
        "exchange_ms": 1000 * (spent["all_reduce_mean"] - spent["barrier"]) / steps,
        "waiting_ms": 1000 * spent["barrier"] / steps,
    }


def _timed(function: Callable, spent: dict[str, float], name: str) -> Callable:
    def call(*arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[name] += time.perf_counter() - started

    return call


if __name__ == "__main__":
    run(main)
