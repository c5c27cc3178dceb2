import subprocess
import sys
from pathlib import Path

import pytest

from dcgan.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from tools import benchmark_scale

ROOT = Path(__file__).resolve().parents[2]


def test_one_process_is_measured_and_left_as_it_was(tiny_config):
    found = benchmark_scale.measure(tiny_config, 2, SINGLE_PROCESS)
    assert found["images_per_second"] == pytest.approx(1000 * tiny_config.batch_size / found["iteration_ms"])
    assert 0 <= found["waiting_ms"] + found["exchange_ms"] < found["iteration_ms"]
    assert "all_reduce_mean" not in vars(SINGLE_PROCESS)


def test_what_averaging_costs_is_counted_and_what_waiting_costs_is_not_counted_twice(tiny_config, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(benchmark_scale.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(ProcessGroup, "all_reduce_mean", lambda self, tensors: self.barrier())
    found = benchmark_scale.measure(tiny_config, 5, ProcessGroup())
    # an iteration averages thrice; each time average sees the clock at 0 and 3, barrier within it at 1 and 2
    assert (found["exchange_ms"], found["waiting_ms"]) == (3 * (3 - 1) * 1000, 3 * 1 * 1000)


def test_ratios_are_medians_of_ratios_within_a_round():
    def run(rate):
        return {"images_per_second": rate, "iteration_ms": 1.0, "exchange_ms": 0.5, "waiting_ms": 0.25}

    one, two = benchmark_scale.summarised({1: [run(100), run(10), run(50)], 2: [run(150), run(20), run(60)]})
    assert (one["ratio"], two["ratio"], two["images_per_second"]) == (1, 1.5, 60)
    lines = benchmark_scale.table([one, two]).splitlines()
    assert lines[2].split() == ["2", "60.0", "1.50", "1.0", "0.5", "0.2"]


@pytest.mark.parametrize("arguments", [["--processes", "3"], ["--rounds", "0"]])
def test_wrong_use_is_refused_before_anything_starts(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark_scale.main(arguments)
    assert ended.value.code == 2 and "must divide --batch-size" in capsys.readouterr().err


def test_a_process_that_fails_is_an_error_that_says_why(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "benchmark_scale.py"), "--image-size", "48", "--processes", "1"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert answer.returncode == 1 and "power of two" in answer.stderr.splitlines()[-1]
    assert answer.stdout == ""
