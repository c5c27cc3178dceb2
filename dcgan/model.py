"""DCGAN: the recipe of Radford et al. 2016, as a `TrainConfig` sets it, on the adversarial engine."""

from __future__ import annotations

import paddle
from paddle.static import InputSpec

from .augment import InstanceNoise
from .config import TrainConfig
from .device import choose_device, choose_kernels, choose_precision
from .engine import AdversarialModel
from .losses import objective
from .networks import Discriminator, Generator


class DCGAN(AdversarialModel):
    """Generator, discriminator, their optimizers and losses, ready to `fit`.

        model = DCGAN(TrainConfig(base_channels=32))
        model.fit(loader, epochs=5)
        pictures = model.generate(seeds=range(100))  # float32 [100, 3, 64, 64] in [-1, 1]

    Raises ValueError for a config that is out of range. Sets Paddle's device and random seed.
    """

    def __init__(self, config: TrainConfig = TrainConfig()):  # noqa: B008 - frozen
        config.validate()
        device = choose_device(config.device)
        paddle.seed(config.seed)
        size = config.image_size
        generator = Generator(config.latent_dim, config.base_channels, size)
        discriminator = Discriminator(config.base_channels, size)
        super().__init__(
            generator,
            discriminator,
            latent_spec=InputSpec([None, config.latent_dim], "float32", "z"),
            image_spec=InputSpec([None, 3, size, size], "float32", "image"),
            ema_decay=config.ema,
            seed=config.seed,
        )
        self.config = config
        # Of the two that learn only: what the averaged generator draws must not depend on who trained it.
        generator.kernels = discriminator.kernels = choose_kernels(
            config.cpu_kernels, config.amp, config.amp_dtype, device
        )
        self.prepare(
            _adam(config, generator),
            _adam(config, discriminator),
            losses=objective(config.loss),
            d_steps=config.d_steps,
            g_steps=config.g_steps,
            augment=InstanceNoise(config.instance_noise, config.noise_steps) if config.instance_noise else None,
            precision=choose_precision(config.amp, config.amp_dtype, device),
        )


def _adam(config: TrainConfig, network: paddle.nn.Layer) -> paddle.optimizer.Adam:
    return paddle.optimizer.Adam(config.lr, config.beta1, config.beta2, parameters=network.parameters())
