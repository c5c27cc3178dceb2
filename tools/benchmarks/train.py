"""One training iteration at a time, on a fixed batch: this project's ways to compute it, and torch's."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.benchmarks import machine, work
from tools.benchmarks.measure import Case, Run, Skip

# name -> settings of TrainConfig; the first is what the others are compared with
VARIANTS: dict[str, dict[str, str]] = {
    "Paddle's operators, float32": {"cpu_kernels": "paddle", "amp": "O0"},
    "oneDNN, float32": {"cpu_kernels": "onednn", "amp": "O0"},
    "oneDNN, bfloat16": {"cpu_kernels": "onednn", "amp": "O1"},
}
PEERS = {"torch, channels_last, float32": "float32", "torch, channels_last, bfloat16": "bfloat16"}
PRODUCT, COPY = "matrix product, ", "copy of memory"


def cases(batch_size: int, base_channels: int, image_size: int, threads: int, against: list[str]) -> list[Case]:
    """The variants, the peers asked for, and the rates of the lower bound."""
    sizes = {"batch_size": batch_size, "base_channels": base_channels, "image_size": image_size, "threads": threads}
    found = [Case(name, paddle_step, {**sizes, "settings": each}, batch_size) for name, each in VARIANTS.items()]
    if "torch" in against:
        found += [Case(name, torch_step, {**sizes, "dtype": dtype}, batch_size) for name, dtype in PEERS.items()]
    return [*found, *rate_cases(threads, "torch" in against)]


def rate_cases(threads: int, with_torch: bool) -> list[Case]:
    """The rates of the lower bound: measured in the same rounds, so that the same load slows them."""
    products = [("float32, Paddle", machine.paddle_product, {}), ("float32, numpy", machine.numpy_product, {})]
    for library, product in (("oneDNN", machine.onednn_product), ("torch", machine.torch_product)):
        if library != "torch" or with_torch:
            products += [(f"{dtype}, {library}", product, {"dtype": dtype}) for dtype in ("float32", "bfloat16")]
    found = [
        Case(PRODUCT + name, factory, {"threads": threads, **more}, machine.PRODUCT_FLOP, calls=8)
        for name, factory, more in products
    ]
    return [*found, Case(COPY, machine.memory_copy, {"threads": threads}, 2 * machine.COPIED_BYTES)]


def is_rate(name: str) -> bool:
    """Whether a case of this name is one of `rate_cases`."""
    return name == COPY or name.startswith(PRODUCT)


def lower_bound(rates: dict[str, float], step: work.Work, half_step: work.Work) -> dict[str, dict[str, float]]:
    """Seconds that one step takes at least, by precision: operations over the highest rate at which any library
    multiplied matrices of it, bytes over theirs.

    Args: rates - units per second of the rate cases by name.  step, half_step - with 4 and 2 bytes a number.
    """
    found = {}
    for dtype, todo in (("float32", step), ("bfloat16", half_step)):
        products = [rate for name, rate in rates.items() if name.startswith(PRODUCT + dtype)]
        if products and COPY in rates:
            found[dtype] = {"compute_seconds": todo.flop / max(products), "memory_seconds": todo.bytes / rates[COPY]}
    return found


def real_batch(batch_size: int, image_size: int) -> np.ndarray:
    """A fixed batch as the loader gives it: float32 [N, 3, S, S] of uint8 levels."""
    from dcgan.images import to_float

    levels = np.random.default_rng(0).integers(0, 256, (batch_size, 3, image_size, image_size), np.uint8)
    return to_float(levels)


def paddle_step(batch_size: int, base_channels: int, image_size: int, threads: int, settings: dict[str, Any]) -> Run:
    """`DCGAN.train_batch` without averaging, augmentation and energy distance, which the peers have not."""
    from dcgan.environment import import_paddle

    import_paddle()
    import paddle

    from dcgan import DCGAN, TrainConfig
    from dcgan.networks.kernels import PADDLE_KERNELS

    config = TrainConfig(
        batch_size=batch_size,
        base_channels=base_channels,
        image_size=image_size,
        ema=0.0,
        diffaugment="",
        energy_weight=0.0,
        texture_weight=0.0,
        structure_weight=0.0,
        device="cpu",
        **settings,
    )
    model = DCGAN(config)
    wanted, kernels = settings["cpu_kernels"], model.generator.kernels
    if wanted == "onednn" and kernels is PADDLE_KERNELS:
        raise Skip("the oneDNN kernels cannot be had here")
    if settings["amp"] == "O1" and getattr(kernels, "dtype", "bfloat16") != "bfloat16":
        raise Skip(machine.NO_BFLOAT16)
    paddle.base.core.set_num_threads(threads)
    real = paddle.to_tensor(real_batch(batch_size, image_size))
    # reading one number waits for the step: on a CPU it is over by then, on a GPU it would not be
    return lambda: (model.train_batch([real]), float(model.scalars["loss_g"]))


def torch_step(batch_size: int, base_channels: int, image_size: int, threads: int, dtype: str) -> Run:
    """The same iteration by torch: the same layers, losses, optimizers and order of passes, in channels_last."""
    from tools.benchmarks.torch_peer import adversarial_step

    machine.require(dtype)
    real = real_batch(batch_size, image_size)
    return adversarial_step(real, base_channels, image_size, threads, dtype)
