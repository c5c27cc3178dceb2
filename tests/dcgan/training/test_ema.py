import numpy as np

from dcgan import DCGAN
from dcgan.training.state import network_arrays


def test_average_generator_follows_the_ramped_decay(tiny_config, images):
    model = DCGAN(tiny_config)
    average = network_arrays(model.network)["conv_1.weight"].astype(np.float64)
    for step in range(3):
        model.train_batch([images[:8].astype(np.float32) / 127.5 - 1])
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * network_arrays(model.generator)["conv_1.weight"]
    np.testing.assert_allclose(network_arrays(model.network)["conv_1.weight"], average, atol=1e-7)
