"""Objectives against float64 formulas of the papers, gradients against derivatives, at harmless and huge logits."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from dcgan.training.losses import OBJECTIVES

RANGES = {"small": 3.0, "large": 30.0, "huge": 100.0}


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-softplus(-x))


# name: discriminator(real, fake), generator(fake), and the derivatives of their terms at each logit
REFERENCE = {
    "bce": (
        lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
        lambda fake: softplus(-fake).mean(),
        (lambda real: -sigmoid(-real), sigmoid, lambda fake: -sigmoid(-fake)),
    ),
    "hinge": (
        lambda real, fake: np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(),
        lambda fake: -fake.mean(),
        (lambda real: -1.0 * (real < 1.0), lambda fake: 1.0 * (fake > -1.0), lambda fake: -np.ones_like(fake)),
    ),
    "lsgan": (
        lambda real, fake: ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2,
        lambda fake: ((fake - 1) ** 2).mean() / 2,
        (lambda real: real - 1, lambda fake: fake, lambda fake: fake - 1),
    ),
}


def logits(seed: int, scale: float, count: int = 37) -> np.ndarray:
    drawn = np.random.default_rng(seed).uniform(-scale, scale, (count, 1, 1, 1))
    drawn[:2, 0, 0, 0] = -scale, scale
    return drawn.astype(np.float32).astype(np.float64)


def tensor(values: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(values.astype(np.float32), stop_gradient=False)


def test_every_objective_has_a_reference():
    assert set(OBJECTIVES) == set(REFERENCE)


@pytest.mark.parametrize("scale", RANGES.values(), ids=RANGES)
@pytest.mark.parametrize("name", REFERENCE)
def test_values_are_those_of_the_formulas(name, scale):
    real, fake = logits(1, scale), logits(2, scale)
    discriminator, generator, _ = REFERENCE[name]
    found = OBJECTIVES[name]
    for loss, expected in (
        (found.discriminator(tensor(real), tensor(fake)), discriminator(real, fake)),
        (found.generator(tensor(fake)), generator(fake)),
    ):
        assert loss.shape == [] and loss.dtype == paddle.float32
        assert float(loss) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("scale", RANGES.values(), ids=RANGES)
@pytest.mark.parametrize("name", REFERENCE)
def test_gradients_are_the_derivatives_and_finite(name, scale):
    real, fake = logits(1, scale), logits(2, scale)
    of_real, of_fake, of_generator = REFERENCE[name][2]
    x, y = tensor(real), tensor(fake)
    OBJECTIVES[name].discriminator(x, y).backward()
    z = tensor(fake)
    OBJECTIVES[name].generator(z).backward()
    for found, expected in ((x, of_real(real)), (y, of_fake(fake)), (z, of_generator(fake))):
        assert np.allclose(found.grad.numpy(), expected / expected.size, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("extreme", [100.0, -100.0, 1e4])
def test_a_certain_discriminator_gives_no_nan_and_still_teaches(name, extreme):
    """On probabilities log(1 - 1) is minus infinity; on logits the generator's gradient stays where it is needed."""
    x = tensor(np.full((4, 1, 1, 1), extreme))
    y = tensor(np.full((4, 1, 1, 1), -extreme))
    loss = OBJECTIVES[name].discriminator(x, y) + OBJECTIVES[name].generator(y)
    loss.backward()
    for values in (loss, x.grad, y.grad):
        assert np.isfinite(values.numpy()).all()
    z = tensor(np.full((4, 1, 1, 1), -100.0))  # every fake is recognised for sure
    OBJECTIVES[name].generator(z).backward()
    assert (z.grad.numpy() < -0.2).all()


def test_undecided_discriminator_pays_twice_log_two():
    zero = tensor(np.zeros((5, 1, 1, 1)))
    assert float(OBJECTIVES["bce"].discriminator(zero, zero)) == pytest.approx(2 * math.log(2), rel=1e-6)
    assert float(OBJECTIVES["bce"].generator(zero)) == pytest.approx(math.log(2), rel=1e-6)


def test_bce_equals_paddles_own_on_labels():
    real, fake = tensor(logits(3, 5.0)), tensor(logits(4, 5.0))
    own = paddle.nn.functional.binary_cross_entropy_with_logits
    expected = own(real, paddle.ones_like(real)) + own(fake, paddle.zeros_like(fake))
    assert float(OBJECTIVES["bce"].discriminator(real, fake)) == pytest.approx(float(expected), rel=1e-6)
    assert float(OBJECTIVES["bce"].generator(fake)) == pytest.approx(float(own(fake, paddle.ones_like(fake))), rel=1e-6)


def test_batches_of_different_sizes_count_the_same():
    real, fake = tensor(logits(1, 3.0, 5)), tensor(logits(2, 3.0, 50))
    expected = REFERENCE["bce"][0](logits(1, 3.0, 5), logits(2, 3.0, 50))
    assert float(OBJECTIVES["bce"].discriminator(real, fake)) == pytest.approx(expected, rel=2e-6)


def test_config_offers_exactly_these_objectives():
    from dcgan.config import TrainConfig

    assert TrainConfig.__dataclass_fields__["loss"].metadata["choices"] == tuple(OBJECTIVES)
