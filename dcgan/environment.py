"""The process this runs in: importing Paddle without its chatter, threads and cores, how a tool is called here.

Paddle's import warns about ccache, logs through glog, and writes OMP_NUM_THREADS=1 into the environment (3.2.2,
base/__init__.py:151). Import this module, which is light, before Paddle.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from .errors import ProjectError

_CHECKOUT = (Path(__file__).resolve().parents[1] / "pyproject.toml").is_file()
_OMP = "OMP_NUM_THREADS"
MAX_THREADS = 1024  # libraries in C keep the number in 32 bits, or start that many
MOST_THREADS_PER_CORE = 4  # threads that wait for a core only cost time: a larger request is a slip
_requested = None if "paddle" in sys.modules else os.environ.get(_OMP)


def import_paddle() -> None:
    """Import Paddle silently; its real errors still show. Leaves OMP_NUM_THREADS as it was, if that is possible.

    Raises ProjectError for a PADDLE_TRAINER_ID that is no number, on which Paddle's import fails (hapi/logger.py:41).
    """
    rank = os.environ.get("PADDLE_TRAINER_ID", "0")
    if not rank.isdecimal():
        raise ProjectError(
            f"PADDLE_TRAINER_ID must be a whole number, received {rank!r}. Unset it, or start the processes with: "
            "python -m paddle.distributed.launch"
        )
    os.environ.setdefault("GLOG_minloglevel", "2")  # errors only
    # Said at each forward of each BatchNorm layer in training mode (nn/layer/norm.py:818).
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    before = os.environ.pop(_OMP, None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ccache.*")
            with _home_for_paddle():
                import paddle
        _disable_signal_handler(paddle)
    finally:
        os.environ.pop(_OMP, None)
        if before is not None:  # libraries that are loaded later crash (SIGSEGV) on a number of eleven digits
            os.environ[_OMP] = before if 0 < _whole(before) <= MAX_THREADS else str(thread_count())


@functools.cache
def _disable_signal_handler(paddle: ModuleType) -> None:
    """Take Paddle's handlers away: it prints a C++ stack for SIGTERM. Once: this also takes away any other handler."""
    paddle.disable_signal_handler()


@contextlib.contextmanager
def _home_for_paddle() -> Iterator[None]:
    """A home that is a folder, while Paddle is imported: it makes ~/.cache/paddle (dataset/common.py:62). A service's
    home may be /dev/null."""
    home = os.environ.get("HOME")
    if home is None or os.path.isdir(home):
        yield
        return
    os.environ["HOME"] = tempfile.gettempdir()
    try:
        yield
    finally:
        os.environ["HOME"] = home


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees for its own next use. Does nothing without glibc.

    glibc gives blocks above 32 MB back at once, and the system clears their pages whenever a training step takes them
    again: 3% to 5% of its time (AMD EPYC, Zen 5). Keeping them costs about a tenth more peak memory.
    """
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        for setting in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD) if mallopt else ():
            mallopt(setting, 1 << 30)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def thread_count() -> int:
    """Threads to compute with: OMP_NUM_THREADS as the user set it, else every core this process may use.

    Processes that `paddle.distributed.launch` started share the cores. An OMP_NUM_THREADS of 1 is then no request: the
    launcher imports Paddle, and so hands its 1 down to all of them.
    """
    neighbours = _whole(os.environ.get("PADDLE_LOCAL_SIZE"))
    requested = _whole(_requested)
    if requested > (1 if neighbours else 0):
        return min(requested, MOST_THREADS_PER_CORE * core_count(), MAX_THREADS)
    return max(1, core_count() // max(neighbours, 1))


def _whole(text: str | None) -> int:
    """The number in an environment variable; 0 where there is none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else 0


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_facts() -> dict[str, str]:
    """What Linux says of the first core, by name ("model name", "flags"); empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def processor_name(facts: Mapping[str, str]) -> str:
    """The processor's name by its `processor_facts`, or what the system calls it."""
    return facts.get("model name") or platform.processor() or platform.machine()


def command(tool: str) -> str:
    """`python tools/train.py` in a checkout, `dcgan-train` where pip installed it; "infer" is deploy/infer.py."""
    if not _CHECKOUT:
        return f"dcgan-{tool}"
    return "python deploy/infer.py" if tool == "infer" else f"python tools/{tool}.py"


def export_command(checkpoint: str) -> str:
    """How to export a checkpoint as ONNX, or as a Paddle program where no converter is installed (Python 3.13)."""
    target = "onnx" if importlib.util.find_spec("paddle2onnx") else "paddle"
    return f"{command('export')} --format {target} --checkpoint {checkpoint}"
