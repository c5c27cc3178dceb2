"""All figures of two sets of images, and the protocol that goes with them: `evaluate`, or its parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Callable

import numpy as np

from deploy.seeds import permutation

from ..data.packed import PackedData
from .fid_kid import frechet_distance, kernel_distance, precision_recall
from .ms_ssim import mean_ms_ssim
from .nearest_neighbours import draw_nearest, find_nearest
from .sliced_wasserstein import sliced_wasserstein

VERSION = 1  # goes up when the same images would give other figures
FEWEST = 10  # images of each set

AS_PACKED = "as packed"
REAL_SEED = 0  # which real images are compared

Features = Callable[[np.ndarray], np.ndarray]  # uint8 [N, 3, S, S] -> float [N, D]


def evaluate(
    data: PackedData, fake: np.ndarray, target: Mapping[str, Any], extractor: Any = None, held_out: bool = False
) -> tuple[dict[str, Any], np.ndarray]:
    """The report on `fake`, as JSON values, and the image `nearest.png`, uint8 [3, H, W].

    Args: data - the real images, of which as many are compared.  fake - uint8 [n, 3, S, S].  target - what `fake`
          is.  extractor - see OnnxFeatures.  held_out - `fake` is itself from `data`: nearest neighbours are then
          searched among the images compared only.
    Raises as `measure` does.
    """
    real = chosen_real(data, len(fake))
    figures = measure(real, fake, extractor)
    training = real if held_out else data.images
    found = find_nearest(training, fake)
    figures["nearest_ratio"] = found.ratio
    used = protocol(
        len(fake),
        fake.shape[-1],
        crop_of(data),
        data.digest,
        f"at random, seed {REAL_SEED}",
        extractor.protocol if extractor else None,
    )
    digest = hashlib.sha256(np.ascontiguousarray(fake)).hexdigest()
    report = {"figures": figures, "protocol": used, "target": {**target, "pixels_sha256": digest}}
    return report, draw_nearest(training, fake, found)


def chosen_real(data: PackedData, n: int, skip: int = 0) -> np.ndarray:
    """n of the real images, always the same ones, none of those that `skip` of them would be: uint8 [n, 3, S, S]."""
    return choose(data.images, n, REAL_SEED, skip)


def choose(images_uint8: np.ndarray, n: int, seed: int, skip: int = 0) -> np.ndarray:
    """n of the images after the first `skip`, in an order set by `seed`; sorted again: uint8 [n, 3, S, S]."""
    return np.ascontiguousarray(images_uint8[np.sort(permutation(len(images_uint8), seed)[skip : skip + n])])


def crop_of(data: PackedData) -> str:
    """How the images were cut out: a setting of `fit_image`, or AS_PACKED for a .npy that does not say."""
    settings = data.info.get("settings")
    return str(settings.get("crop")) if isinstance(settings, dict) else AS_PACKED


def measure(real: np.ndarray, fake: np.ndarray, extractor: Features | None = None) -> dict[str, float]:
    """Figures by name, of real and generated images, both uint8 [N, 3, S, S] with the same N, at least 10.

    swd - sliced Wasserstein, mean of the levels swd_64, swd_32, ... (lower is better).
    ms_ssim, ms_ssim_real - mean MS-SSIM of pairs within either set (best when equal).
    With `extractor`: fid (lower), kid and kid_std (lower), precision and recall (higher), on its features.
    Raises ValueError for too few images or two shapes, EvaluationError for features that are none.
    """
    are_images = all(images.dtype == np.uint8 and images.shape[1:2] == (3,) for images in (real, fake))
    if not are_images or real.shape != fake.shape or len(real) < FEWEST:
        raise ValueError(
            f"two sets of at least {FEWEST} images are compared, both uint8 [N, 3, S, S], received "
            f"{real.dtype} {list(real.shape)} and {fake.dtype} {list(fake.shape)}. "
            "dcgan.to_uint8 makes levels of floats"
        )
    levels = sliced_wasserstein(real, fake)
    figures = {"swd": levels.pop("mean"), **{f"swd_{size}": figure for size, figure in levels.items()}}
    figures["ms_ssim"], figures["ms_ssim_real"] = mean_ms_ssim(fake), mean_ms_ssim(real)
    if extractor:
        figures.update(compare_features(extractor(real), extractor(fake)))
    return figures


def compare_features(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """fid, kid, kid_std, precision and recall of feature vectors, both float [N, D]. See dcgan.metrics.fid_kid."""
    kid, deviation = kernel_distance(real, fake)
    precision, recall = precision_recall(real, fake)
    return {
        "fid": frechet_distance(real, fake),
        "kid": kid,
        "kid_std": deviation,
        "precision": precision,
        "recall": recall,
    }


def protocol(
    n: int, image_size: int, crop: str, data: str, chosen: str, features: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What figures have to share before they may be compared, as JSON values.

    Args: n - images of each set.  crop - of both sets.  data - digest of the packed data set.
          chosen - which of its images.  features - the extractor's own part of the protocol.
    """
    return {
        "version": VERSION,
        "n_real": n,
        "n_generated": n,
        "image_size": image_size,
        "crop": crop,
        "resizer": "OpenCV: area down, bilinear up",
        "data": data,
        "chosen": chosen,
        "features": dict(features) if features else None,
    }


def protocol_label(protocol: Mapping[str, Any]) -> str:
    """A protocol in one word, for records: version of the metrics, images of each set, pixels, crop, data digest."""
    parts = [protocol[name] for name in ("version", "n_real", "image_size", "crop")]
    return "/".join(map(str, [*parts, protocol["data"][:8]]))
