"""How long until generated faces are good: recipes that train in turn on the same images, measured off the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmarks.measure import Case, Run, measure

DATA = "cartoon"
IMAGES = 500  # generated, and compared with the first 500 of the data
RECIPES = {"default": "this project, default recipe", "tutorial": "this project, --preset tutorial"}
TORCH = "torch, recipe of pytorch/examples"

Train = Callable[[], object]  # one iteration
Generate = Callable[[], np.ndarray]  # IMAGES images, uint8 [N, 3, S, S]


def cases(sizes: dict[str, int], seed: int, seconds: float, scratch: Path, against: list[str]) -> list[Case]:
    """Each trains for `seconds` a round and appends (seconds from its start, the same of processor time, iterations,
    distance) to `file_of` it. Seconds of processor time are those of all threads divided by their number.

    Args: sizes - base_channels, image_size and threads.
    """
    names = [*RECIPES.values(), *([TORCH] if "torch" in against else [])]
    return [
        Case(
            name,
            learner,
            {
                "name": name,
                "data": DATA,
                "seed": seed,
                "seconds": seconds,
                "file": file_of(scratch, name, seed),
                **sizes,
            },
            IMAGES,
            warm_up=0,
        )
        for name in names
    ]


def file_of(scratch: Path, name: str, seed: int) -> Path:
    return scratch / f"{''.join(c for c in name if c.isalnum())}-{seed}.jsonl"


def learner(
    name: str, data: str, seed: int, seconds: float, file: Path, base_channels: int, image_size: int, threads: int
) -> Run:
    """What one round calls. The clocks begin here, before Paddle or torch is imported, and stand still while images
    are generated and measured, and while others have their turn. A turn lasts `seconds` of processor time, so that
    other work on the machine takes nothing from it."""

    def clocks() -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time() / threads])

    start = clocks()
    from dcgan.data.prepare import cached_packed
    from dcgan.metrics.sliced_wasserstein import sliced_wasserstein

    images = cached_packed(data, image_size=image_size).images[:]
    if name == TORCH:
        from tools.benchmarks.torch_peer import examples_recipe

        train, generate = examples_recipe(images, base_channels, threads, seed, IMAGES)
    else:
        recipe = next(key for key, value in RECIPES.items() if value == name)
        train, generate = project_recipe(recipe, images, base_channels, image_size, threads, seed)
    on_clock, iterations = clocks() - start, 0

    def run() -> None:
        nonlocal on_clock, iterations
        begun = clocks()
        while (clocks() - begun)[1] < seconds:
            train()
            iterations += 1
        on_clock += clocks() - begun
        distance = sliced_wasserstein(images[:IMAGES], generate())["mean"]
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps([*on_clock, iterations, distance]) + "\n")

    return run


def project_recipe(
    recipe: str, images: np.ndarray, base_channels: int, image_size: int, threads: int, seed: int
) -> tuple[Train, Generate]:
    """The iteration of a preset as tools/train.py runs it, and what its generator makes of the seeds 0 .. 499."""
    from dcgan.environment import import_paddle

    import_paddle()
    import paddle

    from dcgan import DCGAN, BatchLoader, TrainConfig
    from dcgan.images import to_uint8
    from dcgan.presets import PRESETS, fitted_to

    settings: dict[str, Any] = {**(fitted_to(len(images)) if recipe == "default" else {}), **PRESETS[recipe]}
    settings.update(base_channels=base_channels, image_size=image_size, seed=seed, device="cpu")
    config = TrainConfig(**settings)
    model = DCGAN(config)
    paddle.base.core.set_num_threads(threads)
    batches = _forever(BatchLoader(images, config.batch_size * config.d_steps, seed=seed, flip=config.flip))

    def train() -> None:
        model.train_batch([paddle.to_tensor(batch) for batch in next(batches)])

    return train, lambda: to_uint8(model.generate(range(IMAGES)))


def _forever(loader: Any) -> Iterator[list[np.ndarray]]:
    while True:
        yield from loader


def table(sizes: dict[str, int], args: Any, against: list[str], scratch: Path, say: Callable) -> dict[str, Any]:
    """Per recipe when each seed reached the distance, None where it did not, and all that was measured.

    Args: args - to_quality, seeds, seconds and rounds of tools/benchmark.py.
    """
    from dcgan.data.prepare import cached_packed
    from dcgan.metrics.sliced_wasserstein import sliced_wasserstein

    say("drawing the faces that all train on")
    images = cached_packed(DATA, image_size=sizes["image_size"]).images
    baseline = sliced_wasserstein(images[:IMAGES], images[IMAGES : 2 * IMAGES])["mean"]
    curves: dict[str, list[list]] = {}
    skipped: dict[str, str] = {}
    for seed in args.seeds:
        say(f"seed {seed}")
        timings, skipped = measure(cases(sizes, seed, args.seconds, scratch, against), args.rounds, say)
        for name in (timing.case.name for timing in timings):
            lines = file_of(scratch, name, seed).read_text("utf-8").splitlines()
            curves.setdefault(name, []).append([json.loads(line) for line in lines])
    return {
        "title": f"seconds until the sliced Wasserstein distance is at most {args.to_quality:g}",
        "to_quality": [
            {"name": name, "reached": [reached(curve, args.to_quality) for curve in runs], "curves": runs}
            for name, runs in curves.items()
        ],
        "real_to_real": baseline,
        "skipped": skipped,
    }


def reached(curve: list, distance: float) -> list | None:
    """Seconds, processor seconds, iterations and distance of the first measurement of at most `distance`."""
    return next((point for point in curve if point[-1] <= distance), None)


def text(found: dict[str, Any]) -> list[str]:
    """The table as lines; a recipe's `distances` are those of its first seed, one a turn."""
    lines = [f"{'recipe':36}{'seconds':>12}{'cpu s':>12}{'iterations':>14}  distances"]
    for row in found["to_quality"]:
        columns = list(zip(*(point or ["-"] * 4 for point in row["reached"])))[:3]
        seconds, cpu, iterations = (", ".join(f"{v:.0f}" if v != "-" else v for v in column) for column in columns)
        distances = " ".join(f"{point[-1]:.0f}" for point in row["curves"][0])
        lines.append(f"{row['name']:36}{seconds:>12}{cpu:>12}{iterations:>14}  {distances}")
    lines.append(f"{IMAGES} images each; real images against real ones: {found['real_to_real']:.1f}; one value a seed")
    return lines + [f"{name}: left out, {reason}" for name, reason in found["skipped"].items()]
