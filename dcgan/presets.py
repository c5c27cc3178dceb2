"""Named sets of settings, and settings that follow from the number of images."""

from __future__ import annotations

import math
from typing import Any

from .config import TrainConfig

# What --preset sets; explicit flags win.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The tutorial's text: 8 epochs, the generator learns twice per iteration, and nothing that it does not have.
    "tutorial": {
        "epochs": 8,
        "batch_size": 128,
        "lr": 2e-4,
        "d_steps": 1,
        "g_steps": 2,
        "energy_weight": 0.0,
        "ema": 0.0,
        "init": "normal",
        "diffaugment": "",
    },
    # Sized for five to ten minutes on two CPU cores with synthetic faces.
    "quick": {
        "base_channels": 32,
        "latent_dim": 64,
        "batch_size": 32,
        "epochs": 14,
        "ema": 0.99,
        "translation_ratio": 0.125,  # with shorter shifts D wins on synthetic faces, and leaves grain
    },
}


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset. Raises ValueError listing the names there are."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, received {name!r}")
    return dict(PRESETS[name])


# For a run whose length nobody chose: the training images that are shown, 4,000 iterations of a small batch.
IMAGES_SHOWN = 128_000
SMALL_DATA_SET, SMALL_BATCH = 20_000, 32
# Fewer images than this are soon memorised by D: shifted further, and with holes, they last longer (Zhao et al. 2020).
FEW_IMAGES = 2_000
STRONG_AUGMENTATION = {"diffaugment": "translation,cutout", "translation_ratio": 0.125}


def fitted_to(image_count: int) -> dict[str, Any]:
    """Settings that follow from the number of training images, for a run whose user did not choose them.

    Small data sets get more epochs and smaller batches, so that 300 images and 10,000 are learned from for equally many
    iterations; more and smaller steps make better faces of as many images (docs/quality.md). A batch is never larger
    than the data. Few images are augmented more. Raises ValueError if there are no images.
    """
    if image_count < 1:
        raise ValueError(f"there must be at least one training image, received {image_count}")
    return {
        "epochs": max(TrainConfig.epochs, math.ceil(IMAGES_SHOWN / image_count)),
        "batch_size": min(SMALL_BATCH if image_count < SMALL_DATA_SET else TrainConfig.batch_size, image_count),
        **(STRONG_AUGMENTATION if image_count < FEW_IMAGES else {}),
    }
