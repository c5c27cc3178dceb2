"""A file of the user's own is never replaced, whatever its name; what this project wrote is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy import infer, walk
from deploy.own_files import MARK, refuse_foreign
from deploy.runtimes import load_generator

TOLD = "move it away or give another --out"


@pytest.mark.parametrize("content", [b"mine", b"x" * 5000 + MARK.encode() + b"y" * 5000, b"\0" * 9000])
def test_a_file_is_foreign_unless_its_start_or_its_end_bears_the_mark(tmp_path, content):
    path = tmp_path / "grid.png"
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match=TOLD) as caught:
        refuse_foreign(path)
    assert caught.value.filename == str(path) and path.read_bytes() == content
    for ours in (MARK.encode() + content, content + MARK.encode(), b""):  # an empty file: nothing is lost
        path.write_bytes(ours)
        refuse_foreign(path)


def test_a_link_is_judged_by_what_it_leads_to(tmp_path):
    (tmp_path / "photo").write_bytes(b"mine")
    (tmp_path / "ours").write_bytes(MARK.encode())
    for name in ("photo", "ours", "nothing"):
        (tmp_path / f"to {name}").symlink_to(name)
    refuse_foreign(tmp_path / "to ours")
    refuse_foreign(tmp_path / "nothing")
    for name in ("to photo", "to nothing"):
        with pytest.raises(FileExistsError):
            refuse_foreign(tmp_path / name)


@pytest.fixture
def run(export, tmp_path, monkeypatch, capsys):
    """run(*arguments) -> exit code and stderr of infer.py, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments):
        code = infer.main([*map(str, arguments), "--model", str(export.folder)])
        return code, capsys.readouterr().err

    return call


def png(content_seed: int) -> bytes:
    pixels = np.random.default_rng(content_seed).integers(0, 256, (16, 16, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def npz(path: Path) -> None:
    np.savez(path, images=np.zeros([1, 3, 16, 16], np.uint8), seeds=np.zeros(1, np.uint32))


WRITTEN = {
    "seed-000001.png": (),
    "seed-000001.jpg": ("--format", "jpg"),
    "grid.png": (),
    "images.npz": ("--format", "npz"),
    "scores.json": ("--score",),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_infer_refuses_a_file_of_the_users_before_anything_is_made(run, name):
    path = Path("out") / name
    path.parent.mkdir()
    if name.endswith(".npz"):
        npz(path)  # the very arrays: only a tool of ours leaves the mark
    else:
        path.write_bytes(b'{\n  "0": 0.5\n}\n' if name.endswith(".json") else png(1))
    before = path.read_bytes()
    code, err = run("--n", 3, *WRITTEN[name], "--out", "out")
    assert code == 1 and err.count("\n") == 1 and str(path) in err and TOLD in err
    assert path.read_bytes() == before and os.listdir("out") == [name]


@pytest.mark.parametrize("name", WRITTEN)
def test_infer_replaces_what_it_wrote(run, name):
    for n in (3, 4):
        assert run("--n", n, *WRITTEN[name], "--out", "out") == (0, "")
    assert (Path("out") / name).stat().st_size


def test_a_seed_that_is_not_asked_for_is_nobodys_business(run):
    Path("out").mkdir()
    Path("out/seed-000007.png").write_bytes(png(2))
    assert run("--seeds", "0-6,8", "--out", "out") == (0, "")
    assert Path("out/seed-000007.png").read_bytes() == png(2)


def test_scores_say_who_wrote_them(run):
    run("--n", 2, "--score", "--out", "out")
    scores = json.loads(Path("out/scores.json").read_text())
    assert scores.pop("comment") == MARK and list(scores) == ["0", "1"]


FILM = ("--interpolate", "3,14", "--frames", 4, "--scale", 1, "--out")


@pytest.mark.parametrize("name", ["holiday.mp4", "holiday.gif"])
def test_a_video_of_the_users_is_refused_and_one_of_ours_is_replaced_and_plays(run, name):
    Path(name).write_bytes(b"\0\0\0\x18ftypmp42" * 99)
    code, err = run(*FILM, name)
    assert code == 1 and err.count("\n") == 1 and name in err and TOLD in err
    assert Path(name).read_bytes() == b"\0\0\0\x18ftypmp42" * 99
    Path(name).unlink()
    for _ in range(2):
        assert run(*FILM, name) == (0, "")
    video = cv2.VideoCapture(name)
    assert [video.read()[0] for _ in range(5)] == [True] * 4 + [False]
    video.release()
    assert os.listdir() == [name]


def test_the_encoder_follows_no_planted_link(run):
    """The temporary name was that of the process number, so anyone could put a link there before."""
    Path("thesis.tex").write_text("years of work")
    Path(f".walk.{os.getpid()}.part.mp4").symlink_to("thesis.tex")
    assert run(*FILM, "walk.mp4") == (0, "")
    assert Path("thesis.tex").read_text() == "years of work"


def test_the_folder_of_the_encoder_is_private_and_unguessable(export, tmp_path, monkeypatch):
    seen, here = [], tmp_path / "here"
    monkeypatch.setattr(walk, "_frame_count", lambda path: seen.append((path, path.parent.stat().st_mode & 0o777)))
    for _ in range(2):
        with pytest.raises(OSError, match="could not be written whole"):
            walk.write_walk(
                load_generator(export.folder), [3, 4], here / "w.mp4", frames=4, fps=9, scale=1, batch_size=4
            )
    assert [mode for _, mode in seen] == [0o700] * 2 and seen[0][0] != seen[1][0]
    assert {path.parent.parent for path, _ in seen} == {here} and os.listdir(here) == []


def test_a_video_that_cannot_be_written_is_called_by_its_own_name(run):
    Path("d.mp4").mkdir()
    code, err = run(*FILM, "d.mp4")
    assert code == 1 and "d.mp4" in err and ".part" not in err


def test_an_empty_out_is_wrong_usage(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--n", 1, "--out", "")
    assert caught.value.code == 2 and "--out" in capsys.readouterr().err and os.listdir() == []
