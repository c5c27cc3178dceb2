"""Images and their files, for the tests of decoding."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def noise(height=61, width=47):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(image, kind, mode="RGB", **options):
    stream = io.BytesIO()
    Image.fromarray(image).convert(mode).save(stream, kind, **options)
    return stream.getvalue()
