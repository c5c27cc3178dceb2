"""Processes that are all process 1, as in containers that share a folder: each result is whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
IN_A_CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc"]


def has_namespaces() -> bool:
    command = [*IN_A_CONTAINER, sys.executable, "-c", "import os; raise SystemExit(os.getpid() != 1)"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def test_four_processes_1_make_the_same_images_into_one_folder(export, tmp_path):
    """Aside names were made of the process number: they wrote into each other's files."""
    if not has_namespaces():
        pytest.skip("no process namespaces here: they need the rights of a container's root")
    import cv2

    out = tmp_path / "out"
    command = [*IN_A_CONTAINER, sys.executable, str(ROOT / "deploy" / "infer.py"), "--model", str(export.folder)]
    command += ["--n", "40", "--batch-size", "8", "--out", str(out)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    answers = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 4, answers
    assert sorted(path.name for path in out.iterdir()) == ["grid.png", *(f"seed-{i:06d}.png" for i in range(40))]
    for seed in (0, 17, 39):
        pixels = cv2.imread(str(out / f"seed-{seed:06d}.png"))[..., ::-1].transpose(2, 0, 1).astype(int)
        assert np.abs(pixels - export.expected_levels(seed)).max() <= 1
