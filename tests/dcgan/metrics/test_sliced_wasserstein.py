import numpy as np
import pytest

from dcgan.metrics.sliced_wasserstein import sliced_wasserstein


def test_two_halves_are_closer_than_any_spoiled_half(faces, spoil):
    real, other = faces
    spoiled = {
        "blurred": spoil["blur"](other, 1.0),
        "noisy": spoil["noise"](other, 12),
        "4 faces repeated": spoil["repeat"](other, 4),
        "one face": spoil["repeat"](other, 1),
        "upside down": np.ascontiguousarray(other[:, :, ::-1]),
        "swapped colours": np.ascontiguousarray(other[:, ::-1]),
    }
    baseline = sliced_wasserstein(real, other)["mean"]
    figures = {name: sliced_wasserstein(real, images)["mean"] for name, images in spoiled.items()}
    assert all(figure > baseline for figure in figures.values()), (baseline, figures)
    assert figures["one face"] > figures["4 faces repeated"] > 1.3 * baseline
    assert figures["blurred"] > 1.5 * baseline and figures["noisy"] > 1.5 * baseline


def test_a_set_is_no_farther_from_itself_than_from_another_half(faces):
    real, other = faces
    assert sliced_wasserstein(real, real)["mean"] <= 1.2 * sliced_wasserstein(real, other)["mean"]


def test_blur_shows_at_the_finest_level_and_not_at_the_coarsest(faces, spoil):
    real, other = faces
    blurred = sliced_wasserstein(real, spoil["blur"](other, 1.0))
    sharp = sliced_wasserstein(real, other)
    assert blurred["64"] > 2 * sharp["64"] and blurred["16"] < 1.3 * sharp["16"]


def test_the_figure_is_the_same_on_every_call_and_its_levels_are_named_by_size(faces):
    first, second = sliced_wasserstein(*faces), sliced_wasserstein(*faces)
    assert first == second and list(first) == ["64", "32", "16", "mean"]


def test_the_figure_does_not_depend_on_how_many_images_are_in_memory_at_once(faces, monkeypatch):
    whole = sliced_wasserstein(*faces)
    monkeypatch.setattr("dcgan.metrics.sliced_wasserstein._CHUNK", 50)
    assert sliced_wasserstein(*faces) == pytest.approx(whole, rel=1e-5)


def test_images_of_16_pixels_have_one_level(faces):
    small = [images[:, :, ::4, ::4] for images in faces]
    assert list(sliced_wasserstein(*small)) == ["16", "mean"]


def test_images_whose_levels_have_an_odd_side_are_measured_too(faces, spoil):
    real, other = (np.ascontiguousarray(images[:, :, :50, :50]) for images in faces)
    sharp, blurred = (sliced_wasserstein(real, images) for images in (other, spoil["blur"](other, 1.0)))
    assert list(sharp) == ["50", "25", "13", "mean"] and blurred["50"] > 2 * sharp["50"]


def test_sets_of_different_shape_are_refused(faces):
    with pytest.raises(ValueError, match=r"\[128, 3, 64, 64\] and \[5, 3, 64, 64\]"):
        sliced_wasserstein(faces[0], faces[1][:5])
