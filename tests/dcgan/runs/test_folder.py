import dataclasses

import pytest

from dcgan import train as runs
from dcgan.errors import TrainingError
from dcgan.runs.find_checkpoint import find_checkpoint
from dcgan.runs.folder import RunFolder


def test_nothing_is_overwritten_each_run_has_a_number_of_its_own(config):
    names = [runs.train(dataclasses.replace(config, steps=1)).folder.name for _ in range(2)]
    assert names == ["00000-faces", "00001-faces"]


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
    halves = [run / f".{name}.0123456789abcdef.part" for name in ("generator.params", "report.html")]
    halves.append(run / "samples" / ".step-00000002.png.fedcba9876543210.part")
    for half in halves:
        half.write_bytes(b"half")
    runs.train(config, find_checkpoint(run))
    assert not torn.exists() and not any(half.exists() for half in halves)
