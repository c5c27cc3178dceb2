"""Test on this machine that killed runs resume with bit-identical results: real processes, SIGKILL at random moments.

    python -m dcgan.selftest               three killed runs
    python -m dcgan.selftest --kills 20

Prints one line per killed run. Exits with 1 if any of them differs from the uninterrupted run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy.files import write_json
from deploy.seeds import bits, key

from .checkpoints.checkpoint import list_checkpoints, read_checkpoint, step_of
from .config import TrainConfig
from .errors import ProjectError

# Small enough for seconds, with everything that a run can hold: averaging, all random numbers, rates that change.
SETTINGS = TrainConfig(
    data="cartoon:160",
    flip=True,
    image_size=16,
    base_channels=8,
    latent_dim=16,
    batch_size=16,
    epochs=4,
    ema=0.99,
    lr_warmup=5,
    lr_decay=0.5,
    diffaugment="color,translation,cutout",
    instance_noise=0.1,
    noise_steps=30,
    device="cpu",
    log_every=1,
    sample_every=10,
    checkpoint_every=4,
    evaluate_every=8,
    keep=2,
)
TIMES = ("images_per_second", "elapsed_seconds", "remaining_seconds")
CHILD_SECONDS = 300


ATTEMPTS = 5


class Outcome(NamedTuple):
    """One killed run: when it was killed, the step it was resumed from, and what differed from the straight run."""

    moment: str
    resumed_from: int
    differences: list[str]


def prove_resume(folder: Path, kills: int, seed: int = 0, config: TrainConfig = SETTINGS) -> Iterator[Outcome]:
    """Train once undisturbed, then `kills` times with a SIGKILL in between; yield each outcome.

    Args: folder - empty, for the runs.  kills - the second, fifth, ... falls into the writing of a checkpoint, the
          others into a moment drawn from `seed`.  config - of the runs.
    Raises ProjectError when a child fails for another reason.
    """
    write_json(folder / "config.json", config.to_json())
    last_step = _finish(folder, "straight")
    straight = _result(folder / "straight")
    for number in range(kills):
        name, moment = _killed_run(folder, number, key(seed, number), last_step, config.checkpoint_every)
        saved = list_checkpoints(_run(folder / name) / "checkpoints")
        resumed_from = step_of(saved[-1])
        _finish(folder, name, resume=True)
        yield Outcome(moment, resumed_from, _differences(straight, _result(folder / name)))
        shutil.rmtree(folder / name)


def _killed_run(folder: Path, number: int, stream: int, last_step: int, checkpoint_every: int) -> tuple[str, str]:
    """Name of a run that was killed while it trained, and the moment. One that was faster than the kill is repeated."""
    during_save = number % 3 == 1
    for attempt in range(ATTEMPTS):
        name = f"killed-{number:02d}-{attempt}"
        draws = bits(np.array([key(stream, attempt)]), 2)[0] / 2.0**32
        # at least one checkpoint must be there to go on from, and something left to do
        step = checkpoint_every + 1 + int(draws[0] * (last_step - 2 * checkpoint_every - 1))
        moment = _kill(folder, name, step, draws[1] * 0.05, during_save)
        if moment:
            return name, moment
    raise ProjectError(f"no run could be killed in time in {ATTEMPTS} attempts: this machine is too fast or too slow")


def _start(folder: Path, name: str, resume: bool = False) -> subprocess.Popen:
    command = [sys.executable, "-m", "dcgan.selftest", "--child", "config.json", name, *(["resume"] if resume else [])]
    root = str(Path(__file__).resolve().parents[1])
    search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(folder: Path, name: str, resume: bool = False) -> int:
    """Train to the end and return the last step."""
    process = _start(folder, name, resume)
    _, said = process.communicate(timeout=CHILD_SECONDS)
    if process.returncode:
        raise ProjectError(f"a training process of the self-test failed: {said.strip().splitlines()[-1:]}")
    return step_of(list_checkpoints(_run(folder / name) / "checkpoints")[-1])


def _kill(folder: Path, name: str, step: int, delay_seconds: float, during_save: bool) -> str | None:
    """Start a run and SIGKILL it: at `step` after a delay, or at the first checkpoint being written from `step` on.

    Returns the moment as it was seen, or None if the run had ended before. Raises ProjectError if it had failed.
    """
    process = _start(folder, name)
    deadline = time.monotonic() + CHILD_SECONDS
    seen, writing = 0, False
    while process.poll() is None and time.monotonic() < deadline:
        run = _run(folder / name)
        if run is not None:
            metrics = run / "metrics.jsonl"
            seen = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            writing = during_save and any(run.glob("checkpoints/.step-*.part"))
            if seen >= step and (writing or not during_save):
                time.sleep(0 if during_save else delay_seconds)
                break
        time.sleep(0.0005)
    process.kill()  # SIGKILL
    _, said = process.communicate()
    if process.returncode > 0:
        raise ProjectError(f"a training process of the self-test failed: {said.strip().splitlines()[-1:]}")
    return f"{'writing a checkpoint' if writing else 'training'}, step {seen}" if process.returncode else None


def _run(runs: Path) -> Any:
    found = sorted(runs.glob("[0-9]*-*")) if runs.is_dir() else []
    return found[0] if found else None


def _result(runs: Path) -> dict[str, Any]:
    """Everything that must be equal: tensors, counters, metrics without times."""
    run = _run(runs)
    newest = read_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    result: dict[str, Any] = {
        f"{group}/{name}": tensor for group, tensors in newest.groups.items() for name, tensor in tensors.items()
    }
    result["counters"] = {name: newest.state[name] for name in ("epoch", "epoch_step", "global_step", "seed")}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    result["metrics"] = [{k: v for k, v in record.items() if k not in TIMES} for record in records]
    return result


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    names = [name for name in a if name not in b] + [name for name in b if name not in a]
    return names + [name for name in a if name in b and not _same(a[name], b[name])]


def _same(a: Any, b: Any) -> bool:
    return a.tobytes() == b.tobytes() if isinstance(a, np.ndarray) else a == b


def _child(config_path: str, runs: str, resume: bool) -> None:
    from .environment import import_paddle

    import_paddle()
    from .runs.find_checkpoint import find_checkpoint
    from .train import train

    config = TrainConfig.from_mapping({**json.loads(Path(config_path).read_text("utf-8")), "out": runs})
    train(config, find_checkpoint(runs) if resume else None)


def kill_count(text: str) -> int:
    """The argument of --kills. Raises argparse.ArgumentTypeError unless it is a whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is expected, received {text!r}")
    return int(text)


def report(kills: int, seed: int = 0) -> int:
    """Run `prove_resume` in a temporary folder and print one line per killed run; 1 if any of them differed, else 0."""
    failures = 0
    with tempfile.TemporaryDirectory(prefix="dcgan-selftest-") as folder:
        for outcome in prove_resume(Path(folder), kills, seed):
            failures += bool(outcome.differences)
            verdict = f"DIFFERENT: {', '.join(outcome.differences[:5])}" if outcome.differences else "bit-identical"
            print(f"killed {outcome.moment}; resumed from step {outcome.resumed_from}: {verdict}", flush=True)
    print(f"{kills - failures} of {kills} killed runs ended bit-identical to the uninterrupted run")
    return 1 if failures else 0


def parser() -> argparse.ArgumentParser:
    """The flags of `python -m dcgan.selftest`."""
    flags = argparse.ArgumentParser(
        prog="python -m dcgan.selftest",
        description="Test that a run that is killed and resumed ends bit-identical to an uninterrupted one.",
    )
    flags.add_argument("--kills", type=kill_count, default=3, help="runs that are killed with SIGKILL (default: 3)")
    flags.add_argument("--seed", type=int, default=0, help="sets the moments of the kills (default: 0)")
    flags.add_argument("--child", nargs="+", help=argparse.SUPPRESS)  # CONFIG.json RUNS [resume]
    return flags


def main(argv: list[str] | None = None) -> int:
    """The command; with --child, one of the training processes that it starts."""
    arguments = parser().parse_args(argv)
    if arguments.child:
        _child(arguments.child[0], arguments.child[1], resume=arguments.child[2:] == ["resume"])
        return 0
    try:
        return report(arguments.kills, arguments.seed)
    except ProjectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
