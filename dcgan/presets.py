"""Named sets of settings, and settings that follow from the number of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .config import TrainConfig

# For data sets that are soon learned: more and smaller steps make better faces of as many images, and networks of half
# the width make as good ones in a third of the time (docs/quality.md). The learning rate and the length of the average
# belong to that batch.
SMALL_DATA: dict[str, Any] = {"base_channels": 32, "batch_size": 16, "lr": 3.5e-4, "ema": 0.9995}

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
        "texture_weight": 0.0,
        "ema": 0.0,
        "init": "normal",
        "diffaugment": "",
    },
    # Sized for six to fifteen minutes on two CPU cores with synthetic faces: so short a run needs a shorter average. Of
    # its short iterations more are between two grids or evaluations.
    "quick": {
        **SMALL_DATA,
        "latent_dim": 64,
        "epochs": 12,
        "ema": 0.995,
        "sample_every": 200,
        "evaluate_every": 750,
    },
}

# For a run whose length nobody chose: the training images that are shown, 20,000 iterations of a small batch.
IMAGES_SHOWN = 320_000
LARGEST_SMALL = 64_000  # images; with more, five epochs show as many
# D knows images that it is shown more often than this: shifted further, and with holes, they last longer (Zhao et al.
# 2020). Of 10,000 images, those shown 6 times make better faces as they are, those shown 32 times with it
# (docs/quality.md).
MOST_SHOWINGS = 24
STRONG_AUGMENTATION = {"diffaugment": "translation,cutout", "translation_ratio": 0.125}
# Those shown less often: faces that differ from each other nearly as real ones do; not measured in longer runs.
STRUCTURE = {"lr": 5e-4, "lr_d": 2.5e-4, "structure_weight": 25.0}

# Parts of the loss that compare the images of a batch with each other: one image has nothing to be compared with.
COMPARISONS = ("energy_weight", "texture_weight", "structure_weight")

# What --help adds to the defaults of settings that `fitted_to` chooses.
FITTED_HELP = {
    **{name: f"{value} up to {LARGEST_SMALL:,} images" for name, value in SMALL_DATA.items()},
    "epochs": f"up to {LARGEST_SMALL:,} images as many as show {IMAGES_SHOWN:,}",
    **{name: f"{value} for images shown over {MOST_SHOWINGS} times" for name, value in STRONG_AUGMENTATION.items()},
    **{
        name: f"{value} for up to {LARGEST_SMALL:,} images shown at most {MOST_SHOWINGS} times"
        for name, value in STRUCTURE.items()
    },
    "lr": f"{SMALL_DATA['lr']} for up to {LARGEST_SMALL:,} images shown over {MOST_SHOWINGS} times",
}


def fitted_to(image_count: int, batches: int = 1, chosen: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Settings that follow from the number of training images, for a run whose user did not choose them.

    Small data sets get more epochs, smaller steps and smaller networks, so that 300 images and 10,000 are learned from
    for equally many iterations. From four images on an iteration takes at most half of them: some files may turn out to
    be none. Images that are shown often are augmented more, and few that are not are compared in structure.
    Args: image_count - files that seem to be images.  batches - that an iteration takes: discriminator steps times
          processes.  chosen - what the user did choose: epochs, steps, batch_size and lr count here.
    Raises ValueError if there are no images.
    """
    if image_count < 1:
        raise ValueError(f"there must be at least one training image, received {image_count}")
    recipe = SMALL_DATA if image_count <= LARGEST_SMALL else {"batch_size": TrainConfig.batch_size}
    batch_size = min(recipe["batch_size"], max(image_count // (2 * batches), min(2, image_count // batches), 1))
    shown = IMAGES_SHOWN * batch_size / recipe["batch_size"]  # fewer by smaller batches: as many iterations
    epochs = max(TrainConfig.epochs, math.ceil(shown / image_count))
    length = {"epochs": epochs, "batch_size": batch_size, "steps": 0, **chosen}
    showings = length["steps"] * length["batch_size"] * batches / image_count or length["epochs"]
    structure = STRUCTURE if recipe is SMALL_DATA else {}
    if "lr" in chosen:  # then it is that of both networks
        structure = {name: value for name, value in structure.items() if name != "lr_d"}
    return {
        **recipe,
        "epochs": epochs,
        "batch_size": batch_size,
        **(STRONG_AUGMENTATION if showings > MOST_SHOWINGS else structure),
        **(dict.fromkeys(COMPARISONS, 0.0) if batch_size < 2 else {}),
    }
