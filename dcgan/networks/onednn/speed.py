"""How much faster bfloat16 is than float32 on this processor: measured on one layer, remembered per processor.

Whether bfloat16 pays cannot be read from the processor's features: with AMX it does, with avx512_bf16 alone it does on
AMD's Zen 5 and did not on Intel's Sapphire Rapids.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
from pathlib import Path

import paddle
from paddle import nn

from deploy.files import make_folders, write_json

from ...environment import processor_facts, processor_name, thread_count
from .layers import OneDnnKernels
from .library import library

log = logging.getLogger(__name__)

SECONDS = 0.4  # of measuring; two or three tenths more go into making the primitives of oneDNN
_BATCH, _CHANNELS, _SIDE = 16, 128, 16  # one of the layers between 8 and 32 pixels, which take most of a step
_measured_here: dict[str, float] = {}  # by this process: its only memory where the cache file cannot be written


def bfloat16_speedup() -> float:
    """Time of a layer forward and backward in float32 over that in bfloat16; above 1, bfloat16 is faster.

    Reads the answer of an earlier process from the cache file if there is one for this processor and Paddle; else
    measures for about a second and writes it there.
    """
    processor = f"{this_processor()}, ISA {library().dnnl_get_effective_cpu_isa():#x}"
    key = f"{processor}, Paddle {paddle.__version__}, batch {_BATCH}"
    known = _read(cache_file())
    if isinstance(known.get(key), float) and 0.01 < known[key] < 100:
        return known[key]
    if key not in _measured_here:
        _measured_here[key] = round(measure(), 3)
    _write(cache_file(), {**known, key: _measured_here[key]})
    return _measured_here[key]


def measure(seconds: float = SECONDS) -> float:
    """The median of the ratios of their times, the two taking turns, in processor time of one thread.

    Of several threads one would measure, on a busy machine, how they wait for one another. The ratio of the shortest
    times varies five times as much: the two may come from moments of different clock rates.
    """
    paddle.base.core.set_num_threads(1)
    try:
        with paddle.utils.unique_name.guard():  # names of the networks' parameters must not depend on a measurement
            layers = {dtype: _Layer(dtype) for dtype in ("float32", "bfloat16")}
        for layer in layers.values():
            layer.seconds()  # makes oneDNN's primitives
        ratios = []
        end = time.thread_time() + seconds
        while not ratios or time.thread_time() < end:
            ratios.append(layers["float32"].seconds() / layers["bfloat16"].seconds())
        return statistics.median(ratios)
    finally:
        paddle.base.core.set_num_threads(thread_count())


class _Layer:
    """A convolution of stride 2 with BatchNorm and leaky ReLU, as the networks have it."""

    def __init__(self, dtype: str):
        self._kernels = OneDnnKernels(dtype)
        self._conv = nn.Conv2D(_CHANNELS, 2 * _CHANNELS, 4, 2, 1, bias_attr=False)
        self._norm = nn.BatchNorm2D(2 * _CHANNELS)
        values = paddle.linspace(-1, 1, _BATCH * _CHANNELS * _SIDE * _SIDE)
        self._x = self._kernels.enter(values.reshape([_BATCH, _CHANNELS, _SIDE, _SIDE]))
        self._x.stop_gradient = False

    def seconds(self) -> float:
        """One forward and backward pass."""
        start = time.thread_time()
        y = self._kernels.layer(self._x, self._conv, self._norm, "leaky_relu")
        paddle.autograd.backward([y], [y.detach().clone()])
        return time.thread_time() - start


def this_processor() -> str:
    """The processor's name and stepping, as far as the system tells."""
    facts = processor_facts()
    details = [facts.get(name, "?") for name in ("cpu family", "model", "stepping")] if facts else []
    return " ".join([processor_name(facts), *details])


def cache_file() -> Path:
    """Where measurements of this machine are kept, in the user's cache folder (XDG_CACHE_HOME)."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "dcgan-paddle" / "processor.json"


def _read(path: Path) -> dict:
    """What is remembered. A cache that is missing or damaged is an empty one."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(path: Path, values: dict) -> None:
    try:
        make_folders(path.parent)
        write_json(path, values)
    except OSError as error:  # a home that cannot be written to costs a second per process
        log.debug("The measurement of this processor is not kept: %s", error)
