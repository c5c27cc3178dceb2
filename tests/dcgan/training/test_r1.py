"""R1 against Paddle's own first derivative and finite differences of it in float64, and when it is due."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.networks.discriminator import Discriminator
from dcgan.networks.kernels import PADDLE_KERNELS
from dcgan.training.r1 import R1


@pytest.fixture
def discriminator():
    """A discriminator in float64 and train mode with weights that matter."""
    paddle.seed(1)
    network = Discriminator(3, 16).to(dtype="float64")
    draw = np.random.default_rng(0)
    for name, p in network.named_parameters():
        if not p.stop_gradient:
            p.set_value(draw.normal(size=p.shape) * 0.5 + ("bn" in name))
    return network


def real(dtype=np.float64) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(5).normal(size=(4, 3, 16, 16)).astype(dtype))


def reference(network, gamma: float) -> float:
    """gamma / 2 * mean |gradient| ** 2 of the first derivative, which is Paddle's and knows nothing of the penalty."""
    x = real()
    x.stop_gradient = False
    network(x).sum().backward()
    squares = (x.grad.numpy() ** 2).sum(axis=(1, 2, 3))
    network.clear_gradients()
    return gamma / 2 * squares.mean()


def test_the_penalty_is_half_gamma_times_the_mean_squared_gradient(discriminator):
    assert float(R1(3.0, 1)(discriminator, real(), 0)) == pytest.approx(reference(discriminator, 3.0), rel=1e-10)


def test_its_gradient_is_that_of_finite_differences_in_every_weight(discriminator):
    R1(3.0, 1)(discriminator, real(), 0).backward()
    found = {n: p.grad for n, p in discriminator.named_parameters() if not p.stop_gradient}
    found = {name: np.zeros(1) if grad is None else grad.numpy() for name, grad in found.items()}
    step, draw = 1e-6, np.random.default_rng(1)
    for name, p in discriminator.named_parameters():
        if p.stop_gradient:
            continue
        start, direction = p.numpy(), draw.normal(size=p.shape)
        ends = []
        for sign in (1, -1):
            p.set_value(start + sign * step * direction)
            ends.append(reference(discriminator, 3.0))
        p.set_value(start)
        expected = (ends[0] - ends[1]) / (2 * step)
        assert (found[name] * direction).sum() == pytest.approx(expected, rel=1e-5, abs=1e-6), name


def test_it_is_due_every_so_many_iterations_with_their_weight_together(discriminator):
    every_time = float(R1(2.0, 1)(discriminator, real(), 7))
    lazy = R1(2.0, 4)
    found = [lazy(discriminator, real(), step) for step in range(9)]
    assert [value is not None for value in found] == [step % 4 == 0 for step in range(9)]
    assert float(found[4]) == pytest.approx(4 * every_time)


def test_running_statistics_kernels_and_images_are_left_as_they_were(discriminator):
    before = {name: value.numpy() for name, value in discriminator.state_dict().items()}
    x = real()
    R1(1.0, 1)(discriminator, x, 0).backward()
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in discriminator.state_dict().items())
    assert discriminator.kernels is PADDLE_KERNELS and x.stop_gradient and x.grad is None


@pytest.mark.parametrize("kernels", ["paddle", "onednn"])
def test_in_training_the_penalty_is_descended_and_flattens_the_discriminator(tiny_config, images, kernels):
    def slope_after(gamma):
        model = DCGAN(dataclasses.replace(tiny_config, lr=2e-3, r1=gamma, r1_every=2, cpu_kernels=kernels))
        for _ in range(10):
            model.train_batch([images[:8].astype(np.float32) / 127.5 - 1])
        x = paddle.to_tensor(images[:8].astype(np.float32) / 127.5 - 1)
        return float(R1(1.0, 1)(model.discriminator, x, 0))

    assert slope_after(100.0) < 0.5 * slope_after(0.0)


def test_the_penalty_is_taken_at_the_images_that_the_discriminator_sees(tiny_config, monkeypatch):
    model = DCGAN(dataclasses.replace(tiny_config, r1=1.0, diffaugment="color"))
    seen, judged = [], []
    monkeypatch.setattr(model, "penalty", lambda network, images, step: seen.append((images.numpy(), step)))
    model.discriminator.register_forward_pre_hook(lambda _, inputs: judged.append(inputs[0].numpy()))
    model.train_batch([np.zeros([8, 3, 16, 16], np.float32)])
    assert len(seen) == 1 and seen[0][1] == 0
    assert np.array_equal(seen[0][0], judged[0]) and np.abs(judged[0]).max() > 0
