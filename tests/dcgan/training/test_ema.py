import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from dcgan import DCGAN, AdversarialModel
from dcgan.networks.batch_norm import precise_bn, precise_bn_latents
from dcgan.networks.modes import evaluating
from dcgan.training.state import network_arrays
from deploy.seeds import latents
from tests.comparisons import mapped


def test_average_generator_follows_the_ramped_decay(tiny_config, images):
    model = DCGAN(tiny_config)
    average = network_arrays(model.network)["conv_1.weight"].astype(np.float64)
    for step in range(3):
        model.train_batch([images[:8].astype(np.float32) / 127.5 - 1])
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * network_arrays(model.generator)["conv_1.weight"]
    np.testing.assert_allclose(network_arrays(model.network)["conv_1.weight"], average, atol=1e-7)


@pytest.mark.parametrize("norm", [paddle.nn.BatchNorm1D, paddle.nn.utils.spectral_norm])
def test_an_average_without_memory_makes_the_images_of_the_live_generator(norm):
    """Whatever the generator is made of: BatchNorm of vectors, buffers that no optimizer moves."""
    paddle.seed(0)
    layers = [paddle.nn.Linear(4, 16), paddle.nn.Linear(16, 9)]
    layers.insert(1, norm(16)) if norm is paddle.nn.BatchNorm1D else norm(layers[1])
    generator, discriminator = paddle.nn.Sequential(*layers), paddle.nn.Linear(9, 1)
    specs = InputSpec([None, 4], "float32", "z"), InputSpec([None, 9], "float32", "image")
    model = AdversarialModel(generator, discriminator, *specs, ema_decay=1e-9)
    model.prepare(*(paddle.optimizer.Adam(0.01, parameters=n.parameters()) for n in (generator, discriminator)))
    for _ in range(4):
        model.train_batch([np.ones([8, 9], np.float32)])
    precise_bn(model.generator, precise_bn_latents(4))
    with evaluating(model.generator):
        live = mapped(model.generator, latents(range(5), 4))
    np.testing.assert_allclose(model.generate(range(5)), live, rtol=1e-4, atol=1e-5)
