"""Ctrl-C while a tool starts: real processes that interrupt themselves at an import, so nothing depends on time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import interrupts

ROOT = Path(__file__).resolve().parents[2]
TOOLS = [
    path.relative_to(ROOT)
    for folder in ("tools", "deploy")
    for path in sorted((ROOT / folder).glob("*.py"))
    if '__name__ == "__main__"' in path.read_text("utf-8")
]
INTERRUPTER = """
import os, sys

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), int(os.environ["INTERRUPT_BY"]))

sys.meta_path.insert(0, Interrupter())
"""


def interrupted(folder, module, *command, by=signal.SIGINT):
    """The result of `python command` that is sent a signal when it imports `module`."""
    (folder / "sitecustomize.py").write_text(INTERRUPTER)
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder), "INTERRUPT_AT": module, "INTERRUPT_BY": str(by.value)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_every_tool_that_is_interrupted_at_its_first_imports_ends_without_a_word(tmp_path):
    assert len(TOOLS) >= 9
    for tool in TOOLS:
        done = interrupted(tmp_path, "enum", tool)  # the first module of some size that is not there at the start
        assert (done.returncode, done.stdout, done.stderr) == (130, "", ""), tool


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("numpy", "tools/train.py --dry-run --data cartoon:8"),
        ("paddle", "tools/train.py --dry-run --data cartoon:8"),
        ("cv2", "tools/report.py"),
        ("numpy", "deploy/infer.py --log-level error"),
    ],
)
def test_an_interrupted_import_is_no_traceback(tmp_path, module, command):
    """Of C code that was being imported it was "ImportError: initialization failed", and exit code 1."""
    done = interrupted(tmp_path, module, *command.split())
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_hangup_while_the_server_starts_does_not_end_it(tmp_path):
    """SIGHUP means: load the model again."""
    done = interrupted(tmp_path, "argparse", "deploy/serve.py", "--model", tmp_path / "none", by=signal.SIGHUP)
    assert done.returncode == 1 and "does not exist" in done.stderr


@pytest.fixture
def handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_outside_imports_ctrl_c_is_an_exception_that_work_can_clean_up_after(handler):
    interrupts.exit_at_once()
    interrupts.raise_outside_imports()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("own", [signal.SIG_IGN, lambda *_: None])
def test_a_caller_that_ignores_or_handles_ctrl_c_keeps_it_so(handler, own):
    signal.signal(signal.SIGINT, own)
    interrupts.exit_at_once()
    interrupts.raise_outside_imports()
    assert signal.getsignal(signal.SIGINT) is own


def test_a_library_keeps_the_handler_of_its_program(handler):
    interrupts.raise_outside_imports()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
