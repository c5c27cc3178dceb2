import dataclasses

import pytest

from dcgan import DCGAN, BatchLoader
from dcgan import train as runs
from dcgan.callbacks.checkpointing import CheckpointSaver, best, last_healthy
from dcgan.callbacks.metrics_log import read_records
from dcgan.checkpoints.checkpoint import list_checkpoints, step_of, write_checkpoint
from dcgan.runs.find_checkpoint import find_checkpoint


def test_the_best_checkpoint_by_the_runs_own_measure_outlives_newer_ones(config, monkeypatch):
    import dcgan.callbacks.quality as module

    figures = iter([5.0, 1.0, 7.0])  # at steps 3, 6 and 9
    monkeypatch.setattr(module, "sliced_wasserstein", lambda real, fake: {"mean": next(figures)})
    run = runs.train(dataclasses.replace(config, checkpoint_every=1, keep=1)).folder
    assert [p.name for p in list_checkpoints(run / "checkpoints")] == ["step-00000006", "step-00000009"]


def test_a_checkpoint_saved_between_two_measurements_is_not_the_best_for_the_figure_of_the_earlier(config, monkeypatch):
    import dcgan.callbacks.quality as module

    figures = iter([1.0, 3.0, 2.0])  # at steps 3, 6 and 9
    monkeypatch.setattr(module, "sliced_wasserstein", lambda real, fake: {"mean": next(figures)})
    run = runs.train(dataclasses.replace(config, checkpoint_every=2, keep=1, steps=8)).folder
    assert [p.name for p in list_checkpoints(run / "checkpoints")] == ["step-00000006", "step-00000008"]


def test_checkpoints_measured_in_another_way_are_not_compared_with_new_ones(config, monkeypatch, caplog):
    import dcgan.callbacks.quality as module

    figures = iter([1.0, 7.0, 5.0])  # at steps 3, 6 and 9; the smallest is of an older protocol
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


def test_a_folder_that_is_no_checkpoint_or_holds_other_files_too_is_never_pruned_nor_counted(config, caplog):
    config = dataclasses.replace(config, checkpoint_every=1, keep=2, evaluate_every=0)
    checkpoints = runs.train(dataclasses.replace(config, steps=3)).folder / "checkpoints"
    photos, noted, listed = (checkpoints / f"step-0000000{i}" for i in (1, 2, 9))
    for folder, name in ((photos, "photo.jpg"), (noted, "notes.txt"), (listed, "state.json")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    runs.train(dataclasses.replace(config, steps=7), find_checkpoint(checkpoints.parent))
    named = {path.name for path in checkpoints.iterdir()}
    assert named == {"step-00000001", "step-00000002", "damaged-step-00000009", "step-00000006", "step-00000007"}
    assert (photos / "photo.jpg").read_text() == (noted / "notes.txt").read_text() == "{}"
    assert (noted / "generator.safetensors").is_file()
    assert [caplog.text.count(f"{folder} is left alone") for folder in (photos, noted)] == [1, 1]


@pytest.mark.parametrize("extra", [None, "text", [1], {"swd": "small"}, {"swd": None}, {"swd": [1.0]}])
def test_a_checkpoint_of_unknown_origin_that_says_nothing_of_itself_is_no_best_and_not_healthy(tmp_path, extra):
    folders = [tmp_path / f"step-{i:08d}" for i in (1, 2)]
    write_checkpoint(folders[0], {}, {"extra": {"swd": 3.0, "state": "OK"}})
    write_checkpoint(folders[1], {}, {} if extra is None else {"extra": extra})
    assert best(folders) == last_healthy(folders) == folders[0]


def test_checkpoints_of_an_earlier_run_in_the_folder_do_not_cost_those_of_a_new_one(tiny_config, images, tmp_path):
    for iterations in (6, 3):
        saver = CheckpointSaver(1, tmp_path, 2, dict)
        DCGAN(tiny_config).fit(BatchLoader(images, 8), verbose=0, num_iters=iterations, callbacks=[saver])
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [2, 3, 5, 6]
    with pytest.raises(ValueError, match="keep must be at least 1"):
        CheckpointSaver(1, tmp_path, 0, dict)
