import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tools.benchmarks import machine, measure, report, to_quality, train, work
from tools.benchmarks.measure import Case, Skip, Timing

ROOT = Path(__file__).resolve().parents[2]


def run_tool(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "benchmark.py"), *arguments], capture_output=True, text=True, check=False
    )


# ---- rounds: these factories are called in processes of their own ----------------------------------------------------


def noted(path, name):
    def run():
        with open(path, "a") as stream:
            stream.write(name)

    return run


def unwilling():
    raise Skip("not today")


def uninstalled():
    raise ModuleNotFoundError("No module named 'gone'", name="gone")


def crashing():
    import os

    os._exit(3)


def warning():
    logging.getLogger("somewhere").warning("it is late")
    return lambda: None


def test_every_case_runs_once_a_round_forwards_and_backwards_in_turn(tmp_path):
    path = tmp_path / "order"
    cases = [Case(name, noted, {"path": str(path), "name": name}, 1, warm_up=0) for name in "abc"]
    timings, skipped = measure.measure(cases, 3, lambda text: None)
    assert path.read_text() == "abccbaabc"
    assert [t.case.name for t in timings] == ["a", "b", "c"] and skipped == {}
    assert all(len(t.seconds) == len(t.cpu_seconds) == 3 for t in timings)


def test_a_case_that_cannot_run_is_a_line_in_the_report(tmp_path):
    cases = [Case(f.__name__, f, {}, 1) for f in (unwilling, uninstalled, crashing, warning)]
    timings, skipped = measure.measure(cases, 1, lambda text: None)
    assert skipped == {
        "unwilling": "not today",
        "uninstalled": "gone is not installed",
        "crashing": "its process ended with exit code 3",
    }
    assert [t.notes for t in timings] == [["it is late"]]


def test_ratios_are_medians_of_what_happened_in_the_same_round():
    """A machine that becomes three times as slow in the middle moves the medians, and not the ratio."""
    base = Timing(Case("base", warning, {}, 100), [1.0, 1.0, 3.0, 3.0, 3.0], [1] * 5, [])
    other = Timing(Case("other", warning, {}, 200), [0.5, 0.5, 1.5, 1.5, 9.0], [1] * 5, [])
    assert other.ratio(base) == pytest.approx(2 * 2)  # half the time for twice the units
    assert other.row(base)["per_second"] == pytest.approx(200 / 1.5)


def test_only_the_cases_that_are_named_run_and_the_rates_with_them():
    cases = [Case(name, warning, {}, 1) for name in ("Ours, float32", "Theirs, float32", "copy of memory")]
    assert [case.name for case in report.only(cases, ["theirs"])] == ["Theirs, float32", "copy of memory"]
    assert report.only(cases, ["float32"]) == report.only(cases, []) == cases
    with pytest.raises(ValueError, match="no case is called yours; there are: Ours, float32; Theirs"):
        report.only(cases, ["yours"])
    with pytest.raises(ValueError, match="no case is called copy of memory; there are: Ours, float32; Theirs"):
        report.only(cases, ["copy of memory"])  # the rates alone is nothing to compare


def test_a_table_of_which_every_case_was_left_out_still_says_why():
    table = {"title": "nothing", "rows": [], "skipped": {"Ours": "this processor has no bfloat16"}}
    assert "Ours: left out, this processor has no bfloat16" in report.text(
        {"machine": machine.describe(), "tables": [table]}
    )


@pytest.mark.parametrize(("cases", "rounds"), [([], 1), ([Case("a", warning, {}, 1)], 0)])
def test_nothing_to_measure_is_refused(cases, rounds):
    with pytest.raises(ValueError, match="at least one round and one case"):
        measure.measure(cases, rounds, lambda text: None)


def test_a_command_that_fails_says_so():
    with pytest.raises(RuntimeError, match="exited with 1: SystemExit: no|exited with 1: no"):
        measure.shell([sys.executable, "-c", "raise SystemExit('no')"], {})


# ---- work -----------------------------------------------------------------------------------------------------------


def seen_by(network, inputs):
    """Shapes of what goes into and comes out of each convolution, in order."""
    import paddle

    shapes = []
    for part in network.sublayers():
        if isinstance(part, (paddle.nn.Conv2D, paddle.nn.Conv2DTranspose)):
            part.register_forward_post_hook(lambda _, given, result: shapes.append((given[0].shape, result.shape)))
    network.eval()
    network(paddle.zeros(inputs))
    return shapes


@pytest.mark.parametrize("size", [16, 64, 128])
def test_layers_are_those_of_the_networks(size):
    from dcgan.networks.discriminator import Discriminator
    from dcgan.networks.generator import Generator

    for network, inputs, layers in (
        (Generator(7, 8, size), [1, 7], work.generator(7, 8, size)),
        (Discriminator(8, size), [1, 3, size, size], work.discriminator(8, size)),
    ):
        weights = [int(p.size) for name, p in network.named_parameters() if name.startswith("conv_")]
        assert [layer.weights for layer in layers] == weights
        assert seen_by(network, inputs) == [
            ([1, a.channels_in, a.side_in, a.side_in], [1, a.channels_out, a.side_out, a.side_out]) for a in layers
        ]


def test_operations_of_a_layer_are_counted_as_the_definition_says():
    """Two for each product of an input pixel's channel with a tap that lands in the image or beside it."""
    layer = work.Layer(2, 3, 5, 6)  # transposed: each of 3 x 3 input pixels meets all of its 2 x 5 x 16 weights
    assert layer.flop == 2 * 9 * 2 * 5 * 16
    assert work.Layer(5, 6, 2, 3).flop == layer.flop  # its mirror, an ordinary convolution


def test_a_training_step_has_the_passes_that_are_needed_and_no_others():
    g, d = ([layer.flop for layer in layers] for layers in (work.generator(7, 4, 16), work.discriminator(4, 16)))
    once = 3 * sum(g) - g[0] + 2 * sum(d)  # G: all but the gradient of latents; D judging: no gradients of weights
    twice = 3 * sum(d) - d[0]  # D learning, from real and from drawn: all but the gradient of images
    assert work.training_step(7, 4, 16, 3).flop == 3 * (once + 2 * twice)
    full, half = (work.training_step(7, 4, 16, 3, n).bytes for n in (4, 2))
    assert full / 2 < half < full  # the optimizer keeps float32


def test_the_lower_bound_is_operations_over_their_rate_and_bytes_over_theirs():
    rates = {"matrix product, float32, Paddle": 2.0, "matrix product, float32, oneDNN": 10.0, "copy of memory": 5.0}
    bound = train.lower_bound(rates, work.Work(100, 20), work.Work(100, 10))
    assert bound == {"float32": {"compute_seconds": 10.0, "memory_seconds": 4.0}}


# ---- the tool -------------------------------------------------------------------------------------------------------


def test_a_machine_is_described_in_plain_values():
    its = machine.describe()
    assert json.loads(json.dumps(its)) == its and its["cores"] >= 1 and "numpy" in its["versions"]


def test_one_training_step_is_measured_and_reported(tmp_path):
    arguments = "--rounds 2 --batch-size 4 --base-channels 4 --image-size 16 --threads 1 --against none".split()
    done = run_tool("train", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)["tables"]
    names = {row["name"] for row in table["rows"]} | {name for name in table["skipped"] if not train.is_rate(name)}
    assert names == set(train.VARIANTS)
    assert table["rows"][0]["ratio"] == 1.0 and all(row["median_seconds"] > 0 for row in table["rows"])
    assert table["lower_bound"]["float32"]["compute_seconds"] > 0
    shown = report.text(json.loads(done.stdout))
    assert "Paddle's operators, float32" in shown and "GFLOP/s" in shown


def test_recipes_train_in_turn_and_are_measured_off_the_clock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the faces are packed
    monkeypatch.setattr(to_quality, "DATA", "cartoon:1000")
    sizes = {"base_channels": 2, "image_size": 16, "threads": 1}
    args = argparse.Namespace(to_quality=1e9, seeds=[3], seconds=0.1, rounds=2)
    found = to_quality.table(sizes, args, [], tmp_path, lambda text: None)
    assert [row["name"] for row in found["to_quality"]] == list(to_quality.RECIPES.values())
    for row in found["to_quality"]:
        (first, second) = row["curves"][0]
        assert row["reached"] == [first]
        assert 0.1 < first[1] <= second[1] - 0.1
        assert 0 < first[2] < second[2]
        assert min(first[3], second[3]) > found["real_to_real"] > 0
    shown = "\n".join(to_quality.text(found))
    assert "this project, --preset tutorial" in shown and "real images against real ones" in shown


def test_a_distance_is_reached_at_the_first_measurement_that_is_as_small():
    curve = [[1.0, 0.9, 10, 50.0], [2.0, 1.8, 20, 30.0], [3.0, 2.7, 30, 20.0]]
    assert to_quality.reached(curve, 30.0) == curve[1]
    assert to_quality.reached(curve, 19.9) is None
    table = {"to_quality": [{"name": "a", "reached": [None, curve[2]], "curves": [curve]}], "skipped": {}}
    row = to_quality.text({**table, "real_to_real": 5.0})[1].split()
    assert row == "a -, 3 -, 3 -, 30 50 30 20".split()


def test_data_is_prepared_and_loaded_and_growth_is_shown(tmp_path):
    images = tmp_path / "images"
    from tools.benchmarks.data import growth, prepare_cases, write_jpegs

    write_jpegs(images, 3)
    assert len(list(images.glob("*.jpg"))) == 3
    timings, skipped = measure.measure(prepare_cases(images, tmp_path, 16, []), 1, lambda text: None)
    assert skipped == {} and timings[0].case.units == 3 and (tmp_path / "packed.npy").is_file()
    (row,) = growth([5], tmp_path, 16)
    assert row["images"] == 5 and row["prepare_peak_mib"] > 1 and row["file_mb"] == 5 * 3 * 16 * 16 / 1e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk"], "invalid choice: 'walk'"),
        (["train", "--against", "caffe"], "--against of train may be all, none or torch, received 'caffe'"),
        (["infer", "--batch-size", "0"], "whole numbers of 1 to 10,000,000"),
        (["data", "--counts", "ten"], "whole numbers"),
        (["train", "--to-quality", "9", "--seeds", "1,two"], "whole numbers from 0 on"),
    ],
)
def test_wrong_usage_is_refused(arguments, message):
    done = run_tool(*arguments)
    assert done.returncode == 2 and message in done.stderr
