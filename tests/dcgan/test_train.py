import dataclasses
import json
import os

import cv2
import numpy as np
import pytest

from dcgan import train as runs
from dcgan.callbacks.checkpointing import best
from dcgan.callbacks.metrics_log import read_records
from dcgan.checkpoints.checkpoint import list_checkpoints, read_checkpoint
from dcgan.checkpoints.params import read_params
from dcgan.config import with_default_data
from dcgan.dry_run import count_images, describe
from dcgan.errors import CheckpointError, TrainingError
from dcgan.resume import saved_config
from dcgan.runs.find_checkpoint import find_checkpoint
from dcgan.runs.folder import RunFolder

TIMES = ("images_per_second", "elapsed_seconds", "remaining_seconds")


@pytest.fixture
def packed(work_folder, images):
    """24 images as a packed .npy in the current folder."""
    np.save("faces.npy", images)
    return work_folder / "faces.npy"


@pytest.fixture
def config(tiny_config, packed):
    return dataclasses.replace(
        tiny_config,
        data=str(packed),
        epochs=3,
        log_every=1,
        sample_every=4,
        checkpoint_every=2,
        keep=2,
        evaluate_every=3,
    )


def weights(run):
    groups = read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).groups
    return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}


def numbers(run):
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_records(run / "metrics.jsonl")]


def assert_same_run(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not np.array_equal(a[name], b[name])] == []
    assert numbers(one) == numbers(other)


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


def test_generator_params_of_a_run_are_the_generator_that_draws(config):
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


def test_nothing_is_overwritten_each_run_has_a_number_of_its_own(config):
    names = [runs.train(dataclasses.replace(config, steps=1)).folder.name for _ in range(2)]
    assert names == ["00000-faces", "00001-faces"]


@pytest.mark.parametrize("stop", [2, 3, 4, 5, 7])
def test_a_run_that_was_stopped_and_resumed_ends_in_the_same_bits_and_the_same_metrics(config, stop):
    straight = runs.train(config).folder
    first = runs.train(dataclasses.replace(config, steps=stop)).folder
    resumed = runs.train(config, find_checkpoint(first))
    assert resumed.folder == first and resumed.global_step == 9
    assert_same_run(straight, first)


@pytest.mark.parametrize("saved", [3, 6])
def test_a_run_killed_right_after_saving_at_the_end_of_an_epoch_is_resumed_to_the_same_bits(config, saved):
    config = dataclasses.replace(config, checkpoint_every=3, keep=9)  # an epoch has three batches
    straight = runs.train(config).folder
    found = find_checkpoint(straight / "checkpoints" / f"step-{saved:08d}")
    assert (found.state["epoch"], found.state["epoch_step"]) == (saved // 3, 0)
    resumed = runs.train(config, found).folder
    a, b = weights(straight), weights(resumed)
    assert [name for name in a if not np.array_equal(a[name], b[name])] == []
    assert numbers(straight)[saved:] == numbers(resumed)


def test_metrics_after_the_checkpoint_are_forgotten_on_resume(config):
    straight = runs.train(config).folder
    first = runs.train(dataclasses.replace(config, steps=4)).folder
    with open(first / "metrics.jsonl", "a") as stream:  # as a killed process leaves it: later records, half a line
        stream.write(json.dumps({"step": 5, "loss_d": 77.0}) + "\n" + '{"step": 6, "lo')
    runs.train(config, find_checkpoint(first))
    assert numbers(straight) == numbers(first)


def test_resume_finds_the_newest_run_a_run_or_one_checkpoint(config, work_folder):
    older, newer = (runs.train(dataclasses.replace(config, steps=n)).folder for n in (2, 4))
    assert find_checkpoint("work/train").folder == newer / "checkpoints" / "step-00000004"
    assert find_checkpoint(older).folder == older / "checkpoints" / "step-00000002"
    exact = newer / "checkpoints" / "step-00000002"
    assert find_checkpoint(exact).folder == exact
    with pytest.raises(CheckpointError, match="no checkpoint found"):
        find_checkpoint(work_folder / "elsewhere")


def test_going_on_from_an_older_checkpoint_makes_a_new_run_and_keeps_the_old(config):
    run = runs.train(dataclasses.replace(config, steps=4)).folder
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    result = runs.train(config, find_checkpoint(run / "checkpoints" / "step-00000002"))
    assert result.folder.name == "00001-faces"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(config, caplog):
    straight = runs.train(config).folder
    run = runs.train(dataclasses.replace(config, steps=4)).folder
    with open(run / "checkpoints" / "step-00000004" / "generator.safetensors", "r+b") as stream:
        stream.seek(300)
        stream.write(b"\xff\x00\xff")
    found = find_checkpoint(run)
    assert found.folder.name == "step-00000002"
    assert "step-00000004/generator.safetensors was changed or damaged" in caplog.text
    assert (run / "checkpoints" / "step-00000004").is_dir()  # finding it touches nothing
    assert_same_run(straight, runs.train(config, found).folder)


@pytest.mark.parametrize(
    "change", [{"base_channels": 8}, {"loss": "hinge"}, {"lr": 1e-3}, {"seed": 1}, {"batch_size": 4}, {"flip": True}]
)
def test_resuming_with_other_settings_lists_them_and_stops(config, change):
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    with pytest.raises(CheckpointError, match=f"other settings.*{next(iter(change))}: saved"):
        runs.train(dataclasses.replace(config, **change), find_checkpoint(run))


def test_resuming_with_other_images_is_refused(config, images, packed):
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    np.save(packed, images[::-1])
    with pytest.raises(CheckpointError, match="are not those that it was trained on"):
        runs.train(config, find_checkpoint(run))


def test_resuming_a_finished_run_says_so_and_changes_nothing(config, caplog):
    caplog.set_level("INFO")
    run = runs.train(config).folder
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    result = runs.train(config, find_checkpoint(run))
    assert result.global_step == 9 and "Nothing left to do" in caplog.text
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_run_that_another_process_trains_is_refused(config):
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    owner = RunFolder(run).own()
    with pytest.raises(TrainingError, match="is being trained by another process"):
        runs.train(config, find_checkpoint(run))
    owner.lock.release()


def test_leftovers_of_a_killed_save_are_cleared(config):
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    torn = run / "checkpoints" / ".step-00000003.99.part"
    torn.mkdir()
    (torn / "generator.safetensors").write_bytes(b"half")
    halves = [run / ".generator.params.99.part", run / "samples" / ".step-00000002.png.99.part"]
    for half in halves:
        half.write_bytes(b"half")
    runs.train(config, find_checkpoint(run))
    assert not torn.exists() and not any(half.exists() for half in halves)


def test_a_newest_run_without_a_checkpoint_is_named_and_the_one_before_is_resumed(config, work_folder, caplog):
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    (work_folder / "work" / "train" / "00001-faces").mkdir()
    assert find_checkpoint("work/train").folder.parent.parent == run
    assert "00001-faces has saved no checkpoint" in caplog.text


def test_a_checkpoint_of_a_stranger_neither_says_where_to_write_nor_how_large_networks_are(config, work_folder):
    from dcgan.checkpoints.checkpoint import write_checkpoint

    run = runs.train(dataclasses.replace(config, steps=2)).folder
    saved = read_checkpoint(run / "checkpoints" / "step-00000002")
    state = {k: v for k, v in saved.state.items() if k not in ("files", "format", "checksum")}
    state["extra"]["config"]["out"] = "/somewhere/else"
    write_checkpoint(work_folder / "mail" / "step-00000002", saved.groups, state)
    assert saved_config(find_checkpoint(work_folder / "mail" / "step-00000002")).out == "work/train"
    state["extra"]["config"].update(base_channels=1024, image_size=256)
    write_checkpoint(work_folder / "mail" / "step-00000002", saved.groups, state)
    with pytest.raises(CheckpointError, match=r"other networks than its tensors: they are \(8, 4, 16\)"):
        saved_config(find_checkpoint(work_folder / "mail" / "step-00000002"))


def test_a_run_older_than_todays_recipe_goes_on_with_its_own(config, work_folder):
    from dcgan.checkpoints.checkpoint import write_checkpoint

    saved = read_checkpoint(runs.train(dataclasses.replace(config, steps=2)).folder / "checkpoints" / "step-00000002")
    state = {k: v for k, v in saved.state.items() if k not in ("files", "format", "checksum")}
    del state["extra"]["config"]["diffaugment"], state["extra"]["config"]["init"]
    write_checkpoint(work_folder / "old" / "step-00000002", saved.groups, state)
    old = saved_config(find_checkpoint(work_folder / "old" / "step-00000002"))
    assert (old.diffaugment, old.init) == ("", "normal")


def test_weights_that_are_not_finite_never_take_the_place_of_a_good_checkpoint(config, monkeypatch):
    from dcgan.training.adversarial_model import AdversarialModel

    original = AdversarialModel.generator_step

    def poisoned(self, fake):
        original(self, fake)
        if self.global_step == 5:
            self.generator.conv_1.weight.set_value(self.generator.conv_1.weight * float("nan"))

    monkeypatch.setattr(AdversarialModel, "generator_step", poisoned)
    with pytest.raises(TrainingError, match="not saved: .*generator/conv_1.weight.*last good.*step-00000004"):
        runs.train(dataclasses.replace(config, log_every=100, sample_every=100, evaluate_every=0))


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers(config):
    with pytest.raises(ValueError, match="a batch of 128 needs at least 128 images, received 24"):
        runs.train(dataclasses.replace(config, batch_size=128))


def test_non_finite_loss_stops_the_run_and_names_the_last_good_checkpoint(config, monkeypatch):
    from dcgan.training.adversarial_model import AdversarialModel

    original = AdversarialModel.generator_step

    def poisoned(self, fake):
        original(self, fake)
        if self.global_step == 5:
            self.scalars["loss_g"] = self.scalars["loss_g"] * float("nan")

    monkeypatch.setattr(AdversarialModel, "generator_step", poisoned)
    with pytest.raises(TrainingError, match=r"step 6: loss_g is not a finite number.*last good.*step-00000004"):
        runs.train(config)
    record = read_records("work/train/00000-faces/metrics.jsonl")[-1]
    assert record["state"] == "NOT FINITE" and record["loss_g"] is None
    with RunFolder("work/train/00000-faces").lock.acquire(timeout=0):  # the lock was given back
        pass


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"global_step": -1}, "counters that are none"),
        ({"epoch": "1"}, "counters that are none"),
        ({"extra": None}, "no usable config"),
        ({"extra": {"config": {"epochs": "many"}}}, "no usable config: epochs must be of type int"),
        ({"extra": {"config": {"surprise": 1}}}, "no usable config: unknown setting 'surprise'"),
        ({"sample_std": "wide"}, "sample_std that is no number"),
    ],
)
def test_a_checkpoint_with_a_strange_state_is_refused_in_words(config, change, words):
    from dcgan.checkpoints.checkpoint import write_checkpoint

    run = runs.train(dataclasses.replace(config, steps=2)).folder
    saved = read_checkpoint(run / "checkpoints" / "step-00000002")
    state = {k: v for k, v in saved.state.items() if k not in ("files", "format", "checksum")}
    if "sample_std" in change:
        change = {"extra": {**state["extra"], **change}}
    write_checkpoint(saved.folder, saved.groups, {**state, **change})
    with pytest.raises(CheckpointError, match=words):
        found = find_checkpoint(run)
        runs.train(dataclasses.replace(saved_config(found), epochs=3), found)


def test_describe_writes_nothing(config, work_folder):
    before = sorted(work_folder.rglob("*"))
    facts = json.loads(describe(config, count_images(config)))
    assert facts["images"] == 24 and facts["iterations"] == 9
    assert facts["parameters"] == {"generator": 8 * 8 * 16 + 8 * 4 * 16 + 4 * 3 * 16 + 24, "discriminator": 848}
    assert sorted(work_folder.rglob("*")) == before


def test_default_data_is_celeba_where_it_lies_and_drawn_faces_elsewhere(tiny_config, work_folder):
    assert with_default_data(tiny_config).data == "cartoon"
    (work_folder / "work").mkdir()
    (work_folder / "work" / "img_align_celeba.zip").touch()
    assert with_default_data(tiny_config).data.endswith("img_align_celeba.zip")
    assert with_default_data(dataclasses.replace(tiny_config, data="x")).data == "x"


def test_the_best_checkpoint_by_the_runs_own_measure_outlives_newer_ones(config, monkeypatch):
    import dcgan.callbacks.quality as module

    figures = iter([5.0, 1.0, 7.0])  # at steps 3, 6 and 9
    monkeypatch.setattr(module, "sliced_wasserstein", lambda real, fake: {"mean": next(figures)})
    run = runs.train(dataclasses.replace(config, checkpoint_every=1, keep=1)).folder
    assert [p.name for p in list_checkpoints(run / "checkpoints")] == ["step-00000006", "step-00000009"]


def test_checkpoints_measured_in_another_way_are_not_compared_with_new_ones(config, monkeypatch, caplog):
    import dcgan.callbacks.quality as module

    figures = iter([1.0, 7.0, 5.0])  # at steps 3, 6 and 9; the smallest is of an older meter
    monkeypatch.setattr(module, "sliced_wasserstein", lambda real, fake: {"mean": next(figures)})
    config = dataclasses.replace(config, checkpoint_every=3, keep=9)
    with monkeypatch.context() as older:
        older.setattr("dcgan.metrics.evaluate.VERSION", 0)
        first = runs.train(dataclasses.replace(config, steps=3)).folder
    assert read_records(first / "metrics.jsonl")[-1]["swd"] == 1.0
    run = runs.train(config, find_checkpoint(first)).folder
    records = read_records(run / "metrics.jsonl")
    assert [r["swd"] for r in records] == [None, None, 1.0, None, None, 7.0, 7.0, 7.0, 5.0]
    assert records[2]["protocol"].startswith("0/24/16/") and records[3]["protocol"].startswith("1/24/16/")
    assert best(list_checkpoints(run / "checkpoints")).name == "step-00000009"
    assert caplog.text.count("are not compared with new ones") == 1


def test_records_hold_the_figures_of_the_meter_and_how_they_were_measured(config):
    record = read_records(runs.train(dataclasses.replace(config, steps=3)).folder / "metrics.jsonl")[-1]
    assert record["swd"] > 0 and 0 <= record["ms_ssim"] <= 1 and 0 <= record["ms_ssim_real"] <= 1
    assert record["protocol"].split("/")[:4] == ["1", "24", "16", "as packed"]


@pytest.fixture
def collapsing(monkeypatch):
    """The grid's images become one from iteration 6 on, in the first `times` attempts."""

    def set_up(times):
        import dcgan.callbacks.watchdog as module

        monkeypatch.setattr(module.Watchdog, "WARM_UP_STEPS", 1)
        judge = module.Watchdog._verdict
        attempts = []

        def pretend(self, record):
            if record["step"] == 1 or (attempts and record["step"] < attempts[-1]):
                attempts.append(record["step"])
            if not attempts:
                attempts.append(1)
            attempts[-1] = record["step"]
            healthy = record["step"] < 6 or len(attempts) > times
            return judge(self, {**record, "sample_std": self._real_sample_std if healthy else 0.0})

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


def test_rollback_gives_up_after_three_attempts(config, collapsing):
    collapsing(times=99)
    with pytest.raises(TrainingError, match="last good checkpoint"):
        runs.train(dataclasses.replace(config, on_collapse="rollback"))
