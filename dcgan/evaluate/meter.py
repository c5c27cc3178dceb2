"""All figures of two sets of pictures, and the protocol that goes with them: `evaluate`, or its parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Callable

import numpy as np

from deploy.latents import permutation

from ..data.packed import PackedData
from .copies import draw_nearest, find_nearest
from .distances import frechet_distance, kernel_distance, precision_recall
from .similarity import mean_similarity
from .wasserstein import sliced_wasserstein

METER = 1  # goes up when the same pictures would give other figures
FEWEST = 10  # pictures of each set

AS_PACKED = "as packed"
REAL_SEED = 0  # which real pictures are compared

Features = Callable[[np.ndarray], np.ndarray]  # uint8 [N, 3, S, S] -> float [N, D]


def evaluate(
    data: PackedData, fake: np.ndarray, subject: Mapping[str, Any], extractor: Any = None, held_out: bool = False
) -> tuple[dict[str, Any], np.ndarray]:
    """The report on `fake`, as JSON values, and the picture `nearest.png`, uint8 [3, H, W].

    Args: data - the real pictures, of which as many are compared.  fake - uint8 [n, 3, S, S].  subject - what `fake`
          is.  extractor - see OnnxFeatures.  held_out - `fake` is itself from `data`: copies are then looked for among
          the pictures compared only.
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
    report = {"figures": figures, "protocol": used, "subject": {**subject, "pixels_sha256": digest}}
    return report, draw_nearest(training, fake, found)


def chosen_real(data: PackedData, n: int, skip: int = 0) -> np.ndarray:
    """n of the real pictures, always the same ones, none of those that `skip` of them would be: uint8 [n, 3, S, S]."""
    return choose(data.images, n, REAL_SEED, skip)


def choose(images_uint8: np.ndarray, n: int, seed: int, skip: int = 0) -> np.ndarray:
    """n of the pictures after the first `skip`, in an order set by `seed`; sorted again: uint8 [n, 3, S, S]."""
    return np.ascontiguousarray(images_uint8[np.sort(permutation(len(images_uint8), seed)[skip : skip + n])])


def crop_of(data: PackedData) -> str:
    """How the pictures were cut out: a setting of `fit_picture`, or AS_PACKED for a .npy that does not say."""
    settings = data.info.get("settings")
    return str(settings.get("crop")) if isinstance(settings, dict) else AS_PACKED


def measure(real: np.ndarray, fake: np.ndarray, extractor: Features | None = None) -> dict[str, float]:
    """Figures by name, of real and generated pictures, both uint8 [N, 3, S, S] with the same N, at least 10.

    distance - sliced Wasserstein, mean of the levels distance_64, distance_32, ... (lower is better).
    similarity, similarity_real - mean MS-SSIM of pairs within either set (best when equal).
    With `extractor`: fid (lower), kid and kid_std (lower), precision and recall (higher), on its features.
    Raises ValueError for too few pictures or two shapes, EvaluationError for features that are none.
    """
    if real.shape != fake.shape or len(real) < FEWEST:
        raise ValueError(
            f"two sets of one shape and at least {FEWEST} pictures are compared, "
            f"received {list(real.shape)} and {list(fake.shape)}"
        )
    levels = sliced_wasserstein(real, fake)
    figures = {"distance": levels.pop("mean"), **{f"distance_{size}": figure for size, figure in levels.items()}}
    figures["similarity"], figures["similarity_real"] = mean_similarity(fake), mean_similarity(real)
    if extractor:
        figures.update(compare_features(extractor(real), extractor(fake)))
    return figures


def compare_features(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """fid, kid, kid_std, precision and recall of feature vectors, both float [N, D]. See dcgan.evaluate.distances."""
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

    Args: n - pictures of each set.  crop - of both sets.  data - digest of the packed data set.
          chosen - which of its pictures.  features - the extractor's own part of the protocol.
    """
    return {
        "meter": METER,
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
    """A protocol in one word, for records: meter version, pictures of each set, pixels, crop, data digest."""
    parts = [protocol[name] for name in ("meter", "n_real", "image_size", "crop")]
    return "/".join(map(str, [*parts, protocol["data"][:8]]))
