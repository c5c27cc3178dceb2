import dataclasses
import json
import os
import signal

import cv2
import numpy as np
import paddle
import pytest

from dcgan import compute_plan
from dcgan import train as runs
from dcgan.callbacks.metrics_log import read_records
from dcgan.checkpoints.checkpoint import list_checkpoints, read_checkpoint
from dcgan.checkpoints.params import read_params
from dcgan.config import with_default_data
from dcgan.environment import thread_count
from dcgan.errors import TrainingError
from dcgan.networks.kernels import PADDLE_KERNELS
from dcgan.resume import saved_config
from dcgan.runs.find_checkpoint import find_checkpoint
from dcgan.runs.folder import RunFolder
from tests.comparisons import weights


def test_a_run_folder_holds_everything_that_was_promised(config, work_folder):
    result = runs.train(config, argv=["tools/train.py", "--data", "faces.npy"])
    assert result.folder.name == "00000-faces" and result.global_step == 9 and result.signal is None
    found = {str(p.relative_to(result.folder)) for p in result.folder.rglob("*") if p.is_file()}
    assert {"config.json", "command.txt", "metrics.jsonl", "real.png", "loss.png", "generator.params"} <= found
    assert {f"samples/step-{n:08d}.png" for n in (0, 4, 8, 9)} <= found
    kept = [p.name for p in list_checkpoints(result.folder / "checkpoints")]
    assert kept[-2:] == ["step-00000008", "step-00000009"]
    assert len(kept) <= 3  # the best by the run's own measure may be an older one
    assert json.loads((result.folder / "config.json").read_text()) == config.to_json()
    assert "--data faces.npy" in (result.folder / "command.txt").read_text()
    assert [r["step"] for r in read_records(result.folder / "metrics.jsonl")] == list(range(1, 10))
    assert all(not name.startswith(".") or name == ".lock" for name in os.listdir(result.folder))


def test_the_report_is_shown_once_when_the_first_grid_of_each_session_is_in_it(config):
    shown = []

    def show(report):
        steps = sorted(int(path.stem.split("-")[1]) for path in (report.parent / "samples").iterdir())
        shown.append((report.name, steps[-1], report.read_text("utf-8").count("data:image/")))

    first = runs.train(dataclasses.replace(config, steps=6), on_first_grid=show)
    before = shown[0][2]
    assert [one[:2] for one in shown] == [("report.html", 4)] and before >= 2
    runs.train(dataclasses.replace(config, steps=9), find_checkpoint(first.folder), on_first_grid=show)
    assert [one[:2] for one in shown] == [("report.html", 4), ("report.html", 8)] and shown[1][2] > before


def test_generator_params_of_a_run_are_the_generator_that_generates(config):
    result = runs.train(config)
    ema = read_checkpoint(list_checkpoints(result.folder / "checkpoints")[-1]).groups["generator_ema"]
    params = read_params(result.folder / "generator.params")
    assert params.keys() == ema.keys() and all(np.array_equal(params[k], ema[k]) for k in ema)


def test_real_png_shows_the_training_images_upright_in_rows(config, images):
    result = runs.train(dataclasses.replace(config, steps=1))
    shown = cv2.imread(str(result.folder / "real.png"))[:, :, ::-1]
    for index, (row, column) in {0: (0, 0), 1: (0, 1), 5: (1, 0), 23: (4, 3)}.items():  # 24 images: 5 columns
        top, left = 2 + row * 18, 2 + column * 18
        assert np.array_equal(shown[top : top + 16, left : left + 16], images[index].transpose(1, 2, 0))


def test_weights_that_are_not_finite_never_take_the_place_of_a_good_checkpoint(config, monkeypatch):
    from dcgan.training.adversarial_model import AdversarialModel

    original = AdversarialModel.generator_step

    def poisoned(self, *images):
        original(self, *images)
        if self.global_step == 5:
            self.generator.conv_1.weight.set_value(self.generator.conv_1.weight * float("nan"))

    monkeypatch.setattr(AdversarialModel, "generator_step", poisoned)
    with pytest.raises(TrainingError, match="not saved: .*generator/conv_1.weight.*last good.*step-00000004"):
        runs.train(dataclasses.replace(config, log_every=100, sample_every=100, evaluate_every=0))


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers(config):
    with pytest.raises(ValueError, match="an iteration takes 128 images .*, and the data hold 24"):
        runs.train(dataclasses.replace(config, batch_size=128))


def test_non_finite_loss_stops_the_run_and_names_the_last_good_checkpoint(config, monkeypatch):
    from dcgan.training.adversarial_model import AdversarialModel

    original = AdversarialModel.generator_step

    def poisoned(self, *images):
        original(self, *images)
        if self.global_step == 5:
            self.scalars["loss_g"] = self.scalars["loss_g"] * float("nan")

    monkeypatch.setattr(AdversarialModel, "generator_step", poisoned)
    with pytest.raises(TrainingError, match=r"step 6: loss_g is not a finite number.*last good.*step-00000004"):
        runs.train(config)
    record = read_records("work/train/00000-faces/metrics.jsonl")[-1]
    assert record["state"] == "NOT FINITE" and record["loss_g"] is None
    with RunFolder("work/train/00000-faces").lock:  # the lock was given back
        pass


def test_nan_that_paddle_finds_itself_is_one_line_that_names_its_operator(config, monkeypatch):
    """With FLAGS_check_nan_inf, which is for finding the first of them, it was a traceback."""
    from dcgan.training.adversarial_model import AdversarialModel

    original = AdversarialModel.generator_step

    def poisoned(self, *images):
        original(self, *images)
        if self.global_step == 5:
            paddle.set_flags({"FLAGS_check_nan_inf": True})  # now and not before: each operator takes longer with it
            paddle.zeros([1]) / paddle.zeros([1])

    monkeypatch.setattr(AdversarialModel, "generator_step", poisoned)
    try:
        with pytest.raises(TrainingError, match=r"NAN or INF .*op=divide.*last good.*step-00000004"):
            runs.train(config)
    finally:
        paddle.set_flags({"FLAGS_check_nan_inf": False})


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(config, monkeypatch):
    import dcgan.checkpoints.checkpoint as module

    write = module._write_group

    def full(path, tensors):
        if "step-00000006" in str(path):
            raise OSError(28, "No space left on device", str(path))
        return write(path, tensors)

    monkeypatch.setattr(module, "_write_group", full)
    with pytest.raises(TrainingError, match="No space left on device.*last good checkpoint is .*step-00000004"):
        runs.train(config)
    kept = list_checkpoints("work/train/00000-faces/checkpoints")
    assert kept[-1].name == "step-00000004" and read_checkpoint(kept[-1])


def test_default_data_is_celeba_where_it_lies_and_drawn_faces_elsewhere(tiny_config, work_folder):
    assert with_default_data(tiny_config).data == "cartoon"
    (work_folder / "work").mkdir()
    (work_folder / "work" / "img_align_celeba.zip").touch()
    assert with_default_data(tiny_config).data.endswith("img_align_celeba.zip")
    assert with_default_data(dataclasses.replace(tiny_config, data="x")).data == "x"


@pytest.fixture
def collapsing(monkeypatch):
    """The grid's images become one from iteration 6 on, in the first `times` attempts."""

    def set_up(times):
        import dcgan.callbacks.watchdog as module

        monkeypatch.setattr(module.Watchdog, "WARM_UP_STEPS", 1)
        verdict = module.Watchdog._verdict
        attempts = []

        def pretend(self, record):
            if record["step"] == 1 or (attempts and record["step"] < attempts[-1]):
                attempts.append(record["step"])
            if not attempts:
                attempts.append(1)
            attempts[-1] = record["step"]
            healthy = record["step"] < 6 or len(attempts) > times
            return verdict(self, {**record, "sample_std": self._real_sample_std if healthy else 0.0})

        monkeypatch.setattr(module.Watchdog, "_verdict", pretend)

    return set_up


def test_collapse_warns_and_goes_on_by_default(config, collapsing, caplog):
    collapsing(times=1)
    assert runs.train(config).global_step == 9
    assert "COLLAPSED" in caplog.text


def test_collapse_stops_when_asked_and_names_the_last_healthy_checkpoint(config, collapsing):
    collapsing(times=1)
    with pytest.raises(TrainingError, match=r"step 6: 100 seeds differ only 0%.*step-00000004"):
        runs.train(dataclasses.replace(config, on_collapse="stop"))


def test_rollback_goes_back_to_the_last_healthy_checkpoint_with_fresh_randomness(config, collapsing, caplog):
    straight = runs.train(config).folder
    collapsing(times=1)
    result = runs.train(dataclasses.replace(config, on_collapse="rollback"))
    assert result.global_step == 9 and "Going back to" in caplog.text and "step-00000004" in caplog.text
    assert [r["step"] for r in read_records(result.folder / "metrics.jsonl")] == list(range(1, 10))
    ours, others = weights(result.folder), weights(straight)
    assert any(not np.array_equal(ours[name], others[name]) for name in ours)


def test_a_signal_in_the_iteration_that_collapses_ends_the_run_at_the_healthy_checkpoint(
    config, collapsing, monkeypatch
):
    import dcgan.callbacks.watchdog as module

    collapsing(times=1)
    act = module.Watchdog.act

    def interrupted(self, record):
        if record["state"] == "COLLAPSED":
            signal.raise_signal(signal.SIGTERM)
        act(self, record)

    monkeypatch.setattr(module.Watchdog, "act", interrupted)
    result = runs.train(dataclasses.replace(config, on_collapse="rollback"))
    assert (result.signal, result.global_step) == (signal.SIGTERM, 4)
    assert find_checkpoint(result.folder).state["global_step"] == 4


def test_rollback_sets_aside_a_collapsed_checkpoint_with_a_file_of_the_users(config, collapsing, monkeypatch):
    import dcgan.train as module

    collapsing(times=1)
    go_back = module._go_back

    def after_a_note(model, healthy):
        (healthy.parent / "step-00000006").mkdir(exist_ok=True)
        (healthy.parent / "step-00000006" / "notes.txt").write_text("look at this")
        return go_back(model, healthy)

    monkeypatch.setattr(module, "_go_back", after_a_note)
    checkpoints = runs.train(dataclasses.replace(config, on_collapse="rollback", keep=9)).folder / "checkpoints"
    assert (checkpoints / "collapsed-step-00000006" / "notes.txt").read_text() == "look at this"
    assert not (checkpoints / "step-00000006" / "notes.txt").exists()


def test_generator_params_are_written_with_each_checkpoint_and_at_the_end(config, monkeypatch):
    """Not after each epoch: of few images it has as many iterations as re-estimating BatchNorm statistics costs."""
    import dcgan.callbacks.checkpointing as module

    written, write = [], module.write_params
    monkeypatch.setattr(module, "write_params", lambda *arguments: (written.append(1), write(*arguments)))
    runs.train(dataclasses.replace(config, checkpoint_every=4))
    assert len(written) == 3  # after 4, 8 and 9 iterations


def test_a_checkout_without_git_trains_too(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "paddle" in runs._versions() and "commit" not in runs._versions()


def test_command_txt_is_a_line_that_a_shell_understands(config):
    run = runs.train(dataclasses.replace(config, steps=1), argv=["train.py", "--data", "my photos", "--out", "a\nb"])
    (line,) = (run.folder / "command.txt").read_text().splitlines()
    assert line.startswith("train.py --data 'my photos' --out 'a\\nb'  # python")


def test_rollback_gives_up_after_three_attempts(config, collapsing, caplog):
    collapsing(times=99)
    with pytest.raises(TrainingError, match="last good checkpoint"):
        runs.train(dataclasses.replace(config, on_collapse="rollback"))
    assert caplog.text.count("Going back to") == 3 and "attempt 3 of 3" in caplog.text


# ---- what it computes with ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speedup", "amp", "dtype"), [(9.0, "O1", "bfloat16"), (1.0, "O0", "float32")])
def test_the_precision_that_was_measured_to_be_fastest_is_saved_with_the_run(config, monkeypatch, speedup, amp, dtype):
    monkeypatch.setattr(compute_plan, "has_bfloat16", lambda: True)
    monkeypatch.setattr(compute_plan, "bfloat16_speedup", lambda: speedup)
    monkeypatch.setattr(
        compute_plan.ComputePlan, "training_kernels", lambda plan: PADDLE_KERNELS
    )  # whatever this machine has
    result = runs.train(dataclasses.replace(config, amp="auto", steps=1))
    assert json.loads((result.folder / "config.json").read_text())["amp"] == amp
    saved = read_checkpoint(list_checkpoints(result.folder / "checkpoints")[-1]).state["extra"]
    assert saved["config"]["amp"] == amp and saved["compute"]["dtype"] == dtype
    monkeypatch.setattr(
        compute_plan, "bfloat16_speedup", lambda: 1.0 / speedup
    )  # measured again, a resume could differ
    assert saved_config(find_checkpoint(result.folder)).amp == amp


def test_a_resume_that_computes_otherwise_says_what_changes(config, caplog):
    result = runs.train(dataclasses.replace(config, steps=2))
    found = find_checkpoint(result.folder)
    same = dataclasses.replace(saved_config(found), steps=3)
    runs.train(same, found)
    assert "rounds differently" not in caplog.text
    found = find_checkpoint(result.folder)
    found.state["extra"]["compute"]["threads"] = 77
    runs.train(dataclasses.replace(same, steps=4), found)
    assert f"From here on this run rounds differently than before: threads 77 -> {thread_count()}." in caplog.text
