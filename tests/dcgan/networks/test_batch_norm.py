import copy

import numpy as np
import paddle

from dcgan.networks.batch_norm import FIRST_SEED, precise_bn, precise_bn_latents
from deploy.seeds import latents
from tests.comparisons import mapped, mapped_in_eval_mode


def statistics(network):
    return {name: t.numpy() for name, t in network.state_dict().items() if name.endswith(("_mean", "_variance"))}


def test_the_latents_are_mapped_as_one_training_batch_of_all_of_them(stale_generator):
    """Independent of the measuring: Paddle's own training mode normalises by the statistics of its batch."""
    z = precise_bn_latents(8, 60)
    training = copy.deepcopy(stale_generator)
    training.train()
    expected = mapped(training, z)
    assert np.abs(mapped_in_eval_mode(stale_generator, z) - expected).max() > 0.01
    precise_bn(stale_generator, z, batch_size=10)
    assert np.abs(mapped(stale_generator, z) - expected).max() < 1e-5


def test_the_first_layer_gets_the_statistics_of_all_latents_there_are(stale_generator):
    """Its outputs are linear in z, so that its mean and variance are known without drawing a single latent."""
    precise_bn(stale_generator, precise_bn_latents(8, 32), batch_size=8)
    weight = stale_generator.conv_1.weight.numpy().astype(np.float64)  # [8, 8, 4, 4]
    assert np.abs(stale_generator.bn_1._mean.numpy()).max() < 1e-7
    assert np.allclose(stale_generator.bn_1._variance.numpy(), (weight**2).sum(axis=0).mean(axis=(1, 2)), rtol=1e-5)


def test_latents_are_standardised_when_there_are_enough():
    z = precise_bn_latents(100, 400).astype(np.float64)
    assert np.abs(z.mean(axis=0)).max() < 1e-6 and np.abs(z.T @ z / 400 - np.eye(100)).max() < 1e-6
    assert np.array_equal(precise_bn_latents(100, 399), latents(FIRST_SEED + np.arange(399), 100))


def test_the_size_of_the_batches_does_not_matter(stale_generator):
    other = copy.deepcopy(stale_generator)
    precise_bn(stale_generator, precise_bn_latents(8, 48), batch_size=16)
    precise_bn(other, precise_bn_latents(8, 48), batch_size=3)
    for name, value in statistics(stale_generator).items():
        assert np.allclose(value, statistics(other)[name], rtol=1e-5, atol=1e-7)


def test_only_the_statistics_change_and_a_second_time_changes_nothing(stale_generator):
    before = {name: tensor.numpy() for name, tensor in stale_generator.state_dict().items()}
    precise_bn(stale_generator, precise_bn_latents(8, 32))
    once = {name: tensor.numpy() for name, tensor in stale_generator.state_dict().items()}
    precise_bn(stale_generator, precise_bn_latents(8, 32))
    twice = {name: tensor.numpy() for name, tensor in stale_generator.state_dict().items()}
    assert {name for name in before if not np.array_equal(before[name], once[name])} == set(statistics(stale_generator))
    assert all(np.array_equal(once[name], value) for name, value in twice.items())
    assert not any(part.training for part in stale_generator.sublayers(include_self=True))


class _Twisted(paddle.nn.Layer):
    """Its layers are registered in another order than they are used in, and one is not used at all."""

    def __init__(self):
        super().__init__()
        self.unused, self.second, self.first = (paddle.nn.BatchNorm1D(4) for _ in range(3))
        self.a, self.b = paddle.nn.Linear(4, 4), paddle.nn.Linear(4, 4)

    def forward(self, z):
        return self.second(paddle.tanh(self.b(self.first(self.a(z)))))


def test_layers_are_measured_in_the_order_in_which_they_are_used():
    paddle.seed(0)
    network, z = _Twisted(), precise_bn_latents(4, 32)
    training = copy.deepcopy(network)
    training.train()
    precise_bn(network, z, batch_size=8)
    assert np.abs(mapped(network, z) - mapped(training, z)).max() < 1e-4
    assert network.unused._variance.numpy().tolist() == [1.0] * 4
