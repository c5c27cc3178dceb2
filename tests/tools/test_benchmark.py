"""`python tools/benchmark.py`: one training step as a user measures it, and wrong usage."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.benchmarks import report, train

tool = importlib.import_module("tools.benchmark")
ROOT = Path(__file__).resolve().parents[2]


def run_tool(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "benchmark.py"), *arguments], capture_output=True, text=True, check=False
    )


def test_one_training_step_is_measured_and_reported(tmp_path):
    arguments = "--rounds 1 --batch-size 4 --base-channels 4 --image-size 16 --threads 1 --against none".split()
    # All ways of a step, and of the rates two: products by Paddle take seconds on AMD; test_machine.py has them small.
    only = [*train.VARIANTS, "float32, oneDNN", "copy"]
    done = run_tool("train", *arguments, "--json", "--only", *only)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)["tables"]
    names = {row["name"] for row in table["rows"]} | {name for name in table["skipped"] if not train.is_rate(name)}
    assert names == set(train.VARIANTS)
    assert table["rows"][0]["ratio"] == 1.0 and all(row["median_seconds"] > 0 for row in table["rows"])
    assert table["lower_bound"]["float32"]["compute_seconds"] > 0
    shown = report.text(json.loads(done.stdout))
    assert "Paddle's operators, float32" in shown and "GFLOP/s" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk"], "invalid choice: 'walk'"),
        (["train", "--against", "caffe"], "--against of train may be all, none or torch, received 'caffe'"),
        (["infer", "--batch-size", "0"], "whole numbers of 1 to 10,000,000"),
        (["data", "--counts", "ten"], "whole numbers"),
        (["train", "--to-quality", "9", "--seeds", "1,two"], "whole numbers from 0 on"),
        (["serve", "--seconds", "nan"], "a number from 0.1 to 1,000,000 is expected, received 'nan'"),
        (["train", "--threads", "-1"], "a number from 0 to 1,000,000 is expected, received '-1'"),
    ],
)
def test_wrong_usage_is_refused(run_here, tmp_path, arguments, message):
    done = run_here(tool.main, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr
