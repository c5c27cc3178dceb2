"""What tools/evaluate.py measures (a generator in any form, a set of images, real images) and what it compares with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
from tqdm import tqdm

from dcgan.data.crop import fit_image
from dcgan.data.packed import PackedData, is_packed, open_packed
from dcgan.data.prepare import cached_packed
from dcgan.data.sources import Source, open_source
from dcgan.environment import command
from dcgan.errors import CheckpointError, DataError, EvaluationError
from dcgan.images import to_uint8, write_png
from dcgan.metrics.evaluate import AS_PACKED, FEWEST, choose, chosen_real, crop_of
from deploy.files import PathLike, make_folders
from deploy.seed_ranges import Seeds
from deploy.seeds import latents, permutation

log = logging.getLogger(__name__)

MANY, SOME = 10_000, 5_000  # images of each set, unless --n says otherwise
IMAGES_SEED = 1  # which images of a set that is larger than needed


class EvaluationTarget(NamedTuple):
    """What is measured, before its images are there.

    facts - JSON values for the report.  images(n, data) - uint8 [n, 3, S, S], fitted as those of `data` are.
    config - settings it was trained with, {} if unknown.  image_size - pixels; None: whatever is asked for.
    data_digest - of the images it was trained on, "" if unknown.  run - its run folder, if it has one.
    count - how many images there are; None: any number.  first_seed - of generated images.
    """

    facts: dict[str, Any]
    images: Callable[[int, PackedData], np.ndarray]
    config: Mapping[str, Any] = {}
    image_size: int | None = None
    data_digest: str = ""
    run: Path | None = None
    count: int | None = None
    first_seed: int | None = None

    def report_facts(self, n: int) -> dict[str, Any]:
        """`facts`, and the seeds of n images if they are generated."""
        if self.first_seed is None:
            return self.facts
        return {**self.facts, "seeds": f"{self.first_seed}-{self.first_seed + n - 1}"}


def checkpoint_target(path: PathLike | None, device: str, first_seed: int, batch_size: int) -> EvaluationTarget:
    """The generator of a run, a checkpoint folder or a `generator.params`; None: of the newest run under work/train.

    Raises CheckpointError, ValueError.
    """
    import paddle

    from dcgan.compute_plan import inference_plan
    from dcgan.config import read_config
    from dcgan.networks.modes import eval_kernels
    from dcgan.runs.find_checkpoint import find_checkpoint
    from export.load_weights import RUNS, load_source

    path = RUNS if path is None else Path(path)
    if not path.exists():
        raise CheckpointError(f"nothing to evaluate at {path}. Train first: {command('train')}")
    compute = inference_plan(device)
    compute.apply()
    if path.is_file():
        run, data = path.absolute().parent, {}
        config = read_config(run) if (run / "config.json").is_file() else {}
    else:
        found = find_checkpoint(path)
        path, run = found.folder, found.folder.absolute().parent.parent
        config, data = (_object(_object(found.state, "extra"), name) for name in ("config", "data"))
    source = load_source(path)
    layer = source.networks["generator"].layer

    @paddle.no_grad()
    def generate(seeds: range) -> np.ndarray:
        with eval_kernels(layer, compute.sampling_kernels()):
            return layer(paddle.to_tensor(latents(seeds, source.latent_dim))).numpy()

    return EvaluationTarget(
        {"kind": "checkpoint", **source.checkpoint, "latent_dim": source.latent_dim},
        _batched(generate, first_seed, batch_size),
        config=config,
        image_size=source.image_size,
        data_digest=str(data.get("digest", "")),
        run=run if (run / "config.json").is_file() else None,
        first_seed=first_seed,
    )


def exported_target(folder: PathLike, device: str, first_seed: int, batch_size: int) -> EvaluationTarget:
    """The generator of an export folder, run by its own runtime. Raises EvaluationError."""
    from deploy.manifest import ModelError, read_manifest
    from deploy.runtimes import load_generator

    try:
        manifest = read_manifest(folder)
        generator = load_generator(folder, device=device.partition(":")[0])
    except ModelError as error:
        raise EvaluationError(str(error)) from None

    def generate(seeds: range) -> np.ndarray:
        try:
            return generator.generate(seeds, len(seeds))
        except ModelError as error:
            raise EvaluationError(str(error)) from None

    trained = {name: manifest.checkpoint.get(name) for name in ("step", "run", "network")}
    runtime = {"latent_dim": manifest.latent_dim, "runtime": generator.backend, "model": generator.model_id}
    return EvaluationTarget(
        {"kind": "model", **trained, **runtime},
        _batched(generate, first_seed, batch_size),
        config=manifest.config,
        image_size=manifest.image_size,
        first_seed=first_seed,
    )


def folder_target(source: str) -> EvaluationTarget:
    """A folder of images, a .zip of them, or a packed .npy. Raises DataError."""
    if is_packed(source):
        packed = open_packed(source)
        facts = {"kind": "images", "name": Path(source).name}
        size = packed.images.shape[-1]
        return EvaluationTarget(
            facts, lambda n, data: choose(packed.images, n, IMAGES_SEED), image_size=size, count=len(packed)
        )
    with open_source(source) as opened:
        count, facts = len(opened), {"kind": "images", "name": opened.label}

    def read(n: int, data: PackedData) -> np.ndarray:
        chosen = np.sort(permutation(count, IMAGES_SEED)[:n])
        with open_source(source) as opened:
            return np.stack([_read(opened, i, data) for i in tqdm(chosen, desc="reading", disable=None)])

    return EvaluationTarget(facts, read, count=count)


def real_target(data: PackedData) -> EvaluationTarget:
    """Images of the data set itself, other ones than those they are compared with: the real-vs-real baseline."""
    facts = {"kind": "real-vs-real"}
    return EvaluationTarget(facts, lambda n, data: chosen_real(data, n, skip=n), count=len(data) // 2)


def open_data(
    source: str | None, crop: str | None, image_size: int | None, target: EvaluationTarget | None
) -> PackedData:
    """The real images, packed: `source`, or else what the target was trained on; crop and size likewise.

    Raises DataError if they are unknown, or no longer those that it was trained on; ValueError for flags that
    contradict the target.
    """
    config = {k: v for k, v in target.config.items() if isinstance(v, str)} if target else {}
    own = {"crop": config.get("crop"), "image-size": target.image_size if target else None}
    for name, asked in (("crop", crop), ("image-size", image_size)):
        if asked is not None and own[name] is not None and asked != own[name]:
            raise ValueError(f"--{name} is {asked}, and what is measured was made with {own[name]}: leave it out")
    named = source or config.get("data")
    if not named:
        raise DataError("the checkpoint does not say what it was trained on. Name the data set with --data.")
    if source is None and not named.startswith("cartoon") and not os.path.exists(named):
        raise DataError(f"{named}, which it was trained on, does not exist. Say where it is with --data.")
    packed = cached_packed(
        named,
        image_size=image_size or own["image-size"] or 64,
        crop=crop or own["crop"] or "tutorial",
    )
    if target and target.data_digest not in ("", packed.digest):
        message = f"{named} does not hold the images that this was trained on (SHA-256 of the pixels differs)"
        if source is None:
            raise DataError(f"{message}. To measure against it anyway, name it with --data.")
        log.warning("%s; measuring against it.", message)
    return packed


def how_many(asked: int | None, real_count: int, target: EvaluationTarget) -> int:
    """Images of each set. Raises ValueError for fewer than FEWEST, or more than there are images or seeds."""
    most = real_count if target.count is None else min(real_count, target.count)
    if most < FEWEST:
        raise ValueError(f"at least {FEWEST} images of each side are needed, and one of them has {most}")
    n = asked if asked is not None else MANY if most >= MANY else min(most, SOME)
    if not FEWEST <= n <= most:
        raise ValueError(f"n must be from {FEWEST} to {most}, as many images as both sides have; received {n}")
    if target.first_seed is not None:
        Seeds(range(target.first_seed, target.first_seed + n))
    return n


def save_images(folder: Path, images_uint8: np.ndarray) -> None:
    """Write 000000.png, ... into a new or empty folder. Raises DataError: left-over images would count too."""
    make_folders(folder)
    if any(folder.iterdir()):
        raise DataError(f"{folder} is not empty: name a new folder for the real images")
    for i, image in enumerate(tqdm(images_uint8, desc="writing", disable=None)):
        write_png(folder / f"{i:06}.png", image)


def _batched(
    generate: Callable[[range], np.ndarray], first_seed: int, batch_size: int
) -> Callable[[int, PackedData], np.ndarray]:
    """An EvaluationTarget's `images` from `generate`, which returns float32 [len(seeds), 3, S, S] in [-1, 1]."""

    def sampled(n: int, data: PackedData) -> np.ndarray:
        seeds = range(first_seed, first_seed + n)
        batches = []
        for start in tqdm(range(0, n, batch_size), desc="generating", unit=" batches", disable=None):
            images = generate(seeds[start : start + batch_size])
            if not np.isfinite(images).all():
                raise EvaluationError("the generator returned numbers that are not finite: its weights are damaged")
            batches.append(to_uint8(images))
        return np.concatenate(batches)

    return sampled


def _read(source: Source, i: int, data: PackedData) -> np.ndarray:
    """An image fitted as those of `data` were: the crop is the same on both sides."""
    size, crop = data.images.shape[-1], crop_of(data)
    try:
        image = source.image(i)
        if crop == AS_PACKED and image.shape[:2] != (size, size):
            raise DataError(f"{data.path} does not say how its images were cut out, so only {size} x {size} fit it")
        return fit_image(image, size, "center" if crop == AS_PACKED else crop).transpose(2, 0, 1)
    except DataError as error:
        raise DataError(f"{source.name(i)} cannot be measured: {error}") from None


def _object(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}
