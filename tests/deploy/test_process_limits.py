"""A limit of threads or memory is one line in every tool. It was a traceback, or a server that never got ready."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.process_limits import reached

ROOT = Path(__file__).resolve().parents[2]
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]  # limits of processes do not hold for root
AS_NOBODY += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # only this: it may read everything


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("can't start new thread"), "no more threads can be started. Raise the limit: `ulimit -u`"),
        (MemoryError("Unable to allocate 3 GiB"), "the memory is full: Unable to allocate 3 GiB"),
        (ImportError("a.so: failed to map segment from shared object"), "not enough memory, or `ulimit -v` is too low"),
        (RuntimeError("a traceback of C++\nstd::bad_alloc\n"), "`ulimit -v` is too low: std::bad_alloc"),
    ],
)
def test_the_limit_is_named_with_what_raises_it(error, words):
    assert words in reached(error) and "\n" not in reached(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ImportError("no module"), KeyError("memory")])
def test_a_bug_is_no_limit(error):
    assert reached(error) is None


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit as Linux has it")
@pytest.mark.parametrize("tool", ["export", "train"])
def test_a_stack_that_is_too_small_for_paddle_is_one_line(tmp_path, tool):
    """With 2 MiB, exporting was a segmentation fault."""
    words = [sys.executable, str(ROOT / "tools" / f"{tool}.py")]
    limited = ["bash", "-c", 'ulimit -s 1024; exec "$@"', "bash", *words]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: the stack may have 1,024 KiB, and Paddle needs 4,096: raise `ulimit -s`\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() or not shutil.which("setpriv"), reason="needs root")
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("tool", ["infer", "serve"])
def test_too_few_threads_end_in_one_line(export, tmp_path, tool, threads):
    tmp_path.chmod(0o777)
    words = {"infer": ["--n", "40", "--out", "faces"], "serve": ["--port", "0"]}[tool]
    command = [sys.executable, str(ROOT / "deploy" / f"{tool}.py"), "--model", str(export.folder), *words]
    limited = ["bash", "-c", f'ulimit -u {threads}; exec "$@"', "bash", *command]
    environment = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*AS_NOBODY, *limited], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    if done.returncode == 0:  # enough for infer.py
        assert tool == "infer" and len(list((tmp_path / "faces").glob("seed-*.png"))) == 40
        return
    errors = [line for line in done.stderr.splitlines() if "error:" in line or "Traceback" in line]
    assert done.returncode == 1 and len(errors) == 1 and "no more threads can be started" in errors[0], done.stderr
