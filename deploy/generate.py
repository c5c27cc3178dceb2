"""Images of many seeds, written while they are made: any number of them in the same memory, and resumable.

The model runs in the calling thread, a few writer threads encode and write. Only a handful of batches exist at a time.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np

from deploy import images
from deploy.files import atomic_write, make_folders, remove_leftovers
from deploy.manifest import ModelError
from deploy.own_files import MARK, refuse_foreign
from deploy.progress import progress
from deploy.runtimes import Runtime
from deploy.seed_ranges import Seeds

GRID_IMAGES = 100
Batch = tuple  # (seeds: list[int], images: uint8 [N, 3, S, S])


class Scores:
    """Probability by a discriminator that an image is a real one, seed by seed, streamed into a JSON file."""

    def __init__(self, discriminator: Runtime, stream: IO[bytes]):
        self._discriminator, self._stream = discriminator, stream
        self._stream.write(f'{{\n  "comment": "{MARK}"'.encode())
        self._count, self._sum = 0, 0.0
        self.lowest: tuple[float, int] = (2.0, -1)  # probability, seed
        self.highest: tuple[float, int] = (-1.0, -1)

    @property
    def mean(self) -> float:
        """Mean probability of the images so far."""
        return self._sum / self._count

    def add(self, seeds: list[int], images: np.ndarray) -> None:
        """Score images, float32 [N, 3, S, S] in [-1, 1]."""
        logits = self._discriminator.run(images)[:, 0].astype(np.float64)
        is_nan = np.isnan(logits)
        if is_nan.any():
            raise ModelError(f"the discriminator gives no number for seed {seeds[int(is_nan.argmax())]}")
        for seed, logit in zip(seeds, np.clip(logits, -700, 700)):  # beyond, exp overflows
            score = float(1.0 / (1.0 + np.exp(-logit)))
            self._stream.write(f',\n  "{seed}": {json.dumps(round(score, 6))}'.encode())
            self._count, self._sum = self._count + 1, self._sum + score
            self.lowest, self.highest = min(self.lowest, (score, seed)), max(self.highest, (score, seed))

    def finish(self) -> None:
        """Close the JSON object."""
        self._stream.write(b"\n}\n")


def write_images(
    generator: Runtime,
    seeds: Seeds,
    folder: Path,
    *,
    suffix: str = ".png",
    batch_size: int = 32,
    with_grid: bool = True,
    discriminator: Runtime | None = None,
) -> tuple[int, Scores | None]:
    """Write `seed-000007.png` and so on into `folder`, made if need be; `grid.png` of the first 100; `scores.json`.

    Args: suffix - .png, .jpg or .npz; the last is one `images.npz` (images uint8 [N, 3, S, S], seeds uint32 [N]).
          discriminator - its opinion goes into `scores.json`.
    Returns how many images were written, and the scores. Images that are there, whole and of this very model, stay
    as they are; `images.npz` is always made again. Raises OSError, ModelError; each file is then whole or as it was.
    Raises FileExistsError at the end, too, if another process has replaced some of the images by another model's.
    Raises FileExistsError before anything is made if a file of somebody else has the name of one of these.
    """
    model_id = generator.model_id
    make_folders(folder)
    remove_leftovers(folder)  # of runs that were killed: an unfinished .npz can be gigabytes
    _refuse_foreign(folder, seeds, suffix, with_grid, discriminator is not None)
    wanted = progress(seeds, len(seeds), "images")
    shown: list[np.ndarray] = []
    with contextlib.ExitStack() as stack:
        scores = None
        if discriminator is not None:
            scores = Scores(discriminator, stack.enter_context(atomic_write(folder / "scores.json")))
        if suffix != ".npz":
            # images that are there are made again only if the grid or the scores need them
            always = len(seeds) if scores else GRID_IMAGES if with_grid else 0
            wanted = _missing(wanted, folder, suffix, model_id, always)
        batches = _batches(generator, wanted, batch_size, scores)
        if with_grid:
            batches = _watched(batches, shown)
        if suffix == ".npz":
            written = _write_npz(batches, seeds, folder / "images.npz", generator.signature.output_shape)
        else:
            written = _write_files(batches, folder, suffix, model_id)
            _refuse_replaced(seeds, folder, suffix, model_id)
        if scores:
            scores.finish()
    if with_grid:
        content = images.encode(images.grid(np.stack(shown)), ".png", f"model {model_id}")
        _write_file(folder / "grid.png", content)
    return written, scores


def _refuse_foreign(folder: Path, seeds: Seeds, suffix: str, with_grid: bool, with_scores: bool) -> None:
    """Raise FileExistsError if what will be written would replace a file that this project did not write."""
    if with_grid:
        refuse_foreign(folder / "grid.png", images.OF_A_MODEL)
    if with_scores:
        refuse_foreign(folder / "scores.json")
    if suffix == ".npz":
        refuse_foreign(folder / "images.npz")
        return
    with os.scandir(folder) as entries:  # what is there, not the seeds: there may be a billion
        for entry in entries:
            found = re.fullmatch(rf"seed-([0-9]{{6,10}}){suffix}", entry.name)
            if found and int(found[1]) in seeds and entry.name == image_path(folder, int(found[1]), suffix).name:
                refuse_foreign(entry.path, images.OF_A_MODEL)


def _refuse_replaced(seeds: Seeds, folder: Path, suffix: str, model_id: str) -> None:
    """Raise FileExistsError unless every image is there and of this model now, at the end. Processes of one model may
    share a folder; of two models that do, the last one to end sees that the images are mixed."""
    count = sum(not images.is_whole(image_path(folder, seed, suffix), _comment(seed, model_id)) for seed in seeds)
    if count:
        message = f"another process has replaced or removed {count:,} of the {len(seeds):,} images here"
        raise FileExistsError(errno.EEXIST, f"{message}. Give each its own --out, and run this again", str(folder))


def image_path(folder: Path, seed: int, suffix: str) -> Path:
    """Where the image of a seed belongs."""
    return folder / f"seed-{seed:06}{suffix}"


def _comment(seed: int, model_id: str) -> str:
    return f"seed {seed}, model {model_id}"


def _missing(seeds: Iterable[int], folder: Path, suffix: str, model_id: str, always: int) -> Iterator[int]:
    """The seeds whose image is not there or not whole, and in any case the first `always` ones."""
    for position, seed in enumerate(seeds):
        path = image_path(folder, seed, suffix)
        if position < always or not images.is_whole(path, _comment(seed, model_id)):
            yield seed


def _batches(generator: Runtime, seeds: Iterable[int], batch_size: int, scores: Scores | None) -> Iterator[Batch]:
    rest = iter(seeds)
    while True:
        batch = list(itertools.islice(rest, batch_size))
        if not batch:
            return
        generated = generator.generate(batch, batch_size)
        if scores:
            scores.add(batch, generated)
        yield batch, images.to_uint8(generated)


def _watched(batches: Iterable[Batch], shown: list[np.ndarray]) -> Iterator[Batch]:
    """The same batches; the first images are copied to `shown`, for the grid."""
    for seeds, batch in batches:
        shown.extend(batch[: GRID_IMAGES - len(shown)].copy())
        yield seeds, batch


def _write_files(batches: Iterable[Batch], folder: Path, suffix: str, model_id: str) -> int:
    """Let a few threads write the batches; returns the number of files written."""
    writers = max(2, min(8, os.cpu_count() or 1))
    waiting: deque[Future[int]] = deque()
    written = 0
    with ThreadPoolExecutor(writers) as pool:  # when the model fails or is interrupted, what it made is still written
        for batch in batches:
            waiting.append(pool.submit(_write_batch, batch, folder, suffix, model_id))
            while len(waiting) > 2 * writers:  # the bound of this program's memory
                written += waiting.popleft().result()
        return written + sum(future.result() for future in waiting)


def _write_batch(batch: Batch, folder: Path, suffix: str, model_id: str) -> int:
    written = 0
    for seed, image in zip(*batch):
        path, comment = image_path(folder, seed, suffix), _comment(seed, model_id)
        if not images.is_whole(path, comment):
            _write_file(path, images.encode(image, suffix, comment))
            written += 1
    return written


def _write_file(path: Path, content: bytes) -> None:
    # an image that a power cut damages is made again by the next run
    with atomic_write(path, durable=False) as stream:
        stream.write(content)


def _write_npz(batches: Iterable[Batch], seeds: Seeds, path: Path, shape: tuple[int, ...]) -> int:
    """Stream the batches into an .npz file: numpy itself would want all images at once."""
    import zipfile  # 5 ms of a cold start that no image needs

    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.comment = MARK.encode()
        with archive.open("images.npy", "w", force_zip64=True) as entry:
            _npy_header(entry, "|u1", (len(seeds), *shape))
            for _, images in batches:
                entry.write(images.tobytes())
        with archive.open("seeds.npy", "w", force_zip64=True) as entry:
            _npy_header(entry, "<u4", (len(seeds),))
            rest = iter(seeds)
            for chunk in iter(lambda: list(itertools.islice(rest, 65536)), []):
                entry.write(np.array(chunk, "<u4").tobytes())
    return len(seeds)


def _npy_header(stream: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
