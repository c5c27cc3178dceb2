"""Augmentations against numpy in the plain form of the authors' code, their gradients as adjoints, and their draws."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from dcgan.config import DIFFAUGMENT
from dcgan.training import augment
from dcgan.training.augment import TRANSFORMS, Chain, DiffAugment, InstanceNoise


def images(count: int = 6, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, size, size)).astype(np.float32)


@pytest.fixture
def drawn(monkeypatch):
    """What Paddle's generator gave, in the order in which it was asked."""
    found = []
    for name in ("rand", "randint"):
        original = getattr(paddle, name)

        def recording(*arguments, original=original):
            found.append(original(*arguments))
            return found[-1]

        monkeypatch.setattr(paddle, name, recording)
    return found


def plain_color(x, brightness, saturation, contrast):
    """rand_brightness, rand_saturation, rand_contrast of DiffAugment_pytorch.py; draws in [0, 1)."""
    x = x + (brightness - 0.5)
    mean = x.mean(axis=1, keepdims=True)
    x = (x - mean) * (saturation * 2) + mean
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return (x - mean) * (contrast + 0.5) + mean


def plain_translation(x, down, right):
    """Each image copied into a field of zeros, pixel by pixel."""
    moved = np.zeros_like(x)
    size = x.shape[2]
    for i in range(len(x)):
        for row in range(size):
            for column in range(size):
                y, z = row + int(down[i]), column + int(right[i])
                if 0 <= y < size and 0 <= z < size:
                    moved[i, :, y, z] = x[i, :, row, column]
    return moved


def plain_cutout(x, first_row, first_column):
    cut = x.copy()
    half = x.shape[2] // 2
    for i, (row, column) in enumerate(zip(first_row.astype(int), first_column.astype(int))):
        rows, columns = slice(max(0, row), max(0, row + half)), slice(max(0, column), max(0, column + half))
        cut[i, :, rows, columns] = 0
    return cut


def test_color_is_brightness_saturation_and_contrast_of_the_authors_code(drawn):
    x = images()
    result = TRANSFORMS["color"](paddle.to_tensor(x)).numpy()
    draws = [draw.numpy().astype(np.float64).reshape(-1, 1, 1, 1) for draw in drawn]
    np.testing.assert_allclose(result, plain_color(x.astype(np.float64), *draws), atol=2e-6)


def test_translation_moves_whole_pixels_and_lets_in_zeros(drawn):
    x = images(size=32)
    result = TRANSFORMS["translation"](paddle.to_tensor(x)).numpy()
    down, right = (draw.numpy().reshape(-1) for draw in drawn)
    assert np.array_equal(result, plain_translation(x, down, right))


@pytest.mark.parametrize("moved", [augment._moved_by_slices, augment._moved_by_products])  # on a CPU, on a GPU
def test_each_device_moves_images_by_the_same_pixels(moved):
    x, moves = images(4), np.array([[-2, 2], [0, 0], [1, -2], [2, 1]])
    down, right = (paddle.to_tensor(moves[:, axis].reshape(4, 1, 1)) for axis in (0, 1))
    assert np.array_equal(moved(paddle.to_tensor(x), down, right).numpy(), plain_translation(x, *moves.T))


def test_cutout_blackens_half_the_height_and_width_around_any_point(drawn):
    x = images(40)
    result = TRANSFORMS["cutout"](paddle.to_tensor(x)).numpy()
    centres = [draw.numpy().reshape(-1) for draw in drawn]
    assert np.array_equal(result, plain_cutout(x, *(centre - 4 for centre in centres)))
    assert min(c.min() for c in centres) < 4 and max(c.max() for c in centres) > 12  # so some squares lie half outside


@pytest.mark.parametrize(
    ("name", "ranges"),
    [("color", [(0, 1)] * 3), ("translation", [(-4, 4), (-4, 4)]), ("cutout", [(0, 32), (0, 32)])],
)
def test_draws_span_the_ranges_of_the_paper_and_every_image_has_its_own(drawn, name, ranges):
    TRANSFORMS[name](paddle.zeros([2000, 1, 32, 32]))
    assert len(drawn) == len(ranges)
    for draw, (low, high) in zip(drawn, ranges):
        values = draw.numpy()
        assert values.size == 2000 and len(np.unique(values)) > 8
        assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high


@pytest.mark.parametrize(("ratio", "most"), [(0.125, 4), (0.0625, 2), (0.01, 1)])
def test_translation_shifts_by_a_share_of_the_side_and_at_least_by_one_pixel(drawn, ratio, most):
    DiffAugment(("translation",), ratio)(paddle.zeros([500, 1, 32, 32]), 0)
    assert [(draw.numpy().min(), draw.numpy().max()) for draw in drawn] == [(-most, most)] * 2


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradient_is_the_adjoint_of_the_transform(name):
    """Each is affine: <T(x) - T(0), y> = <x, gradient of <T(x), y>>. Finite differences could say no more."""

    def transformed(x):
        paddle.seed(5)
        return TRANSFORMS[name](x)

    x, y = paddle.to_tensor(images(seed=1)), images(seed=2).astype(np.float64)
    x.stop_gradient = False
    (transformed(x) * paddle.to_tensor(y.astype(np.float32))).sum().backward()
    difference = transformed(x).numpy().astype(np.float64) - transformed(paddle.zeros_like(x)).numpy()
    expected = (difference * y).sum()
    assert abs(expected) > 1
    assert (x.numpy().astype(np.float64) * x.grad.numpy()).sum() == pytest.approx(expected, rel=1e-5)


def test_policy_is_applied_in_the_order_given_and_repeats_from_the_seed():
    x = paddle.to_tensor(images())

    def seen(*policy):
        paddle.seed(3)
        return DiffAugment(policy)(x, 0).numpy()

    assert np.array_equal(seen("color", "cutout"), seen("color", "cutout"))
    paddle.seed(3)
    by_hand = TRANSFORMS["cutout"](TRANSFORMS["color"](x)).numpy()
    assert np.array_equal(seen("color", "cutout"), by_hand)
    assert not np.array_equal(seen("cutout", "color"), by_hand)


@pytest.mark.parametrize("policy", [("colour",), ("color", "color"), ("",)])
def test_unknown_and_repeated_transforms_are_refused(policy):
    with pytest.raises(ValueError, match="policy must be some of color, translation, cutout, received"):
        DiffAugment(policy)


def test_config_knows_the_same_transforms():
    assert tuple(TRANSFORMS) == DIFFAUGMENT


def test_chain_passes_the_iteration_and_the_images_on():
    noise = InstanceNoise(0.5, 10)
    x = paddle.zeros([4, 3, 16, 16])
    paddle.seed(1)
    expected = noise(TRANSFORMS["color"](x), 5).numpy()
    paddle.seed(1)
    assert np.array_equal(Chain((DiffAugment(("color",)), noise))(x, 5).numpy(), expected)


def test_instance_noise_fades():
    noise = InstanceNoise(0.5, 10)
    x = paddle.zeros([4, 3, 64, 64])
    assert float(noise(x, 0).std()) == pytest.approx(0.5, rel=0.02)
    assert float(noise(x, 5).std()) == pytest.approx(0.25, rel=0.02)
    assert noise(x, 10) is x
