"""What users are told to run next works where they are told it, and freed memory stays with the process."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dcgan.environment import export_command, import_paddle
from dcgan.errors import ProjectError

ROOT = Path(__file__).resolve().parents[2]


def test_the_next_command_exports_what_this_python_can_export(monkeypatch):
    assert export_command("a/run") == "python tools/export.py --format onnx --checkpoint a/run"
    monkeypatch.setitem(sys.modules, "paddle2onnx", None)  # as on Python 3.13, which has no package of it
    assert export_command("a/run") == "python tools/export.py --format paddle --checkpoint a/run"


def test_a_rank_that_is_no_number_is_named_before_paddle_reads_it(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "y")
    with pytest.raises(ProjectError, match="PADDLE_TRAINER_ID must be a whole number, received 'y'. Unset it, or"):
        import_paddle()


def page_faults_of_allocating_again(before: str) -> int:
    """Pages that a new process is given when it frees 64 MB and asks for them again."""
    code = (
        "import resource, numpy as np\nfrom dcgan.environment import keep_freed_memory\n" + before + "\n"
        "np.ones(1 << 23)\nfaults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\nnp.ones(1 << 23)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    return int(answer.stdout)


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="only glibc can be told to keep memory")
def test_memory_that_is_kept_is_not_cleared_by_the_system_again():
    assert page_faults_of_allocating_again("keep_freed_memory()") < 10 < page_faults_of_allocating_again("")
