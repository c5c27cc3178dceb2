import json
import math

import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.callbacks import metrics_log as callbacks
from dcgan.callbacks.metrics_log import History, Recorder, append_record, read_records
from dcgan.data.loader import BatchLoader
from dcgan.training.hapi import read_scalars
from dcgan.training.precision import Precision
from tests.comparisons import record


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


def test_gradients_that_overflow_a_loss_scale_are_no_number_and_end_no_run(tiny_config, images, monkeypatch):
    """float16: the step is skipped and the scale halved, which is how loss scaling works."""
    overflow = {"generator": paddle.to_tensor(math.inf), "discriminator": paddle.to_tensor(1.0)}
    monkeypatch.setattr(DCGAN, "gradient_norms", lambda self: overflow)
    seen = []
    for precision in (Precision("O0", "float32"), Precision("O1", "float16")):
        model, recorder = DCGAN(tiny_config), Recorder(1, 1, [seen.append])
        model.train_batch([images[:8]])
        model.precision = precision
        recorder.set_model(model)
        recorder.on_train_batch_end(0)
    assert [r["gradient_norm_g"] for r in seen] == [math.inf, None] and seen[1]["gradient_norm_d"] == 1.0


def test_history_writes_json_lines_and_forgets_what_lies_after_its_start(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
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


@pytest.mark.parametrize("foreign", [{"loss_d": 10**400}, {"score_fake": math.nan}, {"step": -5}, {"state": 5}])
def test_records_of_another_program_that_no_plot_can_show_are_left_out(tmp_path, foreign):
    lines = [record(1), {**record(2), **foreign}, record(3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [r["step"] for r in History(tmp_path / "metrics.jsonl", step=9).records] == [1, 3]
