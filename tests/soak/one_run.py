"""One training run for an hour: memory, open files, threads and disk, a line a minute. Linux only.

    python tests/soak/one_run.py                    an hour
    python tests/soak/one_run.py --minutes 5

Checkpoint, grid and figures are written far more often than by default. Ends with 1 if the run failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--data cartoon:500 --image-size 16 --base-channels 8 --latent-dim 16 --batch-size 16 --steps 100000000 "
    "--log-every 10 --sample-every 20 --checkpoint-every 20 --evaluate-every 100 --keep 3 --log-level error"
)


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    return flags


def main() -> int:
    minutes = parser().parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as work:
        log = Path(work) / "log"
        with open(log, "wb") as stream:
            command = [sys.executable, str(ROOT / "tools" / "train.py"), *FLAGS.split()]
            child = subprocess.Popen(command, cwd=work, stdout=stream, stderr=stream)
            try:
                watch(child, Path(work), minutes)
            finally:
                child.send_signal(signal.SIGTERM)
                code = child.wait()
        print(f"exit code {code} (143: stopped by us, saved)", *log.read_text("utf-8").splitlines()[-1:], sep="\n")
    return 0 if code == 128 + signal.SIGTERM else 1


def watch(child: subprocess.Popen, work: Path, minutes: float) -> None:
    started = time.monotonic()
    print("minutes  iteration  resident MB  anonymous MB  open files  threads  run folder MB  checkpoints", flush=True)
    while child.poll() is None and time.monotonic() - started < 60 * minutes:
        time.sleep(min(60.0, 6 * minutes))
        status = dict(line.split(":", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
        resident, anonymous = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
        handles, threads = len(os.listdir(f"/proc/{child.pid}/fd")), int(status["Threads"])
        runs = list((work / "work" / "train").glob("*"))
        saved = sorted(path.name for run in runs for path in run.glob("checkpoints/step-*"))
        passed, step = (time.monotonic() - started) / 60, int(saved[-1].partition("-")[2]) if saved else 0
        figures = f"{passed:7.1f}  {step:9}  {resident:11.1f}  {anonymous:12.1f}  {handles:10}  {threads:7}"
        print(f"{figures}  {sum(map(size_of, runs)) / 1e6:13.1f}  {len(saved):11}", flush=True)


def size_of(folder: Path) -> int:
    """Bytes of all files below it; those that vanish meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


if __name__ == "__main__":
    sys.exit(main())
