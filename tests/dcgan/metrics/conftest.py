"""Synthetic faces, and ways to spoil them."""

import cv2
import numpy as np
import pytest

from dcgan.data.crop import fit_image
from dcgan.data.synthetic_faces import draw_face

HALF = 128


@pytest.fixture(scope="session")
def faces():
    """Two disjoint sets of 128 synthetic faces, uint8 [128, 3, 64, 64]."""
    drawn = np.stack([fit_image(draw_face(i), 64).transpose(2, 0, 1) for i in range(2 * HALF)])
    return drawn[:HALF], drawn[HALF:]


def each(images, change):
    return np.stack([change(np.ascontiguousarray(image.transpose(1, 2, 0))).transpose(2, 0, 1) for image in images])


def blur(images, sigma):
    return each(images, lambda image: cv2.GaussianBlur(image, (0, 0), sigma))


def noise(images, deviation):
    drawn = np.random.default_rng(0).normal(0, deviation, images.shape)
    return np.clip(images + drawn, 0, 255).astype(np.uint8)


def jpeg(images, quality):
    def change(image):
        return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)

    return each(images, change)


def repeat(images, count):
    return np.resize(images[:count], images.shape)


@pytest.fixture(scope="session")
def spoil():
    """Ways to spoil a set of images, by name."""
    return {"blur": blur, "noise": noise, "jpeg": jpeg, "repeat": repeat}
