import dataclasses
import json
import logging

import numpy as np
import pytest

from dcgan import train as runs
from dcgan.checkpoints.checkpoint import read_checkpoint
from dcgan.errors import CheckpointError, TrainingError
from dcgan.resume import saved_config, set_aside_damaged
from dcgan.runs.find_checkpoint import find_checkpoint
from dcgan.runs.folder import RunFolder
from tests.comparisons import assert_same_run, numbers, weights


@pytest.fixture(scope="module")
def straight_run(tmp_path_factory):
    """Where the run of `straight` lies, once it is trained."""
    return tmp_path_factory.mktemp("straight") / "00000-faces"


@pytest.fixture
def straight(config, straight_run):
    """The folder of a run of nine iterations that nothing stopped; trained once, and only to be looked at."""
    if not straight_run.exists():
        runs.train(dataclasses.replace(config, out=str(straight_run.parent)))
    return straight_run


@pytest.mark.parametrize("stop", [2, 3, 4, 5, 7])
def test_a_run_that_was_stopped_and_resumed_ends_in_the_same_bits_and_the_same_metrics(config, straight, stop):
    first = runs.train(dataclasses.replace(config, steps=stop)).folder
    resumed = runs.train(config, find_checkpoint(first))
    assert resumed.folder == first and resumed.global_step == 9
    assert_same_run(straight, first)


def test_a_run_resumed_with_falling_rates_equals_one_that_had_them_from_the_start(config):
    settling = dataclasses.replace(config, steps=8, lr_decay=0.5)  # the rates fall from iteration 4 on
    straight = runs.train(settling).folder
    first = runs.train(dataclasses.replace(config, steps=4)).folder
    assert_same_run(straight, runs.train(settling, find_checkpoint(first)).folder)


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


def test_metrics_after_the_checkpoint_are_forgotten_on_resume(config, straight):
    first = runs.train(dataclasses.replace(config, steps=4)).folder
    with open(first / "metrics.jsonl", "a") as stream:  # as a killed process leaves it: later records, half a line
        stream.write(json.dumps({"step": 5, "loss_d": 77.0}) + "\n" + '{"step": 6, "lo')
    runs.train(config, find_checkpoint(first))
    assert numbers(straight) == numbers(first)


def test_a_run_goes_on_where_it_is_whatever_out_says_and_tells_so(config, work_folder, caplog):
    first = runs.train(dataclasses.replace(config, steps=2)).folder
    elsewhere = dataclasses.replace(config, steps=3, out=str(work_folder / "elsewhere"))
    with caplog.at_level(logging.INFO):
        assert runs.train(elsewhere, find_checkpoint(first)).folder == first
    assert not (work_folder / "elsewhere").exists()
    assert json.loads((first / "config.json").read_text("utf-8"))["out"] == str(first.parent)
    assert "elsewhere is for new ones" in caplog.text


def test_going_on_from_an_older_checkpoint_makes_a_new_run_and_keeps_the_old(config):
    run = runs.train(dataclasses.replace(config, steps=4)).folder
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    result = runs.train(config, find_checkpoint(run / "checkpoints" / "step-00000002"))
    assert result.folder.name == "00001-faces"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before


def test_a_run_that_another_process_trains_is_refused_from_an_older_checkpoint_too(config):
    run = runs.train(dataclasses.replace(config, steps=4)).folder
    found = find_checkpoint(run / "checkpoints" / "step-00000002")
    owner = RunFolder(run).own()
    with pytest.raises(TrainingError, match="is being trained by another process"):
        runs.train(config, found)
    owner.lock.release()
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_a_new_run_folder_is_explained_by_what_is_the_case(config, caplog):
    caplog.set_level(logging.INFO, "dcgan")
    run = runs.train(dataclasses.replace(config, steps=4)).folder
    runs.train(dataclasses.replace(config, steps=3), find_checkpoint(run / "checkpoints" / "step-00000002"))
    (run / "config.json").unlink()
    runs.train(dataclasses.replace(config, steps=5), find_checkpoint(run))
    told = [line for line in caplog.messages if "continuing in a new run folder" in line]
    assert told == [
        f"{run} has newer checkpoints, which are kept: continuing in a new run folder",
        f"{run}/checkpoints/step-00000004 is not in a run folder with a config.json: continuing in a new run folder",
    ]


def test_what_an_earlier_resume_set_aside_is_kept(config):
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    for note in ("first", "second"):
        (run / "checkpoints" / "step-00000009").mkdir()
        (run / "checkpoints" / "step-00000009" / "notes.txt").write_text(note)
        set_aside_damaged(RunFolder(run), 2)
    aside = sorted((run / "checkpoints").glob("damaged-*"))
    assert [path.name for path in aside] == ["damaged-step-00000009", "damaged-step-00000009-2"]
    assert [(path / "notes.txt").read_text() for path in aside] == ["first", "second"]


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(config, straight, caplog):
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


def test_images_that_were_moved_are_the_same_images(config, straight, packed):
    run = runs.train(dataclasses.replace(config, steps=4)).folder
    moved = packed.rename(packed.with_name("elsewhere.npy"))
    assert runs.train(dataclasses.replace(config, data=str(moved)), find_checkpoint(run)).folder == run
    a, b = weights(straight), weights(run)
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_resuming_a_finished_run_says_so_and_changes_nothing(config, caplog):
    caplog.set_level("INFO")
    run = runs.train(config).folder
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    result = runs.train(config, find_checkpoint(run))
    assert result.global_step == 9 and "Nothing left to do" in caplog.text
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_an_older_checkpoint_with_nothing_left_to_do_makes_no_run(config, caplog):
    caplog.set_level("INFO")
    run = runs.train(config).folder
    older = find_checkpoint(run / "checkpoints" / "step-00000008")
    result = runs.train(dataclasses.replace(config, steps=8), older)
    assert (result.folder, result.global_step) == (run, 8) and "Nothing left to do" in caplog.text
    assert list(run.parent.iterdir()) == [run]


def test_a_checkpoint_of_unknown_origin_neither_says_where_to_write_nor_how_large_networks_are(config, work_folder):
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
    for name in ("diffaugment", "translation_ratio", "init", "energy_weight", "texture_weight", "structure_weight"):
        del state["extra"]["config"][name]
    state["extra"]["config"]["amp"] = "auto"
    assert state["extra"]["compute"]["amp"] == "O0"
    write_checkpoint(work_folder / "old" / "step-00000002", saved.groups, state)
    old = saved_config(find_checkpoint(work_folder / "old" / "step-00000002"))
    assert (old.diffaugment, old.init, old.amp) == ("", "normal", "O0")
    assert (old.energy_weight, old.texture_weight, old.structure_weight) == (0.0, 0.0, 0.0)
    assert old.translation_ratio == 0.125


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"global_step": -1}, "invalid counters"),
        ({"epoch": "1"}, "invalid counters"),
        ({"extra": None}, "no usable config"),
        ({"extra": {"config": {"epochs": "many"}}}, "no usable config: epochs must be of type int"),
        ({"extra": {"config": {"surprise": 1}}}, "no usable config: unknown setting 'surprise'"),
        ({"sample_std": "wide"}, "invalid sample_std"),
        ({"rollbacks": None}, "invalid rollbacks"),
    ],
)
def test_a_checkpoint_with_a_strange_state_is_refused_in_words(config, change, words):
    from dcgan.checkpoints.checkpoint import write_checkpoint

    run = runs.train(dataclasses.replace(config, steps=2)).folder
    saved = read_checkpoint(run / "checkpoints" / "step-00000002")
    state = {k: v for k, v in saved.state.items() if k not in ("files", "format", "checksum")}
    if {"sample_std", "rollbacks"} & change.keys():
        change = {"extra": {**state["extra"], **change}}
    write_checkpoint(saved.folder, saved.groups, {**state, **change})
    with pytest.raises(CheckpointError, match=words):
        found = find_checkpoint(run)
        runs.train(dataclasses.replace(saved_config(found), epochs=3), found)
