"""Several containers that prepare, train, export and infer into the same folders, again and again. Linux only, as root.

    python tests/soak/shared_folders.py                          50 rounds of two, then 50 rounds of eight
    python tests/soak/shared_folders.py --processes 2 --rounds 3

Each process is number 1 of its own PID namespace, as in a container, and calls the tools' own main functions. All of
them begin each round together, in an empty folder, and at its end generate together once more. What they leave is
compared, byte by byte, with what one process alone leaves. A step may also be refused, in one line; anything else is
printed, and ends this with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

IN_A_CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc"]
TRAIN = "--data cartoon:24 --image-size 16 --base-channels 4 --latent-dim 8 --batch-size 8 --steps 4 --device cpu"
QUIET = " --log-level error"
STEPS = {
    "prepare": "--data cartoon:24 --image-size 16 --out packed.npy" + QUIET,
    "train": TRAIN + " --amp O0 --log-every 2 --sample-every 4 --checkpoint-every 4 --evaluate-every 0" + QUIET,
    "export": "--format onnx --checkpoint work/train/00000-cartoon-24" + QUIET,
    "infer": "--n 12 --batch-size 4" + QUIET,
}
AGAIN = {"infer": STEPS["infer"] + " --out work/again"}
# What one process alone leaves, and every other must leave too. Runs are numbered, and each is compared.
SAME = ("packed.npy", "packed.json", "work/data/*.npy", "work/export/generator.onnx", "work/generate/*", "work/again/*")
SAME_IN_RUN = ("generator.params", "samples/*", "real.png", "checkpoints/*/*.safetensors")


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--processes", type=int, nargs="+", default=[2, 8], metavar="N", help="(default: 2, then 8)")
    flags.add_argument("--rounds", type=int, default=50, help="with each number of processes (default: 50)")
    flags.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    return flags


def main() -> int:
    args = parser().parse_args()
    if args.work:
        return work()
    with tempfile.TemporaryDirectory(prefix="shared-") as scratch:
        found = [soak(count, args.rounds, Path(scratch)) for count in args.processes]
    return 0 if all(found) else 1


def soak(processes: int, rounds: int, scratch: Path) -> bool:
    """Whether all rounds of so many processes left nothing but whole results and one-line refusals."""
    counts: Counter[str] = Counter()
    is_good = True
    with containers(processes) as workers:
        alone = scratch / f"alone-{processes}"
        answers = one_round(workers[:1], alone)
        expected = content(alone)
        assert all(code == 0 for answer in answers for code, _ in answer.values()), answers
        for number in range(rounds):
            folder = scratch / f"round-{processes}-{number}"
            answers = one_round(workers, folder)
            problems = [
                f"process {i}: {step}: exit code {code}: {said}"
                for i, answer in enumerate(answers)
                for step, (code, said) in answer.items()
                if code and not (code == 1 and said.startswith("error: ") and len(said.splitlines()) == 1)
            ]
            counts.update(f"{step}: {'refused' if c else 'done'}" for a in answers for step, (c, _) in a.items())
            refusals = (said for answer in answers for code, said in answer.values() if code)
            counts.update(f"said: {said.replace(str(folder), '')}" for said in refusals)
            done = sum(answer["train"][0] == 0 for answer in answers)
            problems += differences(expected, content(folder), done)
            for problem in problems[:5]:
                print(f"round {number} of {processes} processes: {problem}", flush=True)
            is_good = is_good and not problems
            if not problems:
                subprocess.run(["rm", "-r", str(folder)], check=True)
    print(f"{rounds} rounds of {processes} processes: {'all whole and equal' if is_good else 'NOT ALL RIGHT'}")
    for what, count in sorted(counts.items()):
        print(f"  {count:5} {what}", flush=True)
    return is_good


@contextlib.contextmanager
def containers(count: int) -> Iterator[list[subprocess.Popen]]:
    """So many of `work` below, each process 1 of its own PID namespace; they end with the block."""
    command = [*IN_A_CONTAINER, sys.executable, str(Path(__file__).resolve()), "--work"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums of more threads come in another order
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, env=environment, **pipes) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stdin.close()
        for worker in workers:
            worker.wait()


def one_round(workers: list[subprocess.Popen], folder: Path) -> list[dict]:
    """What each of them says of each step: (exit code, what it said last)."""
    folder.mkdir()
    answers: list[dict] = [{} for _ in workers]
    for steps in (STEPS, AGAIN):
        for worker in workers:
            worker.stdin.write(json.dumps([str(folder), steps]) + "\n")
            worker.stdin.flush()
        for worker, answer in zip(workers, answers):
            said = json.loads(worker.stdout.readline())
            answer.update({f"{step} again" if steps is AGAIN else step: each for step, each in said.items()})
    return answers


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that must be the same, by name, with the runs' numbers in it."""
    patterns = [*SAME, *(f"work/train/*/{pattern}" for pattern in SAME_IN_RUN)]
    paths = [path for pattern in patterns for path in folder.glob(pattern) if not path.name.startswith(".")]
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    left = [path for path in folder.rglob(".*") if path.suffix in (".part", ".old")]
    return {**found, **{str(path.relative_to(folder)): "left behind" for path in left}}


def differences(expected: dict[str, str], found: dict[str, str], runs: int) -> list[str]:
    """What is not as one process alone leaves it, where `runs` trainings ended well."""
    first = "work/train/00000-cartoon-24"
    wanted = {name: digest for name, digest in expected.items() if not name.startswith("work/train")}
    for name, digest in expected.items():
        if name.startswith("work/train"):
            assert name.startswith(first), name
            wanted.update({name.replace(first, f"work/train/{i:05d}-cartoon-24"): digest for i in range(runs)})
    names = sorted({*wanted, *found})
    return [f"{n}: {found.get(n)}, expected {wanted.get(n)}" for n in names if wanted.get(n) != found.get(n)]


def work() -> int:
    """Be one of the processes: for each line on stdin, a folder and steps, run them there and answer with a line."""
    assert os.getpid() == 1, "not the first process of its namespace"
    from dcgan.environment import import_paddle

    import_paddle()
    from paddle.utils import unique_name

    from deploy import infer
    from tools import export, prepare, train

    mains = {"prepare": prepare.main, "train": train.main, "export": export.main, "infer": infer.main}
    answers = sys.stdout
    for line in sys.stdin:
        folder, steps = json.loads(line)
        os.chdir(folder)
        with unique_name.guard():  # the names in a graph are those of a process's first network
            said = {step: run_one(mains[step], shlex.split(words)) for step, words in steps.items()}
        answers.write(json.dumps(said) + "\n")
        answers.flush()
    return 0


def run_one(main, arguments: list[str]) -> tuple[int, str]:
    """The exit code as the tool's process would have it, and its error, or the traceback of what is a bug."""
    from tools.console import EXPECTED, one_line

    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code = main(arguments) or 0
        except EXPECTED as error:
            return 1, f"error: {one_line(error)}"
        except BaseException:
            return 70, traceback.format_exc()
    return code, errors.getvalue().strip().rpartition("\n")[2] if code else ""


if __name__ == "__main__":
    sys.exit(main())
