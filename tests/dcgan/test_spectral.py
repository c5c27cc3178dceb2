"""Spectral normalisation against numpy's singular values, and who may move its vectors."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.engine import frozen, tensors_of
from dcgan.errors import CheckpointError
from dcgan.networks import Discriminator
from dcgan.spectral import SpectralConv2D, plain


@pytest.fixture
def conv():
    paddle.seed(3)
    return SpectralConv2D(5, 8, 4, 2, 1)


@pytest.fixture
def model(tiny_config):
    return DCGAN(dataclasses.replace(tiny_config, spectral_norm=True, d_steps=2))


def state(layer):
    return {name: value.numpy().astype(np.float64) for name, value in layer.state_dict().items()}


def vectors(network):
    return {name: value.numpy() for name, value in network.state_dict().items() if name.endswith((".u", ".v"))}


def test_the_largest_singular_value_becomes_one(conv):
    for _ in range(200):
        conv.iterate()
    raw, normal = (np.asarray(w, np.float64).reshape(8, -1) for w in (state(conv)["weight"], conv.weight.numpy()))
    singular = np.linalg.svd(raw, compute_uv=False)
    assert singular[0] > 1.2
    np.testing.assert_allclose(normal, raw / singular[0], rtol=1e-5, atol=1e-7)


def test_an_iteration_is_that_of_the_power_method(conv):
    before = state(conv)
    matrix = before["weight"].reshape(8, -1)
    v = matrix.T @ before["u"]
    v /= np.linalg.norm(v)
    u = matrix @ v
    u /= np.linalg.norm(u)
    conv.iterate()
    after = state(conv)
    np.testing.assert_allclose(after["u"], u, atol=1e-6)
    np.testing.assert_allclose(after["v"], v, atol=1e-6)
    assert np.array_equal(after["weight"], before["weight"]) and not np.array_equal(after["u"], before["u"])


def test_gradient_goes_through_the_norm_as_in_the_paper(conv):
    """Miyato et al. 2018, eq. 12: with vectors held, the part of the gradient along u v is taken away."""
    y = np.random.default_rng(0).normal(size=conv.weight.shape)
    (conv.weight * paddle.to_tensor(y.astype(np.float32))).sum().backward()
    s = state(conv)
    direction = np.outer(s["u"], s["v"])
    largest = (s["weight"].reshape(8, -1) * direction).sum()
    normal = s["weight"].reshape(8, -1) / largest
    expected = (y.reshape(8, -1) - (y.reshape(8, -1) * normal).sum() * direction) / largest
    np.testing.assert_allclose(conv._parameters["weight"].grad.numpy().reshape(8, -1), expected, atol=1e-5)


def test_the_convolution_is_paddles_own_with_the_normal_weight(conv):
    x = paddle.randn([2, 5, 8, 8])
    expected = paddle.nn.functional.conv2d(x, paddle.to_tensor(conv.weight.numpy()), conv.bias, 2, 1)
    assert np.array_equal(conv(x).numpy(), expected.numpy())


def test_every_convolution_of_the_discriminator_is_normal_and_none_has_batch_norm(model):
    layers = dict(model.discriminator.named_children())
    assert list(layers) == ["conv_1", "conv_2", "conv_3"]
    for layer in layers.values():
        largest = np.linalg.svd(layer.weight.numpy().reshape(layer.weight.shape[0], -1), compute_uv=False)[0]
        assert largest == pytest.approx(1, abs=0.05)
    assert [name for name in model.discriminator.state_dict() if "bias" in name] == ["conv_2.bias"]
    assert any("bn_" in name for name in model.generator.state_dict())


def test_only_a_discriminator_that_learns_moves_its_vectors(model, pictures):
    discriminator = model.discriminator
    x = paddle.to_tensor(pictures[:8].astype(np.float32) / 127.5 - 1)

    def moves(action):
        before = vectors(discriminator)
        action()
        return [name for name, value in vectors(discriminator).items() if not np.array_equal(value, before[name])]

    model.generator.train()
    discriminator.train()
    with frozen(discriminator):
        assert moves(lambda: discriminator(x)) == []
    assert moves(lambda: model.generator_step(model._fakes(8))) == []
    assert moves(lambda: discriminator(x)) == ["conv_1.u", "conv_1.v", "conv_2.u", "conv_2.v"]  # conv_3: one filter
    discriminator.eval()
    assert moves(lambda: discriminator(x)) == []


def test_an_iteration_of_training_follows_the_weight_twice_per_discriminator_step(model, pictures, monkeypatch):
    calls = []
    iterate = SpectralConv2D.iterate
    monkeypatch.setattr(SpectralConv2D, "iterate", lambda layer: (calls.append(layer), iterate(layer)))
    model.train_batch([pictures[:16].astype(np.float32) / 127.5 - 1])
    assert len(calls) == 3 * 2 * 2  # layers, steps, real and fake


def test_training_keeps_the_largest_singular_value_near_one(tiny_config, pictures):
    model = DCGAN(dataclasses.replace(tiny_config, spectral_norm=True, lr=1e-3))
    for _ in range(20):
        model.train_batch([pictures[:8].astype(np.float32) / 127.5 - 1])
    raw, normal = (
        np.linalg.svd(w.numpy().reshape(8, -1), compute_uv=False)[0]
        for w in (model.discriminator.conv_2._parameters["weight"], model.discriminator.conv_2.weight)
    )
    assert normal == pytest.approx(1, abs=0.1) and not 0.8 < raw < 1.2


def test_the_plain_tensors_are_those_of_an_ordinary_discriminator_that_judges_the_same():
    paddle.seed(0)
    spectral, ordinary = Discriminator(4, 16, spectral_norm=True), Discriminator(4, 16)
    spectral.conv_2.bias.set_value(paddle.randn([8]))
    tensors = plain(tensors_of(spectral))
    own = ordinary.state_dict()
    assert {name: value.shape for name, value in tensors.items()} == {n: tuple(t.shape) for n, t in own.items()}
    for name, tensor in own.items():
        tensor.set_value(tensors[name])
    spectral.eval()
    ordinary.eval()
    x = paddle.randn([5, 3, 16, 16])
    np.testing.assert_allclose(ordinary(x).numpy(), spectral(x).numpy(), atol=1e-6)
    assert np.ptp(spectral(x).numpy()) > 0.1


def test_tensors_without_spectral_norm_are_plain_already():
    tensors = tensors_of(Discriminator(4, 16))
    assert plain(tensors) == tensors


@pytest.mark.parametrize(
    "change",
    [{"conv_2.u": np.zeros(3)}, {"conv_2.v": np.zeros([8, 8])}, {"conv_2.weight": np.zeros(8)}, {"conv_2.v": None}],
)
def test_vectors_that_do_not_fit_are_refused_by_name(change):
    tensors = {**tensors_of(Discriminator(4, 16, spectral_norm=True)), **change}
    with pytest.raises(CheckpointError, match="conv_2.u and conv_2.v do not fit conv_2.weight"):
        plain({name: value for name, value in tensors.items() if value is not None})
