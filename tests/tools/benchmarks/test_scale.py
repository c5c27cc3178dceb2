import json
import subprocess

import pytest

from dcgan.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from dcgan.errors import ProjectError
from tools import benchmark
from tools.benchmarks import scale


def test_one_process_is_measured_and_left_as_it_was(tiny_config):
    found = scale.measure(tiny_config, 2, SINGLE_PROCESS)
    assert found["images_per_second"] == pytest.approx(1000 * tiny_config.batch_size / found["iteration_ms"])
    assert 0 <= found["waiting_ms"] + found["exchange_ms"] < found["iteration_ms"]
    assert "all_reduce_mean" not in vars(SINGLE_PROCESS)


def test_what_averaging_costs_is_counted_and_what_waiting_costs_is_not_counted_twice(tiny_config, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(scale.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(ProcessGroup, "all_reduce_mean", lambda self, tensors: self.barrier())
    found = scale.measure(tiny_config, 5, ProcessGroup())
    # an iteration averages thrice; each time average sees the clock at 0 and 3, barrier within it at 1 and 2
    assert (found["exchange_ms"], found["waiting_ms"]) == (3 * (3 - 1) * 1000, 3 * 1 * 1000)


def test_ratios_are_medians_of_ratios_within_a_round():
    def run(rate):
        return {"images_per_second": rate, "iteration_ms": 1.0, "exchange_ms": 0.5, "waiting_ms": 0.25}

    one, two = scale.summarised({1: [run(100), run(10), run(50)], 2: [run(150), run(20), run(60)]})
    assert (one["ratio"], two["ratio"], two["images_per_second"]) == (1, 1.5, 60)
    lines = scale.text([one, two])
    assert lines[2].split() == ["2", "60.0", "1.50", "1.0", "0.5", "0.2"]


@pytest.mark.parametrize(("processes", "rounds"), [(3, 1), (2, 0), (0, 1)])
def test_sizes_that_do_not_fit_are_refused_before_anything_starts(processes, rounds, tmp_path):
    settings = {"steps": 1, "batch_size": 128}
    with pytest.raises(ValueError, match="must divide --batch-size"):
        scale.rounds(settings, processes, rounds, 2, tmp_path, print)


def test_a_process_that_fails_is_an_error_that_says_why(tmp_path, monkeypatch):
    def failing(command, **_):
        (tmp_path / "log").mkdir()
        (tmp_path / "log" / "workerlog.0").write_text("Traceback\nValueError: image_size must be a power of two\n")
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(scale.subprocess, "run", failing)
    settings = {"steps": 1, "batch_size": 8, "image_size": 48, "base_channels": 4}
    with pytest.raises(ProjectError, match="1 processes failed: ValueError: image_size must be a power of two"):
        scale.rounds(settings, 1, 1, 1, tmp_path, print)


def test_one_and_two_processes_are_measured_in_turn(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = ["scale", "--rounds", "1", "--steps", "1", "--batch-size", "8", "--image-size", "16", "--json"]
    assert benchmark.main([*command, "--base-channels", "4"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert [row["processes"] for row in table["scale"]] == [1, 2]
    assert all(row["images_per_second"] > 0 for row in table["scale"])
