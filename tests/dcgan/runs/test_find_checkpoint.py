import dataclasses

import pytest

from dcgan import train as runs
from dcgan.errors import CheckpointError
from dcgan.runs.find_checkpoint import find_checkpoint


def test_resume_finds_the_newest_run_a_run_its_checkpoints_or_one_of_them(config, work_folder):
    older, newer = (runs.train(dataclasses.replace(config, steps=n)).folder for n in (2, 4))
    assert find_checkpoint("work/train").folder == newer / "checkpoints" / "step-00000004"
    assert find_checkpoint(older).folder == older / "checkpoints" / "step-00000002"
    assert find_checkpoint(older / "checkpoints").folder == older / "checkpoints" / "step-00000002"
    exact = newer / "checkpoints" / "step-00000002"
    assert find_checkpoint(exact).folder == exact
    with pytest.raises(CheckpointError, match="no checkpoint found"):
        find_checkpoint(work_folder / "elsewhere")


@pytest.mark.parametrize(
    ("inside", "path"),
    [(".", "."), (".", "checkpoints"), ("checkpoints", "step-00000002"), ("checkpoints", ".."), ("samples", "..")],
)
def test_a_path_from_inside_of_a_run_finds_the_same_run(config, monkeypatch, inside, path):
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    expected = (run / "checkpoints" / "step-00000002").absolute()
    monkeypatch.chdir(run / inside)
    assert find_checkpoint(path).folder == expected


def test_a_newest_run_without_a_checkpoint_is_named_and_the_one_before_is_resumed(config, work_folder, caplog):
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    (work_folder / "work" / "train" / "00001-faces").mkdir()
    assert find_checkpoint("work/train").folder.parent.parent == run
    assert "00001-faces has saved no checkpoint" in caplog.text
