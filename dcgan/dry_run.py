"""What a run would be, without training it: `tools/train.py --dry-run`."""

from __future__ import annotations

import json

import numpy as np
import paddle

from .config import TrainConfig
from .data.crop import fit_image
from .data.loader import batches_per_epoch
from .data.packed import is_packed, open_packed
from .data.sources import open_source
from .model import DCGAN
from .networks.layers import parameter_count
from .train import final_step


def count_images(config: TrainConfig) -> int:
    """How many images the data holds, without decoding or writing any: those that cannot be used are not left out."""
    data = config.data or "cartoon"
    if is_packed(data):
        return len(open_packed(data))
    with open_source(data) as source:
        return len(source)


def describe(config: TrainConfig, image_count: int, processes: int = 1) -> str:
    """What a run with this config would be, as JSON: settings, parameter counts, iterations. Builds the networks.

    Raises ValueError for what `train` would refuse without looking at the images.
    """
    fit_image(np.zeros([2, 2, 3], np.uint8), config.image_size, config.crop)
    total_batch = config.batch_size * processes
    per_epoch = batches_per_epoch(image_count, total_batch * config.d_steps)
    model = DCGAN(config)
    facts = {
        "config": config.to_json(),
        "parameters": {
            "generator": parameter_count(model.generator),
            "discriminator": parameter_count(model.discriminator),
        },
        "images": image_count,
        "processes": processes,
        "total_batch_size": total_batch,
        "iterations": final_step(config, per_epoch),
        "device": paddle.get_device(),
    }
    return json.dumps(facts, indent=2, ensure_ascii=False)
