"""From image files to batches: this project's preparing and loading, and the tutorial's, on the same JPEG files."""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dcgan.environment import core_count
from tools.benchmarks.measure import Case, Run, shell

BATCH_SIZE = 128
TUTORIAL_THREADS, TUTORIAL_WORKERS = 8, 2
ROOT = Path(__file__).resolve().parents[2]


def write_jpegs(folder: Path, count: int) -> Path:
    """`count` synthetic faces of CelebA's size, 178 x 218, as JPEG files of 7 kB as CelebA's (1.44 GB in all).

    With grain: photographs have it, and an image whose corner is of one colour costs `prepare` a second look.
    """
    import cv2
    import numpy as np

    from dcgan.data.synthetic_faces import draw_face

    folder.mkdir()

    def write(i: int) -> None:
        grain = np.random.default_rng(i).integers(-3, 4, (218, 178, 1), np.int16)
        image = np.clip(draw_face(i)[:, :, ::-1] + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i + 1:06}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 80])

    with ThreadPoolExecutor(core_count()) as pool:
        list(pool.map(write, range(count)))
    return folder


# ---- preparing ------------------------------------------------------------------------------------------------------


def prepare_cases(images: Path, scratch: Path, image_size: int, against: list[str]) -> list[Case]:
    """The tutorial's script first, which is the base, then this project's; units are images."""
    count = sum(1 for _ in images.glob("*.jpg"))
    arguments = {"images": images, "scratch": scratch, "image_size": image_size}
    ours = Case("prepare, this project", project_prepare, arguments, count, warm_up=1)
    if "tutorial" not in against:
        return [ours]
    return [Case("prepare, the tutorial's script", tutorial_prepare, arguments, count, warm_up=1), ours]


def project_prepare(images: Path, scratch: Path, image_size: int) -> Run:
    """What tools/prepare.py does, never reusing what is there."""
    from dcgan.data.packed import info_path
    from dcgan.data.prepare import prepare

    out = scratch / "packed.npy"

    def run() -> None:
        for path in (out, info_path(out)):
            path.unlink(missing_ok=True)
        prepare(str(images), out, image_size=image_size, progress=lambda done, total: None)

    return run


def tutorial_prepare(images: Path, scratch: Path, image_size: int) -> Run:
    """The tutorial's chapter 2.1: eight threads resize (bilinear), crop and write each image as a JPEG again."""
    from PIL import Image

    files, out = sorted(images.glob("*.jpg")), scratch / "tutorial"

    def one(path: Path) -> None:
        image = Image.open(path)
        width, height = image.size
        scale = image_size / min(width, height)
        image = image.resize((round(width * scale), round(height * scale)), Image.BILINEAR)
        image.crop((0, 10, image_size, image_size + 10)).save(out / path.name)

    def run() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with ThreadPoolExecutor(TUTORIAL_THREADS) as pool:
            list(pool.map(one, files))

    return run


# ---- loading --------------------------------------------------------------------------------------------------------


def loader_cases(images: Path, packed: Path, count: int, repeats: int, against: list[str]) -> list[Case]:
    """The tutorial's loader first, then this project's, an epoch a round; of ours several, for one is too short."""
    whole = count // BATCH_SIZE * BATCH_SIZE
    found = []
    if "tutorial" in against:
        arguments = {"images": images}
        found = [Case("load, the tutorial's DataLoader, 2 workers", tutorial_loader, arguments, whole, warm_up=1)]
    for prefetch in (0, 2):
        arguments = {"packed": packed, "prefetch": prefetch, "repeats": repeats}
        name = f"load, this project, {f'{prefetch} batches ahead' if prefetch else 'no thread'}"
        found.append(Case(name, project_loader, arguments, whole * repeats, warm_up=1))
    return found


def project_loader(packed: Path, prefetch: int, repeats: int) -> Run:
    """Whole epochs of batches, float32 [128, 3, S, S], from the packed file."""
    from dcgan.data.loader import BatchLoader
    from dcgan.data.packed import open_packed

    loader = BatchLoader(open_packed(packed).images, BATCH_SIZE, prefetch=prefetch)
    return lambda: [None for _ in range(repeats) for _ in loader]


def tutorial_loader(images: Path) -> Run:
    """The tutorial's chapter 3: a Dataset of scikit-image's imread, and Paddle's DataLoader with two processes."""
    from dcgan.environment import import_paddle

    os.environ["PYTHONWARNINGS"] = "ignore:No ccache"  # the loader's processes import Paddle again
    import_paddle()
    import skimage.io
    import skimage.transform
    from paddle.io import DataLoader

    loader = DataLoader(
        _Images(sorted(images.iterdir()), skimage.io.imread),
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=TUTORIAL_WORKERS,
        use_shared_memory=False,
    )
    return lambda: [None for _ in loader]


class _Images:
    """The tutorial's Dataset, duck-typed: paddle.io takes whatever has these two methods."""

    def __init__(self, files: list[Path], read: object):
        self._files, self._read = files, read

    def __getitem__(self, index: int):
        return self._read(str(self._files[index])).transpose(2, 0, 1).astype("float32") / 255

    def __len__(self) -> int:
        return len(self._files)


# ---- growth ---------------------------------------------------------------------------------------------------------

_GROWTH = """
import json, re, resource, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from dcgan.data.loader import BatchLoader
from dcgan.data.prepare import prepare
count, out, size = int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
start = time.perf_counter()
packed = prepare(f"cartoon:{count}", out, image_size=size, progress=lambda done, total: None)
prepared = time.perf_counter()
# getrusage also knows the memory of the process that started this one, which may be more
status = Path("/proc/self/status")
own = re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text()) if status.exists() else None
peak = int(own[1]) if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for batch in BatchLoader(packed.images, min(128, count), prefetch=2): pass
print(json.dumps({"images": count, "prepare_seconds": prepared - start, "prepare_peak_mib": peak / 1024,
    "epoch_seconds": time.perf_counter() - prepared, "file_mb": packed.images.nbytes / 1e6}))
"""


def growth(counts: list[int], scratch: Path, image_size: int) -> list[dict[str, float]]:
    """Synthetic faces, so many of them prepared and loaded for one epoch, each number in a process of its own.

    Peak memory is of preparing.
    """
    import json

    rows = []
    for count in counts:
        out = scratch / f"{count}.npy"
        command = [sys.executable, "-c", _GROWTH, str(ROOT), str(count), str(out), str(image_size)]
        rows.append(json.loads(shell(command, dict(os.environ))))
        out.unlink()
    return rows
