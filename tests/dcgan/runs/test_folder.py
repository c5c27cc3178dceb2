import dataclasses
import os

import pytest

from dcgan import train as runs
from dcgan.errors import TrainingError
from dcgan.runs.find_checkpoint import find_checkpoint, run_folders
from dcgan.runs.folder import RunFolder
from dcgan.runs.records import read_records


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


@pytest.mark.parametrize("taken", ["a file", "a link to nothing", "run 99999", "a folder"])
def test_a_name_that_is_taken_is_passed_over(tmp_path, taken):
    """It was an endless loop without a word."""
    name = "99999-cartoon" if taken == "run 99999" else "00000-cartoon"
    if taken == "a file":
        (tmp_path / name).write_text("mine")
    elif taken == "a link to nothing":
        (tmp_path / name).symlink_to("nowhere")
    else:
        (tmp_path / name).mkdir()
    made = [RunFolder.create(tmp_path, "cartoon").path.name for _ in range(2)]
    first = 100_000 if taken == "run 99999" else 1
    assert made == [f"{first + i:05d}-cartoon" for i in range(2)]
    assert [path.name for path in run_folders(tmp_path)][-2:] == made


def test_a_data_set_with_a_long_name_gets_a_folder(tmp_path):
    name = RunFolder.create(tmp_path, "人" * 84).path.name
    assert name == "00000-" + "人" * 40 and len(name.encode()) <= 255


def test_a_lock_that_is_a_link_stops_the_resume_and_its_target_stays(tmp_path):
    """filelock 3.12 truncated it."""
    folder = RunFolder.create(tmp_path, "faces")
    (tmp_path / "precious.txt").write_text("years of work")
    (folder.path / ".lock").symlink_to(tmp_path / "precious.txt")
    with pytest.raises(OSError, match="this is a link"):
        folder.own()
    assert (tmp_path / "precious.txt").read_text() == "years of work"


def test_a_run_whose_records_and_command_come_from_elsewhere_resumes(config, monkeypatch):
    """A record of a step alone was a KeyError; MPLBACKEND of another machine ended training at the first grid."""
    monkeypatch.setenv("MPLBACKEND", "foo")
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    with open(run / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 2}\n{"step": 1, "score_real": "x", "state": 3}\n')
    (run / "command.txt").write_bytes(b"caf\xe9\n")
    result = runs.train(config, find_checkpoint(run))
    assert result.global_step == 9 and (run / "loss.png").exists()
    command = (run / "command.txt").read_text("utf-8")
    assert len(command.splitlines()) == 2 and '{"step": 2}' in (run / "metrics.jsonl").read_text()


def content_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["samples", "checkpoints", "visualdl", "visualdl/vdlrecords.training.log"])
def test_a_folder_of_a_run_that_is_a_link_stops_the_resume_and_nothing_is_written_outside(config, tmp_path, name):
    """Grids and checkpoints were written into the folder that it pointed to, and old ones there were deleted."""
    if name.startswith("visualdl"):
        pytest.importorskip("visualdl", reason="visualdl is not installed: pip install visualdl")
        config = dataclasses.replace(config, visualdl=True)
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    outside = tmp_path / "outside"
    (run / name).rename(outside)
    (run / name).symlink_to(outside)
    before = content_of(outside) if outside.is_dir() else outside.read_bytes()
    with pytest.raises((OSError, TrainingError), match=f"it is a link, .*{name}"):
        runs.train(config, find_checkpoint(run))
    assert before == (content_of(outside) if outside.is_dir() else outside.read_bytes())


def test_files_of_a_run_that_are_links_are_replaced_and_their_targets_stay(config, tmp_path):
    run = runs.train(dataclasses.replace(config, steps=2)).folder
    names = ["loss.png", "report.html", "generator.params", "comparison.png", "config.json"]
    names += ["samples/step-00000004.png", "checkpoints/step-00000004", "checkpoints/damaged-step-00000003"]
    for name in names:
        target = tmp_path / name.replace("/", "-")
        if name.startswith("checkpoints"):
            target.mkdir()
            (target / "state.json").write_text("mine")
        else:
            target.write_text("mine")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)
    (run / "checkpoints" / "step-00000003").mkdir()  # damaged, to be renamed
    runs.train(config, runs.checkpoint.read_checkpoint(run / "checkpoints" / "step-00000002"))
    for name in names:
        target = tmp_path / name.replace("/", "-")
        assert (target / "state.json" if target.is_dir() else target).read_text() == "mine", name


def test_a_clock_that_goes_back_changes_neither_the_newest_run_nor_which_checkpoints_are_kept(config, monkeypatch):
    """Numbers and steps count, never times: a machine without a clock of its own starts in 1970."""
    hours = iter(range(1_000_000, 0, -1))
    monkeypatch.setattr("time.time", lambda: 3600.0 * next(hours))
    first, second = (runs.train(dataclasses.replace(config, steps=4)).folder for _ in range(2))
    for age, path in enumerate([second, *sorted(second.rglob("*"), reverse=True), first, *first.rglob("*")]):
        os.utime(path, (age, age))  # the first run is the newest by its times, and the first checkpoint of each
    found = find_checkpoint(first.parent)
    assert found.folder == second / "checkpoints" / "step-00000004"
    run = runs.train(config, found).folder
    assert sorted(path.name for path in (run / "checkpoints").iterdir())[-1] == "step-00000009"
    assert all(
        record["elapsed_seconds"] >= 0 <= record["remaining_seconds"] for record in read_records(run / "metrics.jsonl")
    )
