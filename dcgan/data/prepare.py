"""Any source of images -> a packed file, made once and reused for as long as nothing has changed.

A packed file is reused only while the fingerprint of the source, the settings and the digest of the pixels all hold,
else it is prepared again: whatever happens at whatever moment, a JSON is never believed about other pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import PIL
from tqdm import tqdm

from deploy.files import Lock, LockedError, PathLike, atomic_write, make_folders, remove_leftovers, write_json
from deploy.own_files import foreign

from ..environment import thread_count
from ..errors import DataError
from .crop import crop_origin
from .decode import DEFAULT_LIMITS, Limits
from .image_to_row import rows
from .packed import FORMAT, FORMAT_VERSION, PackedData, info_path, is_packed, npy_header, open_packed, read_info
from .sources import Source, open_source

Progress = Callable[[int, int], object]
logger = logging.getLogger("dcgan.data")
LINE_SECONDS = 30.0  # between two lines on how far it is, where stderr is no terminal


def prepare(
    data: PathLike,
    out: PathLike,
    *,
    image_size: int = 64,
    crop: str = "tutorial",
    seed: int = 0,
    workers: int = 0,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> PackedData:
    """Pack the images of `data` into `out` and its JSON, or reuse what is there if it still matches.

    Args: data - see `open_source`.  out - FILE.npy; its folder is made.  image_size - S, pixels.
          crop - see `fit_image`.  seed - of the synthetic faces.  workers - threads; 0: one for each core.
          progress - called with (done, total) after each image; None: a bar on stderr if that is a terminal.
    The result does not depend on `workers`. Memory: a few decoded images a thread. A file that is no image is left
    out, and named in the JSON and in a warning. Reuse reads the packed file once for its digest, about 1 GB/s.
    Raises DataError if nothing is usable, or if the disk is or becomes full; FileExistsError if `out` or its JSON is
    there and not ours to replace; ValueError for bad settings. Whatever is raised, Ctrl-C included, leaves `out` as it
    was.
    """
    data, out = os.fspath(data), Path(out)
    if out.suffix != ".npy":
        raise ValueError(f"a packed file must be called FILE.npy, received {out}")
    if image_size < 1 or workers < 0:
        raise ValueError(f"image_size must be at least 1 and workers at least 0, received {image_size} and {workers}")
    crop_origin(crop, image_size, image_size, image_size)  # a wrong crop is refused before anything is read
    # The JSON says whose the .npy is. It is written first, and so read last: another process may be writing both.
    there = [path for path in (out, info_path(out)) if os.path.lexists(path)]
    if there and not read_info(out):
        raise foreign(there[0])
    with open_source(data, limits, seed) as source:
        claim = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "source": {"kind": source.kind, "name": source.label, "fingerprint": source.fingerprint()},
            "settings": {"image_size": image_size, "crop": crop, **asdict(limits)},
        }
        packed = _reusable(out, claim, logging.DEBUG)  # without a lock: the folder may be read-only
        if not packed:
            make_folders(out.parent)
            with _one_writer(out):
                packed = _reusable(out, claim, logging.WARNING)  # another process may have made it meanwhile
                if not packed:
                    remove_leftovers(out.parent)
                    _check_space(out, len(source) * 3 * image_size * image_size)
                    packed = _pack(source, out, claim, workers or thread_count(), limits, progress)
        _name_rejected(packed, len(source))
        return packed


def cached_packed(
    data: PathLike,
    root: PathLike = Path("work/data"),
    *,
    image_size: int = 64,
    crop: str = "tutorial",
    seed: int = 0,
    workers: int = 0,
) -> PackedData:
    """What training uses: a packed .npy as it is, anything else prepared into `root` or reused from there.

    Arguments and errors as for `prepare`; a packed .npy of another size than `image_size` is a DataError.
    """
    data = os.fspath(data)
    if is_packed(data):
        packed = open_packed(data)
        size = packed.images.shape[-1]
        if size != image_size:
            wanted = f"Give --image-size {size}, if that is a power of two, or prepare the images again."
            raise DataError(f"{data} holds images of {size} pixels, not {image_size}. {wanted}")
        return packed
    out = Path(root) / _cache_name(data, image_size, crop, seed, DEFAULT_LIMITS)
    return prepare(data, out, image_size=image_size, crop=crop, seed=seed, workers=workers)


@contextlib.contextmanager
def _one_writer(out: Path) -> Iterator[None]:
    """Hold the lock of `out`, after another process has let go of it. The lock's file, hidden beside `out`, stays."""
    lock = Lock(out.with_name(f".{out.name}.lock"))
    is_told = False
    while not lock.is_locked:
        try:
            lock.acquire()
        except LockedError:
            if not is_told:
                logger.warning("Another process is preparing %s: waiting for it.", out)
                is_told = True
            time.sleep(0.2)
    with lock:
        yield


def _reusable(out: Path, claim: dict, level: int) -> PackedData | None:
    """What is at `out` if it was made from the same source with the same settings and is whole, else None.

    `level` - of the log line that says why a file of ours is not reused, where that is not the caller's own change.
    """
    info = read_info(out)
    if out.exists() and info and (info["format"], info.get("format_version")) != (FORMAT, FORMAT_VERSION):
        logger.log(level, "%s was packed by an earlier version of this project: preparing it again.", out)
    if not out.exists() or any(info.get(name) != value for name, value in claim.items()):
        return None
    try:
        return open_packed(out)
    except DataError as error:
        logger.log(level, "%s. Preparing it again.", error)
        return None


def _pack(
    source: Source, out: Path, claim: dict, workers: int, limits: Limits, progress: Progress | None
) -> PackedData:
    # The bar first: the first bar of a process imports modules, and Ctrl-C in an import would leave a file behind.
    logger.info("Preparing %d images into %s", len(source), out)
    with _reporting(progress, len(source)) as report, atomic_write(out) as stream:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged EXIF blocks; damaged pixels are errors
            count, digest, rejected = _write_rows(stream, source, claim["settings"], workers, limits, report)
        if not count:
            raise DataError(f"none of the {len(source)} files of {source.label} is a usable image: {_told(rejected)}")
        info = {
            **claim,
            "count": count,
            "image_size": claim["settings"]["image_size"],
            "sha256": digest,
            "rejected": rejected,
            "created_by": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "pillow": PIL.__version__,
                "opencv": cv2.__version__,
            },
        }
        stream.flush()
        os.fsync(stream.fileno())
        write_json(info_path(out), info)  # first the claim, so that a .npy of ours is never without one
    return open_packed(out)  # the digest of what is there now: where there are no locks, another may have written it


def _name_rejected(packed: PackedData, total: int) -> None:
    """Warn of the files that were left out, at each start: nobody reads the log of the first one."""
    rejected = packed.info["rejected"]
    if rejected:
        where = f" (all of them: {info_path(packed.path)})" if len(rejected) > 5 else ""
        logger.warning("%d of %d files left out%s: %s", len(rejected), total, where, _told(rejected))


def _told(rejected: list[dict[str, str]]) -> str:
    return "; ".join(f"{each['name']}: {each['reason']}" for each in rejected[:5])


def _write_rows(
    stream: IO[bytes], source: Source, settings: dict, workers: int, limits: Limits, report: Progress
) -> tuple[int, str, list[dict[str, str]]]:
    """Write header and pixels; returns their count and digest, and the rejected files.

    Written, not mapped: a full disk is then an error to catch, where a store into a mapped file kills the process.
    """
    count, digest, rejected = 0, hashlib.sha256(), []
    size, crop = settings["image_size"], settings["crop"]
    stream.write(npy_header(len(source), size))
    with contextlib.closing(rows(source, size, crop, limits, workers)) as chunks:
        for chunk in chunks:
            pixels = b"".join(result for result in chunk if isinstance(result, bytes))
            stream.write(pixels)
            digest.update(pixels)
            for result in chunk:
                if isinstance(result, str):
                    rejected.append({"name": source.name(count + len(rejected)), "reason": result})
                else:
                    count += 1
                report(count + len(rejected), len(source))
    stream.seek(0)
    stream.write(npy_header(count, size))
    return count, digest.hexdigest(), rejected


@contextlib.contextmanager
def _reporting(progress: Progress | None, total: int) -> Iterator[Progress]:
    """What to call with (done, total): the caller's function, or a bar of our own; where no one sees it, lines."""
    if progress:
        yield progress
        return
    with tqdm(total=total, desc="preparing", unit=" images", disable=None) as bar:
        told = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal told
            bar.update()
            if bar.disable and time.monotonic() - told >= LINE_SECONDS:
                told = time.monotonic()
                logger.info("%d of %d images prepared", done, total)

        yield report


def _check_space(out: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(out.parent).free
    if needed_bytes > free_bytes:
        raise DataError(
            f"{out} would take {needed_bytes / 1e6:,.0f} MB, and its disk has {free_bytes / 1e6:,.0f} MB free: "
            "free some space, or put it on another disk"
        )


def _cache_name(data: str, size: int, crop: str, seed: int, limits: Limits) -> str:
    """A file name of the source's own name, the size, and a digest of where the source is and of the settings."""
    is_drawn = data.partition(":")[0] == "cartoon"
    path = os.path.abspath(data)
    settings = [[data, seed] if is_drawn else path, size, crop, asdict(limits)]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    name = "cartoon" if is_drawn else re.sub(r"\.zip$", "", os.path.basename(path), flags=re.IGNORECASE)
    stem = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:40]
    return f"{stem or 'images'}-{size}-{digest[:8]}.npy"
