"""The crop rule: what is cut out of images of any size, and how they shrink and grow."""

import numpy as np
import pytest

from dcgan.data.crop import fit_image
from dcgan.errors import DataError


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_shrinking_averages_areas():
    image = noise(192, 96)
    fitted = fit_image(image, 32, "0,5")
    expected = image.reshape(64, 3, 32, 3, 3).mean(axis=(1, 3))[5:37]
    assert np.abs(fitted - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("crop", "size", "shape", "x", "y"),
    [
        ("tutorial", 64, (78, 64), 0, 10),
        ("tutorial", 32, (40, 32), 0, 5),
        ("tutorial", 128, (157, 128), 0, 20),
        ("tutorial", 64, (70, 64), 0, 6),  # moved up: 10 rows below the top it would run out
        ("tutorial", 64, (64, 64), 0, 0),
        ("tutorial", 64, (64, 90), 0, 0),
        ("center", 64, (78, 64), 0, 7),
        ("center", 64, (64, 91), 13, 0),
        ("3,4", 16, (30, 16), 0, 4),
        ("3, 4", 16, (16, 30), 3, 0),
        ("99,99", 16, (16, 30), 14, 0),
        ("99,99", 16, (30, 16), 0, 14),
    ],
)
def test_crop_lies_where_it_should_and_inside_the_image(crop, size, shape, x, y):
    image = noise(*shape)
    assert np.array_equal(fit_image(image, size, crop), image[y : y + size, x : x + size])


def test_celeba_becomes_64_by_78_cut_at_0_10():
    image = np.zeros((218, 178, 3), np.uint8)
    image[28:] = 255  # 28 rows are 10.02 of the 78
    fitted = fit_image(image, 64)
    assert fitted.shape == (64, 64, 3)
    assert (fitted[1:] == 255).all()
    assert (fitted[0] > 245).all()


@pytest.mark.parametrize(("height", "width"), [(7, 5), (5, 7), (64, 9), (1, 1), (1, 40)])
def test_small_images_are_enlarged(height, width):
    fitted = fit_image(np.full((height, width, 3), 200, np.uint8), 64, "center")
    assert fitted.shape == (64, 64, 3)
    assert (fitted == 200).all()


def test_elongated_image_is_refused_before_it_is_enlarged():
    with pytest.raises(DataError, match="too elongated: 1 x 60000 pixels would become 64 x 3840000"):
        fit_image(np.zeros((60_000, 1, 3), np.uint8), 64)
