"""Quiet Paddle, the cores shared among the test processes, and small models for every test."""

import atexit
import os
import shutil
import tempfile

# pytest-xdist starts one process per core: each computes, and lets its children compute, on its share of the cores.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
if _WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="dcgan-tests-")  # what is measured once per machine
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # CUDA_VISIBLE_DEVICES=0 pytest -m gpu runs the tests marked gpu

from dcgan.environment import import_paddle, thread_count

import_paddle()

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest

from deploy.seeds import bits
from tests.tiny import TINY

paddle.base.core.set_num_threads(thread_count())


# Files that take longest, first: a process that begins one of them last would work while the others have ended.
LONGEST = (
    "tests/export/test_playground.py",
    "tests/dcgan/test_resume.py",
    "tests/dcgan/test_train.py",
    "tests/dcgan/distributed/test_process_group.py",
    "tests/dcgan/distributed/test_launcher.py",
    "tests/dcgan/test_selftest.py",
    "tests/deploy/test_streams.py",
    "tests/tools/test_train.py",
    "tests/tools/test_export.py",
    "tests/tools/test_benchmark.py",
    "tests/export/test_exporter.py",
    "tests/export/test_parity_full_size.py",
    "tests/test_install.py",
    "tests/tools/benchmarks/test_scale.py",
    "tests/tools/benchmarks/test_to_quality.py",
    "tests/docs/test_make_images.py",
    "tests/docs/test_search_recipes.py",
    "tests/notebooks/test_dcgan_faces.py",
)


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONGEST)))


@pytest.fixture(autouse=True)
def log_levels():
    """A tool that a test calls in this process sets the level of our loggers; the next test finds them as they were."""
    loggers = [logging.getLogger(name) for name in ("dcgan", "export", "deploy", "tools")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before):
        logger.setLevel(level)


@pytest.fixture
def images():
    """24 different images, uint8 [24, 3, 16, 16]."""
    return (bits(np.arange(24 * 3), 256).reshape(24, 3, 16, 16) & 255).astype(np.uint8)


@pytest.fixture
def tiny_config():
    """Settings of a model that takes milliseconds a step, and that trains on its images as they are, in float32
    on every processor."""
    from dcgan import TrainConfig

    return TrainConfig(**TINY, batch_size=8, ema=0.9, diffaugment="", amp="O0")


@pytest.fixture
def stale_generator():
    """A small generator whose BatchNorm statistics are far from those of its weights."""
    from dcgan import Generator

    paddle.seed(3)
    network = Generator(8, 4, 16)
    for layer in (network.bn_1, network.bn_2):
        layer._mean.set_value(np.full(layer._mean.shape, 0.3, np.float32))
        layer._variance.set_value(np.full(layer._variance.shape, 4.0, np.float32))
    return network


@pytest.fixture
def work_folder(tmp_path, monkeypatch):
    """An empty current folder, so that what a command writes stays in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class _Process(subprocess.Popen):
    """A Python process in a group of its own; what it says on both streams goes to the file `log`."""

    def __init__(self, arguments, cwd, log, **environment):
        self.log = log
        with open(log, "w") as stream:
            super().__init__(
                [sys.executable, *arguments],
                cwd=cwd,
                env={name: value for name, value in {**os.environ, **environment}.items() if value is not None},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def wait_for(self, text, seconds):
        """Return once it has said `text`; fail if it has ended or the time is over."""
        deadline = time.monotonic() + seconds
        while text not in Path(self.log).read_text():
            assert self.poll() is None and time.monotonic() < deadline, Path(self.log).read_text()
            time.sleep(0.05)

    def end(self):
        """Kill it and its children: those of the launcher are in groups of their own."""
        if self.poll() is None:
            children = subprocess.run(["pgrep", "-P", str(self.pid)], capture_output=True, text=True).stdout.split()
            for group in (self.pid, *map(int, children)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            self.wait()


@pytest.fixture(scope="session")
def start_process(tmp_path_factory):
    """start_process(arguments, cwd, **environment): a Python process that does not outlive the tests.

    A variable that is None is taken out of its environment.
    """
    started = []

    def start(arguments, cwd, **environment):
        log = tmp_path_factory.mktemp("log") / "log.txt"
        started.append(_Process(arguments, cwd, log, **environment))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture(scope="session")
def start_together(start_process):
    """start_together(arguments, cwd, extra): two processes that know each other as those of an older cluster do, by
    PADDLE_TRAINER_ENDPOINTS, without a launcher that watches them. `extra` has more arguments for the second."""

    def start(arguments, cwd, extra=(), count=2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        endpoints = [f"127.0.0.1:{port + rank}" for rank in range(count)]  # only the first, the store, is listened on
        return [
            start_process(
                [*arguments, *(extra if rank else ())],
                cwd,
                PADDLE_TRAINER_ENDPOINTS=",".join(endpoints),
                PADDLE_CURRENT_ENDPOINT=endpoints[rank],
            )
            for rank in range(count)
        ]

    return start
