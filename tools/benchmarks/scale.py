"""How much faster several processes train than one, with the same images per iteration and all cores in use.

Each round runs one process with all threads, then several, which share the threads and the batch. Starts and warm-up
are not counted. Each process is this very script: `python tools/benchmarks/scale.py SETTINGS RESULT`.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dcgan.errors import ProjectError

WARM_UP_STEPS = 3
LEGEND = ["ratio: how many times as fast as one process: the median over the rounds of the ratio within one"]


def rounds(
    settings: dict[str, Any],
    processes: int,
    count: int,
    threads: int,
    scratch: pathlib.Path,
    say: Callable[[str], object],
) -> list[dict[str, float]]:
    """One row for one process and one for `processes`, see `summarised`.

    Args: settings - steps, batch_size (of all processes together), image_size, base_channels.  count - of rounds.
          threads - that all processes together compute with.
    Raises ValueError for sizes that do not fit, ProjectError if a process fails.
    """
    if min(processes, count, settings["steps"]) < 1 or settings["batch_size"] % processes:
        raise ValueError(f"--processes, --rounds and --steps are at least 1, and {processes} must divide --batch-size")
    results: dict[int, list[dict[str, float]]] = {1: [], processes: []}
    for number in range(count):
        for size in results:
            share = {**settings, "batch_size": settings["batch_size"] // size}
            results[size].append(_launched(share, size, max(1, threads // size), scratch))
            say(f"round {number + 1}: {size} processes, {results[size][-1]['images_per_second']:.1f} images/s")
    return summarised(results)


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


def text(rows: list[dict[str, float]]) -> list[str]:
    lines = [
        f"{'processes':>9}  {'images/s':>10}  {'ratio':>5}  {'ms/iteration':>12}  {'exchange ms':>11}  {'wait ms':>7}"
    ]
    for row in rows:
        lines.append(
            f"{row['processes']:>9}  {row['images_per_second']:>10.1f}  {row['ratio']:>5.2f}  "
            f"{row['iteration_ms']:>12.1f}  {row['exchange_ms']:>11.1f}  {row['waiting_ms']:>7.1f}"
        )
    return lines


def _launched(settings: dict[str, Any], processes: int, threads: int, scratch: pathlib.Path) -> dict[str, float]:
    """Figures of one start with so many processes, each with `threads` and this batch size."""
    result = scratch / "scale.json"
    result.unlink(missing_ok=True)
    # One process too: the launcher gives its children sessions of their own, which Linux schedules apart.
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    command += ["--log_dir", str(scratch / "log"), str(pathlib.Path(__file__).resolve())]
    command += [json.dumps(settings), str(result)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    if answer.returncode or not result.exists():
        said = [line for log in sorted((scratch / "log").glob("workerlog.*")) for line in log.open()]
        raise ProjectError(f"{processes} processes failed: {(said or [answer.stderr])[-1].strip()[-500:]}")
    return json.loads(result.read_text("utf-8"))


def main(settings: str, result: str) -> None:
    """One of the processes: train on random images; rank 0 leaves the figures in `result`."""
    from dcgan.environment import import_paddle

    import_paddle()
    from dcgan.config import TrainConfig
    from dcgan.distributed.process_group import init_process_group

    process_group = init_process_group()
    config = json.loads(settings)
    steps = config.pop("steps")
    figures = measure(TrainConfig(**config), steps, process_group)
    if process_group.is_rank_zero:
        pathlib.Path(result).write_text(json.dumps(figures), "utf-8")
    process_group.shutdown()


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
    main(*sys.argv[1:])
