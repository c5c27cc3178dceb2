"""Checks that need no Paddle: Python, packages, processor, memory, disk, and a folder that can be written to."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dcgan.environment import core_count, processor_facts, processor_name, thread_count
from tools.doctor_checks.line import NOT_APPLICABLE, OK, WRONG, Line, Request

PADDLE_VERSION = "3.2.2"
OLDEST_PYTHON, NEWEST_PYTHON, NEWEST_FOR_ONNX = (3, 9), (3, 13), (3, 12)
VECTOR_UNITS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16")
GIB = 1 << 30
LEAST_DISK = LEAST_MEMORY = GIB  # five checkpoints of the default networks take about half of it
# Distributions, any of which will do, and the module that they bring.
REQUIRED = (
    (("paddlepaddle", "paddlepaddle-gpu"), "paddle"),
    (("setuptools",), "setuptools"),
    (("numpy",), "numpy"),
    (("opencv-python-headless", "opencv-python", "opencv-contrib-python"), "cv2"),
    (("matplotlib",), "matplotlib"),
    (("safetensors",), "safetensors"),
    (("tqdm",), "tqdm"),
    (("pillow",), "PIL"),
    (("onnxruntime", "onnxruntime-gpu"), "onnxruntime"),
)
FOR_ONNX = ((("onnx",), "onnx"), (("paddle2onnx",), "paddle2onnx"))
OPTIONAL = (("openvino", "openvino"), ("visualdl", "visualdl"))


def python(_: Request) -> Iterator[Line]:
    """The interpreter, against the versions that Paddle has wheels for."""
    found, text = sys.version_info[:2], f"{platform.python_version()} at {sys.executable}"
    if OLDEST_PYTHON <= found <= NEWEST_PYTHON:
        yield Line("python", OK, text)
    else:
        yield Line("python", WRONG, f"{text}: Paddle {PADDLE_VERSION} has wheels for Python 3.9 to 3.13")


def packages(_: Request) -> Iterator[Line]:
    """Every package that train, export and generate need, and those that are optional."""
    for distributions, module in REQUIRED:
        yield _package(distributions, module)
    for distributions, module in FOR_ONNX:
        if sys.version_info[:2] > NEWEST_FOR_ONNX:
            text = "has no wheel for this Python: --format paddle works, --format onnx needs Python 3.12"
            yield Line(f"package {module}", NOT_APPLICABLE, text)
        else:
            yield _package(distributions, module)
    for distribution, module in OPTIONAL:
        if importlib.util.find_spec(module) is None:
            yield Line(f"package {module}", NOT_APPLICABLE, "optional, not installed")
        else:
            yield _package((distribution,), module)


def _package(distributions: tuple[str, ...], module: str) -> Line:
    """Whether a package is there, in the version that is needed. It is not imported."""
    name, versions = f"package {module}", {}
    for distribution in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[distribution] = importlib.metadata.version(distribution)
    found = ", ".join(f"{key} {value}" for key, value in versions.items())
    if importlib.util.find_spec(module) is None:
        return Line(name, WRONG, f"{module} is not installed. Run: pip install -r requirements.txt")
    if len(versions) > 1:
        return Line(name, WRONG, f"{found}: both write the same files. Uninstall both, then install one.")
    if module == "paddle" and PADDLE_VERSION not in versions.values():
        return Line(name, WRONG, f"{found or 'of unknown version'}; {PADDLE_VERSION} is needed")
    return Line(name, OK, found or "version unknown", dict(versions))


def processor(_: Request) -> Iterator[Line]:
    """The processor's name, its vector units, and the threads that will compute."""
    facts = processor_facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    units = [unit for unit in VECTOR_UNITS if unit in flags]
    text = f"{processor_name(facts)}: {', '.join(units) or 'vector units unknown'}"
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx" not in flags:
        yield Line("processor", WRONG, f"{text}: Paddle's wheels need AVX", {"units": units})
    else:
        yield Line("processor", OK, text, {"units": units})
    threads, cores = thread_count(), core_count()
    text, figures = f"{threads} for {cores} cores", {"threads": threads, "cores": cores}
    if threads > cores:
        yield Line("threads", WRONG, f"{text}: they wait for each other. Lower or unset OMP_NUM_THREADS.", figures)
    else:
        yield Line("threads", OK, text, figures)


def memory(_: Request) -> Iterator[Line]:
    """What the system says is available."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        kib = {key: int(rest.split()[0]) for key, rest in (line.split(":", 1) for line in lines)}
        available, total = kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024
    except (OSError, KeyError, ValueError, IndexError):
        yield Line("memory", NOT_APPLICABLE, "this system does not say how much is available")
        return
    text = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    verdict = OK if available >= LEAST_MEMORY else WRONG
    yield Line("memory", verdict, text if verdict == OK else f"{text}; at least 1 GiB is needed")


def disk(request: Request) -> Iterator[Line]:
    """Free space where runs go, and whether files can be made and renamed there."""
    folder = _existing(Path(request.work))
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free in {folder}"
    verdict = OK if free >= LEAST_DISK else WRONG
    yield Line("disk", verdict, text if verdict == OK else f"{text}; checkpoints need at least 1 GiB")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", delete=False) as file:
            file.write(b"doctor")
        os.replace(file.name, file.name + ".renamed")
        os.unlink(file.name + ".renamed")
    except OSError as error:
        yield Line("work folder", WRONG, f"{folder} cannot be written to: {error.strerror}. Use --work and --out.")
    else:
        yield Line("work folder", OK, f"{folder} can be written to")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: where it would be made."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
