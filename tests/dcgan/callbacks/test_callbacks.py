import io
import json
import logging
import math

import cv2
import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.callbacks import metrics_log as callbacks
from dcgan.callbacks.metrics_log import History, Recorder, append_record, read_records
from dcgan.callbacks.plots import plot_losses
from dcgan.callbacks.progress import ProgressLine
from dcgan.callbacks.sample_grid import SampleGrid, sample_std_of
from dcgan.callbacks.watchdog import Watchdog
from dcgan.data.loader import BatchLoader
from dcgan.errors import TrainingError
from dcgan.training.hapi import read_scalars


def record(step=1, **changes):
    values = {
        "step": step,
        "epoch": 1,
        "loss_d": 1.0,
        "loss_g": 0.7,
        "score_real": 0.6,
        "score_fake": 0.4,
        "gradient_norm_d": 1.0,
        "gradient_norm_g": 1.0,
        "sample_std": 0.4,
        "images_per_second": 100.0,
        "elapsed_seconds": 1.0,
        "remaining_seconds": 3725.0,
    }
    return {**values, **changes}


def test_the_device_is_read_once_per_record_and_never_between(tiny_config, images, monkeypatch):
    reads = []
    monkeypatch.setattr(callbacks, "read_scalars", lambda s, w: (reads.append(len(s)), read_scalars(s, w))[1])
    transfers, numpy_of = [], paddle.Tensor.numpy
    monkeypatch.setattr(paddle.Tensor, "numpy", lambda self: (transfers.append(1), numpy_of(self))[1])
    seen = []
    model = DCGAN(tiny_config)
    transfers.clear()
    model.fit(BatchLoader(images, 8), epochs=4, verbose=0, callbacks=[Recorder(5, 12, [seen.append])])
    assert [r["step"] for r in seen] == [5, 10, 12]
    assert reads == [6, 6, 6] and len(transfers) == 3


def test_a_record_holds_what_the_step_computed(tiny_config, images):
    seen = []
    model = DCGAN(tiny_config)
    model.fit(BatchLoader(images, 8), epochs=1, verbose=0, callbacks=[Recorder(3, 3, [seen.append])])
    assert seen[0]["loss_d"] == pytest.approx(float(model.scalars["loss_d"]))
    squares = sum(
        (p.grad.numpy().astype(np.float64) ** 2).sum() for p in model.generator.parameters() if p.grad is not None
    )
    assert seen[0]["gradient_norm_g"] == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert seen[0]["epoch"] == 1 and seen[0]["images_per_second"] > 0 and seen[0]["remaining_seconds"] == 0


def test_progress_is_one_line_that_says_all(capsys):
    stream = io.StringIO()
    ProgressLine(8, 1500, stream)(record(120))
    assert stream.getvalue() == (
        "epoch 1/8  step 120/1500  loss D 1.000 G 0.700  D(x) 0.60 D(G(z)) 0.40  100 images/s  ETA 1:02:05\n"
    )


def test_progress_rewrites_its_line_on_a_terminal_and_ends_it_at_the_end():
    stream = io.StringIO()
    stream.isatty = lambda: True
    line = ProgressLine(1, 2, stream)
    line(record(1))
    line(record(2))
    written = stream.getvalue()
    assert written.count("\r") == 2 and written.count("\n") == 1 and written.endswith("\n")


def test_history_writes_json_lines_and_forgets_what_lies_after_its_start(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = History(path)
    for step in (1, 2, 3):
        first(record(step))
    resumed = History(path, step=2)
    assert [r["step"] for r in resumed.records] == [1, 2]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_history_keeps_reports_in_the_file_and_out_of_the_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    History(path)(record(1))
    append_record(path, {"step": 1, "evaluate": {"figures": {"fid": 30.0}}})
    before = path.read_text()
    resumed = History(path, step=2)
    assert [r["step"] for r in resumed.records] == [1] and path.read_text() == before
    resumed(record(2))
    assert ["evaluate" in r for r in read_records(path)] == [False, True, False]


def test_history_survives_half_a_line_and_foreign_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(record(1)) + "\n[1]\nnonsense\n" + '{"step": 2, "loss')
    assert [r["step"] for r in read_records(path)] == [1]


def test_history_writes_valid_json_when_a_number_is_not_finite(tmp_path):
    History(tmp_path / "m.jsonl")(record(1, loss_d=math.nan))
    assert json.loads((tmp_path / "m.jsonl").read_text())["loss_d"] is None


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({}, "OK", ""),
        ({"sample_std": 0.03}, "COLLAPSED", "differ only 8%"),
        ({"sample_std": 0.1}, "WARN", "differ only 25%"),
        ({"loss_g": math.inf}, "NOT FINITE", "loss_g"),
        ({"gradient_norm_d": math.nan}, "NOT FINITE", "gradient_norm_d"),
        ({"step": 50, "sample_std": 0.0}, "OK", ""),  # still warming up
        ({"sample_std": None}, "OK", ""),  # no grid was drawn since the start
    ],
)
def test_watchdog_names_the_state_and_its_reason(change, state, words):
    judged = record(**{"step": 500, **change})
    Watchdog(0.4, [])(judged)
    assert judged["state"] == state and words in judged["reason"]


def test_watchdog_warns_when_the_discriminator_has_won_for_many_records():
    history = []
    dog = Watchdog(0.4, history)
    for step in range(300, 320):
        judged = record(step, score_real=0.999, score_fake=0.001)
        dog(judged)
        history.append(judged)
    assert [r["state"] for r in history] == ["OK"] * 19 + ["WARN"]


def test_watchdog_speaks_when_the_state_changes_only(caplog):
    caplog.set_level(logging.WARNING)
    history = []
    dog = Watchdog(0.4, history)
    for step, spread in ((500, 0.4), (510, 0.01), (520, 0.01), (530, 0.4)):
        judged = record(step, sample_std=spread)
        dog(judged)
        history.append(judged)
    assert len(caplog.records) == 2
    assert "step 510 is COLLAPSED" in caplog.text and "step 530 is OK" in caplog.text


def test_watchdog_stops_training_on_numbers_that_are_not_finite():
    judged = record(7, loss_d=math.nan)
    dog = Watchdog(0.4, [])
    dog(judged)
    with pytest.raises(TrainingError, match="step 7: loss_d is not a finite number"):
        dog.act(judged)


def test_samples_are_the_same_seeds_every_time_with_the_tutorials_title(tiny_config, images, tmp_path):
    model = DCGAN(tiny_config)
    samples = SampleGrid(3, 4, tmp_path / "samples", images)
    (tmp_path / "samples").mkdir()
    model.fit(BatchLoader(images, 8), epochs=2, verbose=0, callbacks=[samples])
    drawn = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert drawn == [f"step-{n:08d}.png" for n in (0, 3, 4, 6)]
    shown = cv2.imread(str(tmp_path / "samples" / "step-00000006.png"))[:, :, ::-1]
    assert shown.shape == (28 + 10 * 18 + 2, 10 * 18 + 2, 3)
    face = shown[28 + 2 + 18 : 28 + 2 + 18 + 16, 2 + 2 * 18 : 2 + 2 * 18 + 16]  # second row, third column: seed 12
    expected = np.rint((model.generate(12)[0] + 1) * 127.5).transpose(1, 2, 0)
    assert np.abs(face.astype(int) - expected).max() <= 1  # drawn in a batch of 100: float error may cross a level
    assert samples.sample_std == pytest.approx(float(model.generate(range(100)).std(axis=0).mean()), rel=1e-4)


def test_comparison_shows_training_images_beside_the_latest_grid(tiny_config, images, tmp_path):
    (tmp_path / "samples").mkdir()
    samples = SampleGrid(1, 3, tmp_path / "samples", images)
    DCGAN(tiny_config).fit(BatchLoader(images, 8), epochs=1, verbose=0, callbacks=[samples])
    both = cv2.imread(str(tmp_path / "comparison.png"))
    latest = cv2.imread(str(tmp_path / "samples" / "step-00000003.png"))
    assert np.array_equal(both[: latest.shape[0], -latest.shape[1] :], latest)
    assert np.array_equal(both[30 : 30 + 16, 2 : 2 + 16, ::-1], images[0].transpose(1, 2, 0))


def test_loss_plot_is_a_image_even_with_gaps(tmp_path):
    plot_losses([record(1), record(2, loss_d=None), record(3)], tmp_path / "loss.png")
    assert cv2.imread(str(tmp_path / "loss.png")).shape == (600, 900, 3)


def test_spread_is_the_deviation_over_images_in_units_of_the_generator(images):
    floats = images.astype(np.float64) / 127.5 - 1
    assert sample_std_of(images) == pytest.approx(floats.std(axis=0).mean(), rel=1e-5)
