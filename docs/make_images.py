#!/usr/bin/env python3
"""Make the images of README and docs/quality.md: a film of a training, faces of a run, thumbnails of two pages."""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import io
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dcgan.errors import ProjectError
from dcgan.images import GAP, TITLE_HEIGHT
from dcgan.runs.report import write_report
from deploy.files import atomic_write
from deploy.images import grid, to_uint8
from deploy.manifest import read_manifest
from deploy.playground import model_files, static_files
from deploy.runtimes import load_generator
from deploy.seeds import latents
from deploy.walk import slerp
from tools.console import add_log_level, run, start_logging

EXAMPLES = """examples:
  # the film of README: the sample grids of a run, then a walk by its export
  python docs/make_images.py film work/train/00000-cartoon --model work/export
  # a row of faces from the last sample grid of a run
  python docs/make_images.py faces work/train/00000-cartoon --out docs/images/quality/now.jpg
  # the report of a run and the playground of an export, as thumbnails
  python docs/make_images.py pages work/train/00000-cartoon --model work/export
"""
IMAGES = Path(__file__).resolve().parent / "images"
COLUMNS = 10  # of a sample grid
CELLS = 25  # seeds that the film follows, as 5 x 5
MOMENTS = 40  # frames of training at most
LEG = 22  # frames of the walk from one seed to the next
SEEDS_OF_THE_WALK = (0, 100, 200, 0)  # each cell adds its own number
MILLISECONDS = {"first": 900, "training": 130, "trained": 1600, "walk": 70}
STRIP = 26  # pixels below the film's faces
INK, BAR, RAIL = (70, 80, 92), (37, 99, 235), (225, 229, 235)
# Resolves when a page has decoded its images and painted with them.
PAINTED = """async () => {
  await Promise.all([...document.images].map((image) => image.decode()));
  for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
}"""
VIEW = {"width": 1000, "height": 1078}  # as wide and high as the film


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = flags.add_subparsers(dest="kind", required=True)
    for kind, out, text in (
        ("film", IMAGES / "film.webp", "training of 25 seeds, then a walk from these faces to others and back"),
        ("faces", None, "a row of faces"),
        ("pages", IMAGES, "report.jpg, playground.jpg, and both in Chinese (*.zh.jpg)"),
    ):
        one = kinds.add_parser(kind, help=text)
        one.add_argument("run", type=Path, metavar="RUN", help="run folder")
        one.add_argument("--out", type=Path, default=out, required=out is None, help=f"default: {out}" if out else None)
        if kind != "faces":
            one.add_argument("--model", type=Path, default=Path("work/export"), help="export folder of that run")
        if kind == "film":
            one.add_argument("--most-bytes", type=int, default=2_000_000, help="size at most (default: 2000000)")
        if kind == "faces":
            one.add_argument("--n", type=int, default=12, help="seeds 0 to N-1, at most 100 (default: 12)")
            one.add_argument("--real", action="store_true", help="the first training images instead")
        add_log_level(one)
    return flags


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    start_logging(arguments.log_level)
    if arguments.kind == "film":
        written = [write_film(arguments.run, arguments.model, arguments.out, arguments.most_bytes)]
    elif arguments.kind == "faces":
        written = [write_faces(arguments.run, arguments.out, arguments.n, arguments.real)]
    else:
        written = write_pages(arguments.run, arguments.model, arguments.out)
    for path in written:
        print(f"{path}: {path.stat().st_size // 1000} KB")
    return 0


# ---- sample grids ---------------------------------------------------------------------------------------------------


def sample_grids(run: Path) -> list[tuple[int, Path]]:
    """(step, file) of every sample grid of a run, the earliest first. Raises ProjectError where there is none."""
    found = [(int(path.stem.partition("-")[2]), path) for path in sorted((run / "samples").glob("step-*.png"))]
    if not found:
        raise ProjectError(f"{run / 'samples'} holds no sample grid. Give the folder of a run.")
    return found


def faces_of(path: Path, count: int, title: int = TITLE_HEIGHT) -> np.ndarray:
    """The first `count` faces of a grid of ten columns below `title` pixels: uint8 [count, 3, S, S]."""
    with Image.open(path) as opened:
        image = np.asarray(opened.convert("RGB"))[title:]
    return np.stack([cut(image, seed) for seed in range(count)]).transpose(0, 3, 1, 2)


def cut(image: np.ndarray, seed: int) -> np.ndarray:
    """Face number `seed` [S, S, 3] of a grid [H, W, 3] of ten columns without its title."""
    size = (image.shape[1] - GAP) // COLUMNS - GAP
    row, column = divmod(seed, COLUMNS)
    top, left = GAP + row * (size + GAP), GAP + column * (size + GAP)
    return image[top : top + size, left : left + size]


def write_faces(run: Path, out: Path, count: int, is_real: bool) -> Path:
    """One row of the first `count` faces of the run's last sample grid, or of its training images."""
    faces = faces_of(run / "real.png", count, title=0) if is_real else faces_of(sample_grids(run)[-1][1], count)
    _write(out, Image.fromarray(grid(faces, columns=count).transpose(1, 2, 0)), quality=85)
    return out


# ---- the film -------------------------------------------------------------------------------------------------------


def write_film(run: Path, model: Path, out: Path, most_bytes: int) -> Path:
    """An animated WebP, which repeats: the run's sample grids, then a walk that ends where it began.

    The quality is the best of some whose file has at most `most_bytes`. Raises ProjectError if none has.
    """
    chosen = moments(sample_grids(run))
    last = chosen[-1][0]
    frames = [_frame(faces_of(path, CELLS), f"iteration {step:,}", step / max(1, last)) for step, path in chosen]
    durations = [MILLISECONDS["training"]] * len(frames)
    durations[0], durations[-1] = MILLISECONDS["first"], MILLISECONDS["trained"]
    for faces in walk(model):
        frames.append(_frame(faces, "from seed to seed", 1.0))
        durations.append(MILLISECONDS["walk"])
    for quality in (85, 80, 75, 70, 65, 60, 50, 40, 30):
        content = io.BytesIO()
        options = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
        frames[0].save(content, "WEBP", quality=quality, method=4, **options)
        if content.tell() <= most_bytes:
            with atomic_write(out) as stream:
                stream.write(content.getvalue())
            return out
    raise ProjectError(f"{len(frames)} frames do not fit into {most_bytes} bytes. Give more with --most-bytes.")


def moments(grids: list) -> list:
    """At most MOMENTS of the grids, with the first and the last; closer together early, when faces change most."""
    if len(grids) <= MOMENTS:
        return grids
    chosen = (np.linspace(0, 1, MOMENTS) ** 2 * (len(grids) - 1)).round().astype(int)
    return [grids[i] for i in np.unique(chosen)]


def walk(model: Path) -> Iterator[np.ndarray]:
    """The faces of the film's cells, uint8 [CELLS, 3, S, S], on the way from seed to seed: each cell has its own."""
    generator = load_generator(model, device="cpu")
    (latent_dim,) = generator.signature.input_shape
    stations = [latents(range(first, first + CELLS), latent_dim) for first in SEEDS_OF_THE_WALK]
    for start, end in zip(stations, stations[1:]):
        for i in range(1, LEG + 1):
            share = (1 - np.cos(np.pi * i / LEG)) / 2  # slow at both seeds
            z = np.stack([slerp(a, b, share) for a, b in zip(start, end)])
            yield to_uint8(generator.run(z))


def _frame(faces: np.ndarray, text: str, share: float) -> Image.Image:
    """The faces as a square, below them a line of text and how much of the training is done."""
    square = Image.fromarray(grid(faces).transpose(1, 2, 0))
    frame = Image.new("RGB", (square.width, square.height + STRIP), "white")
    frame.paste(square, (0, 0))
    draw = ImageDraw.Draw(frame)
    top, right = square.height + 2, square.width - GAP - 1
    draw.rectangle((GAP, top, right, top + 3), fill=RAIL)
    draw.rectangle((GAP, top, GAP + (right - GAP) * share, top + 3), fill=BAR)
    draw.text((GAP, top + 6), text, fill=INK, font=ImageFont.load_default(14))
    return frame


# ---- the two pages --------------------------------------------------------------------------------------------------


def write_pages(run: Path, model: Path, folder: Path) -> list[Path]:
    """The first screens of report and playground, half as large, in English and Chinese. Needs Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise ProjectError("No Chromium was found: install it to make thumbnails of pages.")
    with sync_playwright() as driver, playground(model) as address:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        report, shots = write_report(run).resolve().as_uri(), {}
        for locale, suffix in (("en-GB", ".jpg"), ("zh-CN", ".zh.jpg")):
            page = browser.new_page(viewport=VIEW, locale=locale)
            page.set_default_timeout(120_000)  # a busy machine is no failure
            page.goto(report)
            page.evaluate(PAINTED)
            shots[f"report{suffix}"] = page.screenshot()
            page.goto(address)
            page.wait_for_function("'ready' in document.body.dataset && playground.isIdle()")
            shots[f"playground{suffix}"] = page.screenshot()
        browser.close()
    for name, content in shots.items():
        shot = Image.open(io.BytesIO(content)).convert("RGB")
        small = shot.resize((VIEW["width"] // 2, VIEW["height"] // 2), Image.Resampling.LANCZOS)
        ImageDraw.Draw(small).rectangle((0, 0, small.width - 1, small.height - 1), outline=RAIL)  # white on white else
        _write(folder / name, small, 85)
    return [folder / name for name in shots]


@contextlib.contextmanager
def playground(model: Path) -> Iterator[str]:
    """The address of the playground of an export, for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as place:
        files = model_files(model, read_manifest(model))
        if files is None:
            raise ProjectError(f"{model} holds no ONNX model. Export it with --format onnx.")
        for name, content in {**static_files(), **files}.items():
            (Path(place) / name).write_bytes(content)
        handler = functools.partial(_Quiet, directory=place)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}/"
            server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _write(path: Path, image: Image.Image, quality: int) -> None:
    content = io.BytesIO()
    image.save(content, {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[path.suffix], quality=quality)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.write(content.getvalue())


if __name__ == "__main__":
    run(main)
