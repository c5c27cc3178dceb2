"""Checks that compute: gradients in each precision against float64, exported images in each runtime, images/s."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from dcgan import DCGAN
from dcgan.checkpoints.params import write_params
from dcgan.compute_plan import ComputePlan, plan
from dcgan.errors import ProjectError
from dcgan.networks.batch_norm import precise_bn, precise_bn_latents
from dcgan.networks.discriminator import Discriminator
from dcgan.networks.generator import Generator
from dcgan.networks.kernels import PADDLE_KERNELS
from dcgan.networks.modes import frozen
from dcgan.networks.onednn import OneDnnKernels, OneDnnUnavailableError, has_bfloat16
from dcgan.training.losses import OBJECTIVES
from dcgan.training.precision import FLOAT32, Precision
from dcgan.training.state import network_arrays
from deploy.manifest import ModelError, read_manifest
from deploy.runtimes import BACKENDS, is_installed
from deploy.seeds import latents
from deploy.verify import verify
from tools.doctor_checks.decided import config_of
from tools.doctor_checks.line import NOT_APPLICABLE, OK, WRONG, Line, Request

LATENT_DIM, CHANNELS, SIZE, BATCH = 16, 16, 32, 8
# Largest distance of all gradients of a network from their float64 values, as a share of their length. float32 keeps 24
# bits, float16 11, bfloat16 8; what a layer rounds, the layers behind it multiply.
GRADIENT_TOLERANCES = {"float32": 1e-4, "float16": 0.1, "bfloat16": 0.3}
CONTRAST = 10.0  # an untrained last layer times this makes images that fill [-1, 1]

Gradients = dict[str, np.ndarray]


def gradients(request: Request) -> Iterator[Line]:
    """One training step of small networks in each precision of this device, against the same step in float64."""
    compute = plan(config_of(request))
    compute.apply()
    paddle.seed(0)
    networks = Generator(LATENT_DIM, CHANNELS, SIZE), Discriminator(CHANNELS, SIZE)
    for network in networks:
        for parameter in network.parameters():
            if parameter.ndim == 4:  # gradients of N(0, 0.02) vanish through so narrow layers
                parameter.set_value(parameter * 5.0)
    exact = _step(*(copy.deepcopy(network).to(dtype="float64") for network in networks), "float64", FLOAT32)
    for name, dtype, kernels, precision in _precisions(compute):
        own = [copy.deepcopy(network) for network in networks]
        for network in own:
            network.kernels = kernels
        precision.decorate(own, [])
        yield _gradient_line(name, dtype, _step(*own, "float32", precision), exact)


def _precisions(compute: ComputePlan) -> Iterator[tuple]:
    """Name, number format, kernels and mixed precision of every way to compute on this device."""
    yield "Paddle, float32", "float32", PADDLE_KERNELS, FLOAT32
    if compute.is_cpu:
        try:
            formats = ["float32", "bfloat16"] if has_bfloat16() else ["float32"]
        except OneDnnUnavailableError:
            formats = []
        for dtype in formats:
            yield f"oneDNN, {dtype}", dtype, OneDnnKernels(dtype), FLOAT32
        return
    for dtype in ("bfloat16", "float16") if paddle.amp.is_bfloat16_supported() else ("float16",):
        for level in ("O1", "O2"):
            yield f"Paddle, {level} {dtype}", dtype, PADDLE_KERNELS, Precision(level, dtype)


def _step(generator: nn.Layer, discriminator: nn.Layer, dtype: str, precision: Precision) -> Gradients:
    """Gradients of one step of both networks, float64 [count of all weights], by network."""
    z = paddle.to_tensor(latents(range(BATCH), LATENT_DIM)).astype(dtype)
    real = paddle.to_tensor(latents(range(BATCH), 3 * SIZE * SIZE)).reshape([BATCH, 3, SIZE, SIZE]).tanh().astype(dtype)

    def logits(images: paddle.Tensor) -> paddle.Tensor:
        with precision.autocast():
            return discriminator(images).astype(dtype)

    with precision.autocast():
        fake = generator(z)
    losses = OBJECTIVES["bce"]
    losses.discriminator(logits(real), logits(fake.detach())).backward()
    found = {"discriminator": _flat(discriminator)}
    with frozen(discriminator):
        losses.generator(logits(fake)).backward()
    return {**found, "generator": _flat(generator)}


def _flat(network: nn.Layer) -> np.ndarray:
    return np.concatenate(
        [p.grad.astype("float64").numpy().ravel() for p in network.parameters() if p.grad is not None]
    )


def _gradient_line(name: str, dtype: str, found: Gradients, exact: Gradients) -> Line:
    distances = {
        network: float(np.linalg.norm(found[network] - exact[network]) / np.linalg.norm(exact[network]))
        for network in exact
    }
    largest, allowed = max(distances.values()), GRADIENT_TOLERANCES[dtype]
    text = f"{largest:.1e} from float64, {allowed:g} allowed"
    is_right = largest <= allowed  # not so for NaN
    return Line(f"gradients, {name}", OK if is_right else WRONG, text, distances)


def parity(request: Request) -> Iterator[Line]:
    """Export an untrained generator, which compares every file with the network, and run it in each runtime."""
    device = "cpu" if plan(config_of(request)).is_cpu else "gpu"
    with tempfile.TemporaryDirectory(prefix="dcgan-doctor-") as folder:
        line = export_untrained(Path(folder), device)
        yield line
        if line.verdict == OK:
            yield from runtimes(Path(folder) / "export", device)


def export_untrained(folder: Path, device: str) -> Line:
    """Write `folder`/export in every format that this environment has."""
    from export.exporter import ExportConfig, export

    _write_untrained(folder / "generator.params")
    formats = ("onnx", "paddle") if importlib.util.find_spec("paddle2onnx") else ("paddle",)
    try:
        config = ExportConfig(folder / "generator.params", formats, precise_bn=0, device=device)
        export(folder / "export", config)
    except ProjectError as error:
        return Line("export", WRONG, " ".join(str(error).split())[:300])
    return Line("export", OK, f"{' and '.join(formats)}: every file computes what the network computes")


def runtimes(folder: Path, device: str) -> Iterator[Line]:
    """The images of an export in each installed runtime, on the CPU and on the GPU if that is the device."""
    kinds = {model.kind for model in read_manifest(folder).models}
    for backend, kind in BACKENDS.items():
        for where in ("cpu", "gpu") if device == "gpu" and backend != "openvino" else ("cpu",):
            name = f"parity, {backend} on {where}"
            if not is_installed(backend) or kind not in kinds:
                yield Line(name, NOT_APPLICABLE, "not installed" if kind in kinds else f"no {kind} model here")
            else:
                yield _parity_line(name, folder, backend, where)


def _parity_line(name: str, folder: Path, backend: str, device: str) -> Line:
    try:
        (row,) = verify(folder, backend, device)
    except (ModelError, ValueError, OSError) as error:
        return Line(name, WRONG, " ".join(str(error).split())[:300])
    text = f"{row.max_difference:.1e} from the network, {row.tolerance:.0e} allowed"
    if row.device != device:
        return Line(name, WRONG, f"computed on the {row.device} instead of the {device}")
    return Line(name, OK if row.passed else WRONG, text, row._asdict())


def _write_untrained(path: Path) -> None:
    paddle.seed(0)
    generator = Generator(LATENT_DIM, CHANNELS, SIZE)
    last = getattr(generator, f"conv_{generator.depth}").weight
    last.set_value(last * CONTRAST)
    precise_bn(generator, precise_bn_latents(LATENT_DIM))
    write_params(path, network_arrays(generator))


def throughput(request: Request) -> Iterator[Line]:
    """Images/s of the default networks: one training step and sampling, each the faster of two after a first one."""
    config = config_of(request)
    model = DCGAN(config)
    count = 32
    images = np.zeros([count, 3, config.image_size, config.image_size], np.float32)
    step = _seconds(lambda: (model.train_batch([images]), float(model.scalars["loss_g"])))
    model.uses_precise_bn = False  # time the generator, not the re-estimation of its statistics
    sample = _seconds(lambda: model.generate(range(count)))
    size = f"{config.image_size} x {config.image_size} pixels, {config.base_channels} channels, batch {count}"
    for name, seconds in (("training", step), ("sampling", sample)):
        per_second = count / seconds
        yield Line(f"speed of {name}", OK, f"{per_second:.0f} images/s ({size})", {"images_per_second": per_second})


def _seconds(run: object) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])
