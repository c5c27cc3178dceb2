import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from dcgan import DCGAN, AdversarialModel
from dcgan.data.loader import BatchLoader


@pytest.fixture
def model(tiny_config):
    return DCGAN(tiny_config)


@pytest.fixture
def loader(images):
    return BatchLoader(images, 8, seed=3, flip=True)


@pytest.fixture
def linear():
    """G(z) = g z and D(x) = d x, one number each: every step can be worked out by hand."""

    def build(**arguments):
        g, d = paddle.nn.Linear(1, 1, bias_attr=False), paddle.nn.Linear(1, 1, bias_attr=False)
        g.weight.set_value(np.array([[0.5]], np.float32))
        d.weight.set_value(np.array([[0.25]], np.float32))
        latent, image = InputSpec([None, 1], "float32", "z"), InputSpec([None, 1], "float32", "image")
        made = AdversarialModel(g, d, latent, image, **arguments)
        sgd = [paddle.optimizer.SGD(0.1, parameters=net.parameters()) for net in (g, d)]
        return made, sgd

    return build
