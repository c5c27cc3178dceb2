"""Processes that draw synthetic faces: the same bytes, and nothing that happens to them is a failure or a wait."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcgan.data import drawing_processes, sources
from dcgan.data.crop import fit_image
from dcgan.data.drawing_processes import DrawingProcesses
from dcgan.data.prepare import prepare
from dcgan.data.synthetic_faces import draw_face

ROOT = Path(drawing_processes.__file__).resolve().parents[2]
PATIENCE = 60  # seconds, for a process to start on a busy machine


def eventually(condition):
    """The first true answer of `condition`, or a failure of the test."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def has_ended(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"  # whose parent never looks
    except (ProcessLookupError, FileNotFoundError):
        return True


class Waiting(DrawingProcesses):
    """Draws by processes alone for as long as one lives."""

    answered = 0

    def rows(self, start, stop):
        found = super().rows(start, stop)
        while not found and any(process.poll() is None for process in self._processes):
            time.sleep(0.01)
            found = super().rows(start, stop)
        Waiting.answered += found is not None
        return found


@pytest.fixture
def processes(monkeypatch):
    """`cartoon:N` drawn by processes alone, even where N is small."""
    monkeypatch.setattr(sources, "FACES_EACH", 16)
    monkeypatch.setattr(sources, "DrawingProcesses", Waiting)
    monkeypatch.setattr(Waiting, "answered", 0)
    return Waiting


def test_rows_are_those_of_this_process():
    with DrawingProcesses(1, seed=5, size=24, crop="center") as processes:
        rows = eventually(lambda: processes.rows(3, 7))
    expected = [fit_image(draw_face(i, 5), 24, "center").transpose(2, 0, 1).tobytes() for i in range(3, 7)]
    assert rows == expected


def test_packed_file_is_the_same_whoever_draws(processes, tmp_path):
    alone = prepare("cartoon:100", tmp_path / "alone.npy", image_size=16, workers=1)
    assert processes.answered == 0
    together = prepare("cartoon:100", tmp_path / "together.npy", image_size=16, workers=3)
    assert processes.answered == 4
    assert together.path.read_bytes() == alone.path.read_bytes()
    assert together.info["sha256"] == alone.info["sha256"]


def test_processes_that_die_in_the_middle_cost_no_row(processes, monkeypatch, tmp_path):
    started, start = [], DrawingProcesses._start

    def mortal(self, command):
        started.append(start(self, command))
        return started[-1]

    def killed(done, total):
        if done == 40:
            for process in started:
                process.kill()

    monkeypatch.setattr(DrawingProcesses, "_start", mortal)
    packed = prepare("cartoon:200", tmp_path / "a.npy", image_size=16, workers=2, progress=killed)
    alone = prepare("cartoon:200", tmp_path / "b.npy", image_size=16, workers=1)
    assert len(started) == 1
    assert 0 < processes.answered < 7
    assert packed.path.read_bytes() == alone.path.read_bytes()


def test_an_interruption_leaves_no_process_and_no_file(processes, monkeypatch, tmp_path):
    started, start = [], DrawingProcesses._start
    monkeypatch.setattr(DrawingProcesses, "_start", lambda *a: started.append(start(*a)) or started[-1])

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("cartoon:100", tmp_path / "a.npy", image_size=16, workers=3, progress=interrupt)
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_ends_with_its_parent_even_if_that_is_killed():
    code = (
        "import sys, time\nfrom dcgan.data.drawing_processes import DrawingProcesses\n"
        "with DrawingProcesses(1, 0, 16, 'center') as p:\n"
        "    while not p.rows(0, 2): time.sleep(0.01)\n"
        "    print(p._processes[0].pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with parent:
        child = int(parent.stdout.readline())
        assert not has_ended(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        eventually(lambda: has_ended(child))


def test_a_process_that_never_answers_is_not_waited_for(monkeypatch, tmp_path):
    program = tmp_path / "python-that-sleeps"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with DrawingProcesses(1, 0, 16, "center") as processes:
        assert processes.rows(0, 4) is None
    assert processes._processes[0].returncode is not None


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi", "/missing/python"])
def test_none_is_started_where_there_is_no_python_to_start(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with DrawingProcesses(3, 0, 16, "center") as processes:
        assert not any(processes._processes)
        assert processes.rows(0, 4) is None
