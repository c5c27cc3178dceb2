import cv2
import numpy as np
import pytest

from dcgan.metrics import nearest_neighbours as module
from dcgan.metrics.nearest_neighbours import draw_nearest, find_nearest


def test_the_nearest_are_those_of_a_search_by_hand(faces):
    training, fake = faces[0], faces[1][:20]

    def small(image):
        return cv2.resize(image.transpose(1, 2, 0), (16, 16), interpolation=cv2.INTER_AREA).astype(float)

    found = find_nearest(training, fake)
    for i, image in enumerate(fake):
        distances = [
            min(np.sqrt(((small(image) - s) ** 2).mean()) for s in (small(other), small(other)[:, ::-1]))
            for other in training
        ]
        assert list(found.indices[i]) == list(np.argsort(distances)[:3])
        assert found.distances[i] == pytest.approx(np.sort(distances)[:3], abs=0.01)


def test_copies_are_found_mirrored_and_shifted_too(faces):
    training, other = faces
    fake = other.copy()
    fake[3], fake[5], fake[8] = training[40], training[41][..., ::-1], np.roll(training[42], 1, axis=-1)
    found = find_nearest(training, fake)
    assert found.distances[3, 0] == found.distances[5, 0] == 0 and found.distances[8, 0] < 0.5 * found.distances[9, 0]
    assert [found.indices[i, 0] for i in (3, 5, 8)] == [40, 41, 42]


def test_the_ratio_is_one_for_new_faces_and_zero_for_copies(faces, spoil):
    training, other = faces
    assert 0.8 < find_nearest(training, other).ratio < 1.25
    assert find_nearest(training, training[:50]).ratio == 0
    assert find_nearest(training, spoil["noise"](training, 12)).ratio < 0.3


def test_many_training_images_are_searched_a_part_at_a_time(faces, monkeypatch):
    whole = find_nearest(*faces)
    monkeypatch.setattr(module, "_CHUNK", 30)
    parts = find_nearest(*faces)
    assert np.array_equal(parts.indices, whole.indices)
    assert parts.distances == pytest.approx(whole.distances, abs=1e-3)
    assert parts.real_distances == pytest.approx(whole.real_distances, abs=1e-3)


def test_the_image_shows_each_sample_before_its_nearest(faces):
    training, fake = faces
    found = find_nearest(training, fake)
    drawn = draw_nearest(training, fake, found)
    title, gap = 28, 2
    first_row = drawn[:, title + gap : title + gap + 64]
    for column, expected in enumerate([fake[0], *training[found.indices[0]]]):
        left = gap + column * (64 + gap)
        assert np.array_equal(first_row[:, :, left : left + 64], expected)
    assert drawn.shape == (3, title + 10 * 66 + 2, 2 * (4 * 66 + 2) + 16)


def test_a_handful_of_samples_is_drawn_too(faces):
    found = find_nearest(faces[0], faces[1][:3])
    assert draw_nearest(faces[0], faces[1][:3], found).shape[1] == 28 + 3 * 66 + 2


def test_too_few_training_images_are_refused(faces):
    with pytest.raises(ValueError, match="at least 4 training images"):
        find_nearest(faces[0][:3], faces[1])
