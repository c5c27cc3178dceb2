"""The three distances of the generator's loss against their formulas in float64, and what they are there for."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from dcgan.training.energy_distance import energy_distance, structure_distance, texture_distance


@pytest.fixture
def batches():
    random = np.random.default_rng(0)
    return random.uniform(-1, 1, [5, 3, 16, 16]), random.uniform(-1, 0.5, [4, 3, 16, 16])


def energy(a, b):
    """Pair by pair."""

    def mean_distance(a, b, is_same):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (is_same and i == j)]
        return np.mean([np.sqrt(((a[i] - b[j]) ** 2).mean()) for i, j in pairs])

    return 2 * mean_distance(a, b, False) - mean_distance(a, a, True) - mean_distance(b, b, True)


def block_means(x, block):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // block, block, w // block, block).mean((3, 5))


def log_roughness(images):
    """Pixel by pixel."""
    n, c, h, w = images.shape
    roughness = np.empty([n, c, h, w])
    for i in range(h):
        for j in range(w):
            around = images[:, :, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean((2, 3))
            roughness[:, :, i, j] = abs(images[:, :, i, j] - around)
    return np.log(block_means(roughness.mean(1, keepdims=True), 4) + 1 / 255)


def windows(images):
    """Window by window: [N, 64] each, of two grids half a window apart, at both sizes."""
    luma = np.einsum("nchw,c->nhw", images, [0.299, 0.587, 0.114])
    if luma.shape[1] > 64:
        luma = block_means(luma[:, None], luma.shape[1] // 64)[:, 0]
    for level in (luma, block_means(luma[:, None], 2)[:, 0]):
        side = level.shape[1]
        for first in (0, 4):
            for top in range(first, side - 7, 8):
                for left in range(first, side - 7, 8):
                    if max(top, left) + 8 <= side - first:
                        window = level[:, top : top + 8, left : left + 8].reshape(len(images), -1)
                        window = window - window.mean(1, keepdims=True)
                        yield window / np.sqrt((window**2).mean(1, keepdims=True) + 0.05**2)


def of(distance, x, y):
    return distance(paddle.to_tensor(x.astype(np.float32)), paddle.to_tensor(y.astype(np.float32))).item()


def test_the_energy_distance_is_its_formula(batches):
    expected = np.mean([energy(*(block_means(x, 16 // side) for x in batches)) for side in (4, 8)])
    assert of(energy_distance, *batches) == pytest.approx(expected, abs=2e-4)


def test_the_distance_in_texture_is_its_formula(batches):
    expected = energy(*(log_roughness(x) for x in batches))
    assert of(texture_distance, *batches) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("side", "count"), [(16, 6), (32, 30), (128, 138)])
def test_the_distance_in_structure_is_its_formula(side, count):
    random = np.random.default_rng(3)
    batches = [np.cumsum(random.normal(0, 0.2, [n, 3, side, side]), 3) for n in (3, 4)]
    pairs = list(zip(*map(windows, batches)))
    assert len(pairs) == count
    assert of(structure_distance, *batches) == pytest.approx(np.mean([energy(*pair) for pair in pairs]), abs=2e-4)


def test_structure_is_where_things_are_and_not_how_bright():
    random = np.random.default_rng(4)
    real = np.repeat(random.uniform(-1, 1, [64, 1, 32, 32]), 3, 1)
    assert abs(of(structure_distance, 0.6 * real[:32] + 0.3, real[32:])) < 0.01
    assert of(structure_distance, real[:32] * 0.1 + real[:1] * 0.9, real[32:]) > 0.3  # one face in 32 shades


@pytest.mark.parametrize("distance", [energy_distance, texture_distance, structure_distance])
def test_there_is_a_gradient_at_images_that_are_equal(distance):
    one = paddle.zeros([3, 3, 16, 16])
    one.stop_gradient = False
    distance(one, paddle.zeros([3, 3, 16, 16])).backward()
    assert np.isfinite(one.grad.numpy()).all()


def test_grain_of_a_level_on_plain_images_weighs_more_than_another_colour_of_them():
    random = np.random.default_rng(2)
    plain = random.uniform(-0.9, 0.9, [32, 3, 1, 1]).repeat(16, 2).repeat(16, 3)
    grain = plain[:16] + random.uniform(-1, 1, [16, 3, 16, 16]) / 127.5
    assert abs(of(texture_distance, plain[:16] / 2, plain[16:])) < 1e-3
    assert of(texture_distance, grain, plain[16:]) > 0.3


@pytest.mark.parametrize(("contrast", "is_too_strong"), [(1.5, True), (0.5, False)])
def test_the_slope_of_the_energy_distance_leads_to_the_contrast_of_the_real_images(contrast, is_too_strong):
    random = np.random.default_rng(1)
    layouts = random.uniform(-0.6, 0.6, [128, 3, 4, 4]).repeat(4, 2).repeat(4, 3)
    fake = paddle.to_tensor((contrast * layouts[:64]).astype(np.float32), stop_gradient=False)
    energy_distance(fake, paddle.to_tensor(layouts[64:].astype(np.float32))).backward()
    assert ((fake.grad * fake).sum().item() > 0) == is_too_strong
