import cv2
import numpy as np
import pytest

from dcgan.data.cartoon import draw_face
from dcgan.data.prepare import fit_picture
from dcgan.evaluate import sliced_wasserstein


@pytest.fixture(scope="module")
def faces():
    """Two disjoint sets of 96 drawn faces, uint8 [96, 3, 64, 64]."""
    drawn = np.stack([fit_picture(draw_face(i), 64).transpose(2, 0, 1) for i in range(192)])
    return drawn[:96], drawn[96:]


def each(images, change):
    return np.stack([change(image.transpose(1, 2, 0)).transpose(2, 0, 1) for image in images])


def test_two_halves_are_closer_than_any_spoiled_half(faces):
    real, other = faces
    noise = np.random.default_rng(0).normal(0, 12, other.shape)
    spoiled = {
        "blurred": each(other, lambda image: cv2.GaussianBlur(image, (0, 0), 1.0)),
        "noisy": np.clip(other + noise, 0, 255).astype(np.uint8),
        "4 faces repeated": np.repeat(other[:4], 24, axis=0),
        "one face": np.repeat(other[:1], 96, axis=0),
        "upside down": np.ascontiguousarray(other[:, :, ::-1]),
        "swapped colours": np.ascontiguousarray(other[:, ::-1]),
    }
    floor = sliced_wasserstein(real, other)["mean"]
    figures = {name: sliced_wasserstein(real, images)["mean"] for name, images in spoiled.items()}
    assert all(figure > floor for figure in figures.values()), (floor, figures)
    assert figures["one face"] > figures["4 faces repeated"] > 1.3 * floor
    assert figures["blurred"] > 1.5 * floor and figures["noisy"] > 1.5 * floor


def test_more_of_the_same_fault_is_a_larger_distance(faces):
    real, other = faces
    figures = [
        sliced_wasserstein(real, each(other, lambda i, s=s: cv2.GaussianBlur(i, (0, 0), s)))["64"] for s in (0.5, 1, 2)
    ]
    assert figures == sorted(figures)


def test_a_set_is_no_farther_from_itself_than_from_another_half(faces):
    real, other = faces
    assert sliced_wasserstein(real, real)["mean"] <= 1.2 * sliced_wasserstein(real, other)["mean"]


def test_blur_shows_at_the_finest_level_and_not_at_the_coarsest(faces):
    real, other = faces
    blurred = sliced_wasserstein(real, each(other, lambda image: cv2.GaussianBlur(image, (0, 0), 1.0)))
    sharp = sliced_wasserstein(real, other)
    assert blurred["64"] > 2 * sharp["64"] and blurred["16"] < 1.3 * sharp["16"]


def test_the_figure_is_the_same_on_every_call_and_its_levels_are_named_by_size(faces):
    first, second = sliced_wasserstein(*faces), sliced_wasserstein(*faces)
    assert first == second and list(first) == ["64", "32", "16", "mean"]


def test_sets_of_different_shape_are_refused(faces):
    with pytest.raises(ValueError, match=r"\[96, 3, 64, 64\] and \[5, 3, 64, 64\]"):
        sliced_wasserstein(faces[0], faces[1][:5])
