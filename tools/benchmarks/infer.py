"""Inference with this project's runtimes and with those a user would have without it; and a cold start."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmarks import machine
from tools.benchmarks.measure import Case, Run, Skip, shell
from tools.benchmarks.train import rate_cases

LATENT_DIM = 100
STOCK = "stock-generator.onnx"  # paddle2onnx's own graph, beside the export
ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 32  # images a call, deploy/infer.py's default
IMAGES_OF_A_ROUND = 128  # at least, in as many calls as that takes
# name -> arguments of load_generator
RUNTIMES: dict[str, dict[str, str]] = {
    "onnxruntime, this project": {"backend": "onnxruntime"},
    "Paddle Inference": {"backend": "paddle"},
    "OpenVINO, float32": {"backend": "openvino"},
    "OpenVINO, bfloat16": {"backend": "openvino", "precision": "bf16"},
}


def export_random(folder: Path, base_channels: int, image_size: int) -> Path:
    """An export of a generator with random weights, which is as fast as a trained one, and paddle2onnx's own graph."""
    from dcgan.environment import import_paddle

    import_paddle()
    import paddle

    from dcgan.checkpoints.params import write_params
    from dcgan.networks.generator import Generator
    from dcgan.training.state import network_arrays
    from export.exporter import ExportConfig, export

    paddle.seed(0)
    params, out = folder / "random.params", folder / "export"
    write_params(params, network_arrays(Generator(LATENT_DIM, base_channels, image_size)))
    export(out, ExportConfig(checkpoint=params, formats=("paddle", "onnx"), precise_bn=1))
    write_stock(out)
    return out


def write_stock(folder: Path) -> None:
    """Write what paddle2onnx alone makes of the export's Paddle program, beside it."""
    import onnx

    from export.converter import convert

    onnx.save(convert(folder / "generator", 17, []), str(folder / STOCK))


def cases(
    folder: Path, batch_size: int, base_channels: int, image_size: int, threads: int, against: list[str]
) -> list[Case]:
    """Stock onnxruntime first, the reference; then this project's runtimes, peers, the rates of the lower bound."""
    calls = max(1, IMAGES_OF_A_ROUND // batch_size)
    stock = {"path": folder / STOCK, "batch_size": batch_size, "threads": threads}
    found = [Case("onnxruntime, paddle2onnx's graph", stock_runtime, stock, batch_size, calls=calls)]
    for name, how in RUNTIMES.items():
        arguments = {"folder": folder, "batch_size": batch_size, "threads": threads, "how": how}
        found.append(Case(name, project_runtime, arguments, batch_size, calls=calls))
    if "torch" in against:
        sizes = {"base_channels": base_channels, "image_size": image_size}
        for dtype in ("float32", "bfloat16"):
            arguments = {**sizes, "batch_size": batch_size, "threads": threads, "dtype": dtype}
            found.append(Case(f"torch, channels_last, {dtype}", torch_inference, arguments, batch_size, calls=calls))
    return [*found, *rate_cases(threads, "torch" in against)]


def stock_runtime(path: Path, batch_size: int, threads: int) -> Run:
    """onnxruntime with its own defaults, the whole batch in one call."""
    import onnxruntime

    if not path.is_file():
        raise Skip(f"{path.name} is not there: it is made of the Paddle program of an export --format all")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: paddle2onnx leaves a number in the graph that nothing uses
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    z = _latents(batch_size)
    return lambda: session.run(None, {session.get_inputs()[0].name: z})


def project_runtime(folder: Path, batch_size: int, threads: int, how: dict[str, Any]) -> Run:
    """`Runtime.images` as deploy/infer.py calls it, `AT_ONCE` images at a time."""
    from deploy.manifest import ModelError
    from deploy.runtimes import is_installed, load_generator

    if not is_installed(how["backend"]):
        raise Skip(f"{how['backend']} is not installed")
    try:
        runtime = load_generator(folder, device="cpu", threads=threads, **how)
    except ModelError as error:
        raise Skip(str(error)) from error
    z = _latents(batch_size)
    return lambda: [runtime.generate_from(z[i : i + AT_ONCE]) for i in range(0, batch_size, AT_ONCE)]


def torch_inference(base_channels: int, image_size: int, batch_size: int, threads: int, dtype: str) -> Run:
    """torch's generator in eval mode."""
    from tools.benchmarks.torch_peer import inference

    machine.require(dtype)
    return inference(base_channels, image_size, batch_size, threads, dtype)


def _latents(batch_size: int) -> np.ndarray:
    from deploy.seeds import latents

    return latents(range(batch_size), LATENT_DIM)


# ---- cold start -----------------------------------------------------------------------------------------------------

_BARE = """
import cv2, numpy, onnxruntime, sys
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
z = numpy.random.default_rng(0).standard_normal((100, 100), numpy.float32)
images = [session.run(None, {"z": z[i : i + 32]}) for i in range(0, 100, 32)]
"""


def cold_cases(folder: Path, out: Path) -> list[Case]:
    """A fresh process each time: the three packages and the session alone, then deploy/infer.py --n 100 as it is."""
    bare = [sys.executable, "-c", _BARE, str(folder / "generator.onnx")]
    infer = [sys.executable, str(ROOT / "deploy" / "infer.py"), "--n", "100", "--model", str(folder)]
    cases = {
        "imports and session only, 100 images": {"command": bare, "out": None},
        "deploy/infer.py --n 100, 100 files and a grid": {"command": infer, "out": out},
    }
    compiled = out.with_name("compiled")
    return [Case(name, cold_start, {**arguments, "compiled": compiled}, 100) for name, arguments in cases.items()]


def cold_start(command: list[str], out: Path | None, compiled: Path) -> Run:
    """Run a command as a user would who has run it before, so that its modules are there compiled, in `compiled`.

    `out` gets a new folder each time: no images are there already.
    """
    count = iter(range(10**9))
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run() -> None:
        shell([*command, *(["--out", str(out / str(next(count)))] if out else [])], environment)

    return run
