import dataclasses
import sys

import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan import train as runs
from dcgan.callbacks import visualdl as module
from dcgan.callbacks.metrics_log import read_records
from dcgan.checkpoints.checkpoint import list_checkpoints, read_checkpoint
from dcgan.data.loader import BatchLoader
from dcgan.errors import ProjectError
from dcgan.runs.find_checkpoint import find_checkpoint


@pytest.fixture
def visualdl():
    return pytest.importorskip("visualdl", reason="visualdl is not installed: pip install visualdl")


@pytest.fixture
def config(tiny_config, work_folder, images):
    np.save("faces.npy", images)
    return dataclasses.replace(
        tiny_config, data="faces.npy", epochs=2, log_every=2, sample_every=3, evaluate_every=0, visualdl=True
    )


def read(folder, kind):
    from visualdl import LogReader

    (path,) = folder.glob("vdlrecords.*")
    reader = LogReader(file_path=str(path))
    tags = reader.get_tags().get(kind, [])
    return {tag: reader.get_data(kind, tag) for tag in tags}


def test_scalars_and_grids_of_a_run_are_written(config, visualdl):
    run = runs.train(config).folder
    scalars = read(run / "visualdl", "scalar")
    records = read_records(run / "metrics.jsonl")
    assert [point.id for point in scalars["train/loss_d"]] == [2, 4, 6] == [r["step"] for r in records]
    assert [point.value for point in scalars["train/loss_d"]] == pytest.approx([r["loss_d"] for r in records])
    images = read(run / "visualdl", "image")
    assert [point.id for point in images["samples"]] == [0, 3, 6] and len(images["training_images"]) == 1
    assert [path.name for path in (run / "visualdl").iterdir()] == ["vdlrecords.training.log"]


def test_a_resumed_run_goes_on_in_the_same_file(config, visualdl):
    first = runs.train(dataclasses.replace(config, steps=4)).folder
    runs.train(config, find_checkpoint(first))
    assert [point.id for point in read(first / "visualdl", "scalar")["train/loss_g"]] == [2, 4, 6]


def test_visualdl_changes_no_bit_of_the_run(config, visualdl):
    with_it, without = (runs.train(dataclasses.replace(config, visualdl=on)).folder for on in (True, False))
    a, b = (read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).groups for run in (with_it, without))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[group][name], b[group][name]) for group in a for name in a[group])
    assert not (without / "visualdl").exists()


def test_paddles_own_callback_works_with_the_engine(tiny_config, images, tmp_path, visualdl):
    seen = []

    class Keep(paddle.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            seen.append(float(logs["loss_d"]))

    model = DCGAN(tiny_config)
    callbacks = [paddle.callbacks.VisualDL(str(tmp_path)), Keep()]
    model.fit(BatchLoader(images, 8), epochs=1, verbose=0, callbacks=callbacks)
    scalars = read(tmp_path, "scalar")
    assert set(scalars) == {f"train/{name}" for name in ("loss_d", "loss_g", "score_real", "score_fake")}
    assert [point.value for point in scalars["train/loss_d"]] == pytest.approx(seen) and len(seen) == 3


def test_a_missing_package_is_said_before_anything_is_made(config, work_folder, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "visualdl", None)
    with pytest.raises(ProjectError, match="pip install visualdl"):
        runs.train(config)
    assert not (work_folder / "work").exists()
