"""The synthetic faces: reproducible, varied, upright, and with the eyes where CelebA has them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace

import cv2
import numpy as np
import pytest

from dcgan.data import synthetic_faces as cartoon
from dcgan.data.synthetic_faces import describe, draw_face


@pytest.fixture(scope="module")
def faces():
    return np.stack([draw_face(index) for index in range(64)])


def first(condition):
    """Index of the first face whose attributes fulfil `condition`."""
    return next(index for index in range(5000) if condition(describe(index)))


def near(image, colour, tolerance=12):
    """Where the image has about this colour: bool [H, W]."""
    return (np.abs(image.astype(int) - colour) <= tolerance).all(axis=-1)


def eye_centres(face):
    """x, y in the image of the eye on its left and the one on its right."""
    right, _, origin = face.pose()
    return np.array([origin + (side * face.eye_distance + face.yaw) * right for side in (-1, 1)])


def test_face_is_an_rgb_image_of_celeba_size(faces):
    assert faces.shape == (64, 218, 178, 3)
    assert faces.dtype == np.uint8


def test_face_does_not_depend_on_order_or_thread(faces):
    order = list(range(63, -1, -1))
    with ThreadPoolExecutor(4) as pool:
        again = dict(zip(order, pool.map(draw_face, order)))
    for index, face in enumerate(faces):
        np.testing.assert_array_equal(again[index], face)


def test_caller_may_write_into_a_face(faces):
    draw_face(0)[:] = 0
    np.testing.assert_array_equal(draw_face(0), faces[0])


def test_attributes_of_a_face_never_change():
    face = describe(7, seed=3)
    assert (face.hair_style, face.mouth, face.glasses, face.skin) == ("pigtails", "grin", "none", (233, 180, 142))
    assert (face.width, face.yaw, face.scale) == pytest.approx((52.5173018463, 2.1756807975, 0.9998051682), abs=1e-9)


def test_other_index_or_seed_gives_another_face(faces):
    assert len({face.tobytes() for face in faces}) == 64
    assert not np.array_equal(draw_face(1, seed=0), draw_face(0, seed=1))
    assert not np.array_equal(draw_face(5, seed=0), draw_face(5, seed=1))


@pytest.mark.parametrize("index, seed", [(-1, 0), (2**32, 0), (0, -1), (0, 2**32), (0.5, 0)])
def test_index_and_seed_outside_32_bits_are_refused(index, seed):
    with pytest.raises(ValueError, match="whole number of 0 .. 4294967295"):
        draw_face(index, seed)


def test_largest_index_and_seed_are_drawn():
    assert draw_face(2**32 - 1, 2**32 - 1).std() > 20


def test_faces_differ_much_from_each_other(faces):
    small = np.stack([cv2.resize(face, (32, 39), interpolation=cv2.INTER_AREA) for face in faces]).astype(float)
    pairs = [np.abs(small[i] - small[j]).mean() for i in range(64) for j in range(i)]
    assert np.mean(pairs) > 40
    assert np.min(pairs) > 10


def test_every_choice_occurs_and_skins_spread():
    drawn = [describe(index) for index in range(1500)]
    for attribute, options in (
        ("hair_style", cartoon.STYLES), ("hair", cartoon.HAIRS), ("hairline", cartoon.HAIRLINES),
        ("iris", cartoon.IRISES), ("mouth", cartoon.MOUTHS), ("beard", cartoon.BEARDS), ("glasses", cartoon.GLASSES),
        ("pattern", cartoon.PATTERNS), ("background", cartoon.BACKGROUNDS), ("clothes", cartoon.CLOTHES),
    ):  # fmt: skip
        assert {getattr(face, attribute) for face in drawn} == set(options), attribute
    brightness = np.array([np.mean(face.skin) for face in drawn])
    assert brightness.std() > 35
    assert len({face.skin for face in drawn}) > 300


def test_attributes_are_drawn_independently_of_each_other():
    drawn = [asdict(describe(index)) for index in range(800)]
    names = [name for name, value in drawn[0].items() if isinstance(value, (int, float))]
    columns = np.array([[face[name] for face in drawn] for name in names], float)
    assert len(names) > 15
    assert np.abs(np.corrcoef(columns) - np.eye(len(names))).max() < 0.2


@pytest.mark.parametrize("name", [attribute.name for attribute in fields(cartoon.Face)])
def test_every_attribute_shows_in_the_image(monkeypatch, name):
    """Of forty faces that take the attribute from their neighbour, at least one looks different."""

    def looks_different(index):
        altered = replace(describe(index), **{name: getattr(describe(index + 1), name)})
        with monkeypatch.context() as patch:
            patch.setattr(cartoon, "describe", lambda index, seed: altered)
            image = draw_face(index)
        return not np.array_equal(image, draw_face(index))

    assert any(looks_different(index) for index in range(40))


def test_eyes_are_white_around_a_dark_pupil_where_described(faces):
    for index, image in enumerate(faces):
        face = describe(index)
        if face.glasses == "sun":
            continue
        for x, y in np.rint(eye_centres(face)).astype(int):
            eye = image[y - 9 : y + 15, x - 13 : x + 14]
            assert near(eye, cartoon.WHITE).sum() > 60, index
            assert near(eye, cartoon.INK).sum() > 20, index


def test_eyes_are_on_average_where_celeba_has_them():
    centres = np.array([eye_centres(describe(index)) for index in range(300)])
    np.testing.assert_allclose(centres.mean(axis=0), [[67, 112], [111, 112]], atol=1.5)
    assert np.abs(centres - centres.mean(axis=0)).max() < 10


def test_eyes_and_mouth_survive_in_a_64_pixel_crop(faces):
    """Even the mean face has two white eyes with darker pupils and, below them, a mouth less green than the skin."""
    small = [cv2.resize(face, (64, 78), interpolation=cv2.INTER_AREA)[10:74] for face in faces]
    mean = np.mean(small, axis=0)
    darkest_channel, green = mean.min(axis=-1), mean[..., 1]
    for pupil in (24, 40):
        whites = darkest_channel[28:34, pupil - 5 : pupil + 6].max()
        assert whites > darkest_channel[29:32, pupil - 1 : pupil + 2].min() + 30
        assert whites > darkest_channel[28:34, 31:33].max() + 30, "the eyes are apart"
    mouth, cheeks = green[42:49, 28:36].mean(), green[42:49, [21, 22, 41, 42]].mean()
    assert mouth < cheeks - 12


def test_mouth_is_below_the_eyes_and_hair_above():
    index = first(lambda face: face.mouth == "open" and face.beard == "none" and face.hair_style == "bun")
    face, image = describe(index), draw_face(index)
    throat, hair = near(image, cartoon.THROAT).nonzero(), near(image, face.hair).nonzero()
    assert len(throat[0]) > 30
    assert hair[0].mean() < 112 < 135 < throat[0].min() <= throat[0].max() < 185


@pytest.mark.parametrize("side", [-1, 1])
def test_ponytail_hangs_on_the_described_side(side):
    index = first(lambda face: face.hair_style == "ponytail" and face.hair_side == side and face.background[0] > 200
                  and face.hair[0] < 80)  # fmt: skip
    tail = near(draw_face(index)[90:140], cartoon.dark(describe(index).hair, 0.18))
    columns = tail.nonzero()[1]
    assert len(columns) > 100
    assert np.sign(np.median(columns) - 89) == side


@pytest.mark.parametrize("side", [-1, 1])
def test_skin_is_lighter_on_the_side_of_the_light(side):
    index = first(lambda face: face.light * side > 0.8 and face.hair_style == "bald" and face.beard == "none"
                  and not face.blush and abs(face.yaw) < 2 and face.glasses == "none")  # fmt: skip
    rows = draw_face(index)[132:138].astype(float).mean(axis=(0, 2))
    left, right = rows[46:54].mean(), rows[125:133].mean()
    assert (right - left) * side > 3
