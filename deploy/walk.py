"""A walk from face to face: latents on the arcs between those of some seeds, as a video."""

from __future__ import annotations

import logging
import os
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from deploy import images
from deploy.files import atomic_write, make_folders, private_folder
from deploy.manifest import ModelError
from deploy.own_files import MARK, refuse_foreign
from deploy.progress import progress
from deploy.runtimes import Runtime
from deploy.seeds import latents

log = logging.getLogger(__name__)

# VP9, which all browsers play and OpenCV from PyPI writes (4.12, 5.0; it has no encoder for H.264 or AV1); H.264, for
# an OpenCV without VP9; MPEG-4 part 2, which players play and browsers do not.
CODECS = ("vp09", "avc1", "mp4v")
LONGEST_GIF = 2000  # frames; OpenCV wants all of them at once


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The latent at share `t` of the arc from `a` to `b`, float32 [latent_dim]: spherical interpolation.

    A straight line would pass close to the origin, where normal latents of many dimensions never are (White 2016,
    "Sampling Generative Networks", sec. 2.1).
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cosine = np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:  # nearly parallel: the arc is the line
        return ((1 - t) * a + t * b).astype(np.float32)
    return ((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)).astype(np.float32)


def walk_latents(seeds: list[int], frames: int, latent_dim: int) -> np.ndarray:
    """A closed loop through the seeds in their order: float32 [frames, latent_dim], evenly spaced from the first seed.

    The last frame is one step before the first, so that a video that repeats does not stumble. Seeds fall on frames
    exactly when `frames` is a multiple of their number.
    """
    stations = latents(seeds, latent_dim)
    path = np.empty((frames, latent_dim), np.float32)
    for frame in range(frames):
        leg, within = divmod(frame * len(seeds), frames)
        path[frame] = slerp(stations[leg], stations[(leg + 1) % len(seeds)], within / frames)
    return path


def write_walk(
    generator: Runtime, seeds: list[int], path: Path, *, frames: int, fps: float, scale: int, batch_size: int
) -> None:
    """Write the walk as .mp4 or .gif (which repeats), whole or not at all; each pixel becomes scale x scale of them.

    Raises ModelError where this OpenCV cannot write the format, OSError where the disk does not take it, and
    FileExistsError, before anything is made, where somebody else's file is.
    """
    if path.suffix == ".gif":
        check_gif(frames)
    refuse_foreign(path)
    make_folders(path.parent)
    z = walk_latents(seeds, frames, generator.signature.input_shape[0])
    size = generator.signature.output_shape[-1] * scale

    def frames_bgr():
        for frame in progress(range(frames), frames, "frames"):
            if frame % batch_size == 0:
                batch = images.to_uint8(generator.generate_from(z[frame : frame + batch_size], batch_size))
            yield enlarge(batch[frame % batch_size], scale)

    write = _write_gif if path.suffix == ".gif" else _write_mp4
    write(path, frames_bgr(), frames, fps, size)


def check_gif(frames: int) -> None:
    """Raise ModelError where this OpenCV writes no .gif, ValueError for more frames than it should hold."""
    if not hasattr(cv2, "imencodeanimation"):
        raise ModelError(
            f"OpenCV {cv2.__version__} cannot write .gif, 4.12 and newer can. Name an .mp4 file with --out."
        )
    if frames > LONGEST_GIF:
        raise ValueError(
            f"a .gif is made in memory and has at most {LONGEST_GIF} frames. Name an .mp4 file with --out."
        )


def encode_gif(frames_bgr: Iterable[np.ndarray], fps: float) -> bytes:
    """The content of a .gif that repeats, of frames uint8 [H, W, BGR]. Raises ModelError where OpenCV cannot."""
    animation = cv2.Animation()
    animation.frames = list(frames_bgr)
    ends = [round(100 * i / fps) for i in range(len(animation.frames) + 1)]  # a .gif counts hundredths of a second
    animation.durations = [10 * (end - start) for start, end in zip(ends, ends[1:])]
    done, content = cv2.imencodeanimation(".gif", animation, [cv2.IMWRITE_GIF_DITHER, 3])  # else 256 fixed colours
    if not done:
        raise ModelError("OpenCV could not encode the .gif. Name an .mp4 file with --out.")
    comment = b"!\xfe" + bytes([len(MARK)]) + MARK.encode() + b"\0"  # GIF89a, sec. 24; the last byte ends the file
    return content.tobytes()[:-1] + comment + b";"


def enlarge(image_uint8: np.ndarray, scale: int) -> np.ndarray:
    """A frame uint8 [H x scale, W x scale, BGR] of an image uint8 [3, H, W]."""
    return images.to_bgr(image_uint8.repeat(scale, axis=1).repeat(scale, axis=2))


def _write_gif(path: Path, images, frames: int, fps: float, size: int) -> None:
    content = encode_gif(images, fps)
    with atomic_write(path) as stream:
        stream.write(content)


def _write_mp4(path: Path, images, frames: int, fps: float, size: int) -> None:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent: what went wrong is said below, in one line
    with private_folder(path) as folder:
        aside = folder / "video.mp4"  # OpenCV looks at the suffix
        video = _open_video(path, aside, fps, size)
        for image in images:
            video.write(image)
        video.release()
        if _frame_count(aside) != frames:  # VideoWriter reports nothing, a full disk included
            raise OSError(f"{path} could not be written whole. Is the disk full?")
        with open(aside, "rb") as source, atomic_write(path) as stream:
            shutil.copyfileobj(source, stream)
            # players pass over a box of free space (ISO/IEC 14496-12, sec. 8.1.2)
            stream.write(struct.pack(">I", 8 + len(MARK)) + b"free" + MARK.encode())


def _open_video(path: Path, aside: Path, fps: float, size: int) -> cv2.VideoWriter:
    """A video at `aside`, in the first of CODECS that this OpenCV has; `path` is what messages call it."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        for codec in CODECS:
            video = cv2.VideoWriter(str(aside), cv2.VideoWriter_fourcc(*codec), fps, (size, size))
            if video.isOpened():
                if codec == "mp4v":
                    log.warning("Browsers do not play %s: this OpenCV writes no VP9. A .gif plays everywhere.", path)
                return video
    finally:
        cv2.utils.logging.setLogLevel(level)
    raise ModelError(f"OpenCV cannot write {path}. Is the folder writable? If so, name a .gif file with --out.")


def _frame_count(path: Path) -> int:
    video = cv2.VideoCapture(str(path))
    try:
        return int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        video.release()
