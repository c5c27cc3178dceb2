"""The energy distance of the generator's loss against its formula in float64, and what it is there for."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from dcgan.training.energy_distance import energy_distance


@pytest.fixture
def batches():
    random = np.random.default_rng(0)
    return random.uniform(-1, 1, [5, 3, 16, 16]), random.uniform(-1, 0.5, [4, 3, 16, 16])


def by_formula(x, y):
    """Pair by pair, of means over blocks of pixels."""

    def mean_distance(a, b, is_same):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (is_same and i == j)]
        return np.mean([np.sqrt(((a[i] - b[j]) ** 2).mean()) for i, j in pairs])

    found = []
    for side in (4, 8):
        block = 16 // side
        a, b = (z.reshape(len(z), 3, side, block, side, block).mean((3, 5)) for z in (x, y))
        found.append(2 * mean_distance(a, b, False) - mean_distance(a, a, True) - mean_distance(b, b, True))
    return np.mean(found)


def of(x, y):
    return energy_distance(paddle.to_tensor(x.astype(np.float32)), paddle.to_tensor(y.astype(np.float32)))


def test_it_is_the_formula(batches):
    assert of(*batches).item() == pytest.approx(by_formula(*batches), abs=2e-4)


def test_it_has_a_gradient_at_images_that_are_equal():
    one = paddle.zeros([3, 3, 16, 16])
    one.stop_gradient = False
    energy_distance(one, paddle.zeros([3, 3, 16, 16])).backward()
    assert np.isfinite(one.grad.numpy()).all()


@pytest.mark.parametrize(("contrast", "is_too_strong"), [(1.5, True), (0.5, False)])
def test_its_slope_leads_to_the_contrast_of_the_real_images(contrast, is_too_strong):
    random = np.random.default_rng(1)
    layouts = random.uniform(-0.6, 0.6, [128, 3, 4, 4]).repeat(4, 2).repeat(4, 3)
    fake = paddle.to_tensor((contrast * layouts[:64]).astype(np.float32), stop_gradient=False)
    energy_distance(fake, paddle.to_tensor(layouts[64:].astype(np.float32))).backward()
    assert ((fake.grad * fake).sum().item() > 0) == is_too_strong
