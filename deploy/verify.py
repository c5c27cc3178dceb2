"""Does an export still compute on this machine what it computed where it was made?

The export folder brings `reference.npz`: the images of a few seeds as the trained network itself made them. Every
model of the generator that this machine has a runtime for makes them again.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy.files import PathLike
from deploy.images import to_uint8
from deploy.manifest import Manifest, ModelEntry, ModelError, read_manifest, read_verified, verify_files
from deploy.runtimes import BACKENDS, PREFERRED, Runtime, check_precision, is_installed, load_model
from deploy.seeds import latents

# Largest allowed |difference| of images in [-1, 1], where one of 256 levels is 7.8e-3: more than where the export was
# made, because another processor adds in another order. fp16 keeps 11 bits of every intermediate value, bf16 8.
REFERENCE_TOLERANCES = {"fp32": 2e-4, "fp16-weights": 2e-2, "fp16": 5e-2, "bf16": 1e-1}
LARGEST_TOLERANCE = 0.1
LARGEST_REFERENCE = 1 << 28  # bytes unpacked; a hostile .npz of some kilobytes could unpack to all the memory there is
_NPZ_ERRORS = (  # what zipfile and numpy raise for hostile archives
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, EOFError, NotImplementedError, RuntimeError),
    *(ValueError, KeyError, IndexError, TypeError, SyntaxError, OverflowError, MemoryError, OSError),
)


class Row(NamedTuple):
    """One model against the reference; differences are of floats in [-1, 1], levels of uint8 values."""

    model: str
    backend: str
    device: str
    max_difference: float
    mean_difference: float
    tolerance: float
    levels_differing: float  # share of uint8 values
    max_levels: int
    passed: bool


def verify(
    folder: PathLike, backend: str = "auto", device: str = "auto", threads: int = 0, precision: str = "fp32"
) -> list[Row]:
    """Check every checksum, then every generator with a float output that can run here, or those of one backend.

    `precision` is what the backend computes in, whatever the model's own is; see `load_generator`.

    Raises ModelError for a wrong checksum, an export without a reference, or when nothing can run here. A model that
    computes something else is no error but a row that has not passed.
    """
    check_precision(backend, precision)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    seeds, expected = _reference(folder, manifest)
    z = latents(seeds, manifest.latent_dim)
    rows = []
    for name in [name for name in PREFERRED if is_installed(name)] if backend == "auto" else [backend]:
        for model in manifest.models:
            if (model.network, model.kind) == ("generator", BACKENDS[name]) and model.output_dtype != "uint8":
                runtime = load_model(folder, manifest, model, name, device, threads, precision)
                rows.append(_row(manifest, model, runtime, z, expected, precision))
    if not rows:
        raise ModelError(f"no generator of {Path(folder)} can run here with --backend {backend}.")
    return rows


def verify_runtime(folder: PathLike, manifest: Manifest, generator: Runtime) -> Row:
    """Check one generator, as `load_generator` returned it in fp32, against the reference of its export.

    Raises ModelError for an export without a reference, or whose files changed since `manifest` was read.
    """
    model = manifest.find("generator", BACKENDS[generator.backend])
    if model is None or generator.model_id != "-".join(manifest.files[name].sha256 for name in model.files):
        raise ModelError(f"{Path(folder)} was replaced while it was read. Try again.")
    seeds, expected = _reference(folder, manifest)
    return _row(manifest, model, generator, latents(seeds, manifest.latent_dim), expected, "fp32")


def _row(
    manifest: Manifest, model: ModelEntry, runtime: Runtime, z: np.ndarray, expected: np.ndarray, precision: str
) -> Row:
    figures = compare(expected, runtime.generate_from(z), _tolerance(manifest, model, precision))
    return Row(model.files[0], runtime.backend, runtime.device, *figures)


def compare(expected: np.ndarray, found: np.ndarray, tolerance: float) -> tuple[float, float, float, float, int, bool]:
    """The figures of a Row, from max_difference on, for two float arrays of images."""
    difference = np.abs(found.astype(np.float64) - expected)
    levels = np.abs(to_uint8(found).astype(np.int16) - to_uint8(expected))
    largest = float(difference.max())
    passed = largest <= tolerance
    return largest, float(difference.mean()), tolerance, float((levels > 0).mean()), int(levels.max()), passed


def table(rows: Sequence[Row]) -> str:
    """The rows for a person to read."""
    lines = [
        f"{'model':<24}{'backend':<14}{'device':<8}{'max |d|':>10}{'mean |d|':>10}{'allowed':>10}  levels differing"
    ]
    for r in rows:
        verdict = "passed" if r.passed else "FAILED"
        lines.append(
            f"{r.model:<24}{r.backend:<14}{r.device:<8}{r.max_difference:>10.1e}{r.mean_difference:>10.1e}"
            f"{r.tolerance:>10.0e}  {r.levels_differing:.4%}, at most {r.max_levels}  {verdict}"
        )
    return "\n".join(lines)


def _tolerance(manifest: Manifest, model: ModelEntry, precision: str) -> float:
    """What this model may differ by; more if the export's own measurement allowed more, as for very large weights."""
    rows = (manifest.parity or {}).get("rows")
    allowed = [
        row["allowed"]
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and row.get("model") == model.files[0] and isinstance(row.get("allowed"), float)
    ]
    return min(
        LARGEST_TOLERANCE, max([REFERENCE_TOLERANCES[model.precision], REFERENCE_TOLERANCES[precision], *allowed])
    )


def _reference(folder: PathLike, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Seeds [N] and images float32 [N, 3, S, S] that the manifest vouches for."""
    described: Any = (manifest.parity or {}).get("reference")
    name = described.get("file") if isinstance(described, dict) else None
    if not isinstance(name, str) or name not in manifest.files:
        raise ModelError(f"{Path(folder)} brings no reference images to verify against. Export the model again.")
    seeds, images = _read_npz(read_verified(folder, manifest, name), name)
    shape = (len(seeds) if seeds.ndim == 1 else -1, 3, manifest.image_size, manifest.image_size)
    if images.dtype != np.float32 or images.shape != shape or not len(seeds):
        raise ModelError(f"{name} holds {images.dtype} {list(images.shape)}, float32 {list(shape)} is expected.")
    digest = described.get("sha256_uint8")
    if digest is not None and digest != hashlib.sha256(to_uint8(images).tobytes()).hexdigest():
        raise ModelError(f"{name} is not what the manifest's sha256_uint8 says. Export the model again.")
    return seeds, images


def _read_npz(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `seeds` and `images`, of any shape, of the .npz file `content`. Raises ModelError if it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > LARGEST_REFERENCE:
            raise ModelError(f"{name} unpacks to more than {LARGEST_REFERENCE:,} bytes; this is not a reference.")
        if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
            raise ValueError("it is compressed by a method that numpy does not write")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = arrays["seeds"], arrays["images"]
        if not all(isinstance(array, np.ndarray) for array in found):  # numpy gives what is no .npy as bytes
            raise ValueError("its entries are no arrays")
    except _NPZ_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{name} is not an .npz of seeds and images ({reason}). Export the model again.") from error
    return found
