"""What a request's images become: files of one image, grids, videos, archives, JSON. Each runs in a thread."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable

import numpy as np

from deploy import images, walk
from deploy.serving.engine import Job

MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".zip": "application/zip",
    ".npz": "application/x-npz",
    ".json": "application/json",
}


def one_image(suffix: str) -> Callable[[Job], bytes]:
    """The very file that `infer.py` writes for the job's only seed."""

    def finish(job: Job) -> bytes:
        return _file(job, 0, suffix)

    return finish


def grid(job: Job) -> bytes:
    """The `grid.png` that `infer.py` writes."""
    return images.encode(images.grid(job.images), ".png", f"model {job.model.id}")


def gif(fps: int, scale: int) -> Callable[[Job], bytes]:
    """A video that repeats, one frame an image."""

    def finish(job: Job) -> bytes:
        return walk.encode_gif((walk.enlarge(image, scale) for image in job.images), fps)

    return finish


def as_zip(job: Job) -> bytes:
    """PNG files, not packed a second time; the same bytes every time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for i in range(job.count):
            archive.writestr(zipfile.ZipInfo(f"{_name(job, i)}.png"), _file(job, i, ".png"))
    return stream.getvalue()


def as_npz(job: Job) -> bytes:
    """`images` uint8 [N, 3, S, S], and `seeds` uint32 [N] where seeds were asked for."""
    stream = io.BytesIO()
    seeds = {} if job.seeds is None else {"seeds": np.array(list(job.seeds), np.uint32)}
    np.savez(stream, images=job.images, **seeds)
    return stream.getvalue()


def as_json(job: Job) -> bytes:
    """`{"model": ..., "images": [{"seed": 7, "png": base64}, ...]}`; latents have an `index` instead of a seed."""
    entries = [{**_who(job, i), "png": base64.b64encode(_file(job, i, ".png")).decode()} for i in range(job.count)]
    return json.dumps({"model": job.model.tag, "images": entries}).encode()


def scores(job: Job) -> bytes:
    """`{"model": ..., "scores": [{"seed": 7, "score": 0.25}, ...]}`, rounded as in `infer.py --score`'s file."""
    entries = [{**_who(job, i), "score": round(float(job.scores[i]), 6)} for i in range(job.count)]
    return json.dumps({"model": job.model.tag, "scores": entries}).encode()


FORMATS = {"zip": as_zip, "npz": as_npz, "json": as_json}


def _file(job: Job, i: int, suffix: str) -> bytes:
    who = f"seed {job.seeds[i]}" if job.seeds is not None else f"latent {i}"
    return images.encode(job.images[i], suffix, f"{who}, model {job.model.id}")


def _name(job: Job, i: int) -> str:
    return f"seed-{job.seeds[i]:06}" if job.seeds is not None else f"latent-{i:06}"


def _who(job: Job, i: int) -> dict[str, int]:
    return {"seed": job.seeds[i]} if job.seeds is not None else {"index": i}
