"""`python tools/prepare.py`: the command as a user types it."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

tool = importlib.import_module("tools.prepare")
TOOL = Path(__file__).parents[2] / "tools" / "prepare.py"


def start(*arguments, folder):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments, folder):
    process = start(*arguments, folder=folder)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_packs_from_any_folder_and_prints_a_summary(tmp_path):
    arguments = ("--data", "cartoon:5", "--out", "new/faces.npy", "--image-size", "32", "--crop", "center")
    code, out, err = run(*arguments, folder=tmp_path)
    assert (code, err) == (0, "Preparing 5 images into new/faces.npy\n")
    assert out == "new/faces.npy: 5 images of 32 x 32 (0.0 MB), 0 files left out\n"
    assert np.load(tmp_path / "new" / "faces.npy").shape == (5, 3, 32, 32)
    code, out, _ = run(*arguments, "--json", folder=tmp_path)
    result = json.loads(out)
    assert (code, result["count"], result["rejected"]) == (0, 5, 0)
    assert result["sha256"] == json.loads((tmp_path / "new" / "faces.json").read_text())["sha256"]


def test_limits_and_rejected_files_are_told(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"text")
    code, out, err = run("--data", "in", "--out", "a.npy", "--max-file-bytes", "3", folder=tmp_path)
    assert (code, out) == (1, "")
    assert err == (
        "Preparing 1 images into a.npy\n"
        "error: none of the 1 files of in is a usable image: a.jpg: 4 bytes, more than the limit 3; to allow it: "
        "tools/prepare.py --max-file-bytes 4, then train on its .npy\n"
    )
    assert not list(tmp_path.glob("*.npy"))


def test_two_processes_that_prepare_the_same_both_end_well(tmp_path):
    arguments = ("--data", "cartoon:60", "--out", "a.npy", "--json")
    processes = [start(*arguments, folder=tmp_path) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0]  # one of them may have said that it waits for the other
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.npy.lock", "a.json", "a.npy"]
    assert run(*arguments, folder=tmp_path)[1] == results[0][0]


def test_ctrl_c_ends_with_130_and_leaves_nothing(tmp_path):
    process = start("--data", "cartoon:100000", "--out", "a.npy", folder=tmp_path)
    while not list(tmp_path.glob(".a.npy.*.part")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Preparing 100000 images into a.npy\ninterrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == [".a.npy.lock"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--data", "missing", "--out", "a.npy"), 1, "error: there is no missing (looked for "),
        (("--data", ".", "--out", "a.npy"), 1, "error: no images in folder ."),
        (("--data", "cartoon:1", "--out", "a.txt"), 1, "error: a packed file must be called FILE.npy"),
        (
            ("--data", "cartoon:1", "--out", "a.npy", "--crop", "left"),
            1,
            "error: crop must be tutorial, center, or X,Y",
        ),
        (("--data", "cartoon:1", "--out", "a.npy", "--image-size", "0"), 1, "error: image_size must be at least 1"),
        (("--data", "cartoon:1"), 2, "the following arguments are required: --out"),
        (("--data", "cartoon:1", "--out", "a.npy", "--colour"), 2, "unrecognized arguments: --colour"),
    ],
)
def test_wrong_use_is_one_clear_line(run_here, tmp_path, arguments, code, message):
    answer = run_here(tool.main, *arguments, cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (code, "")
    assert message in answer.stderr.splitlines()[-1]
    assert code == 2 or len(answer.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_help_has_two_examples_and_the_defaults(tmp_path):
    code, out, _ = run("--help", folder=tmp_path)
    assert code == 0
    assert out.count("  python tools/prepare.py --data") == 2
    assert "(default: 64)" in out
    assert "(default: 100000000)" in out
