"""DCGAN: the recipe of Radford et al. 2016, as a `TrainConfig` sets it, on the adversarial engine."""

from __future__ import annotations

from typing import Any

import paddle
from paddle.static import InputSpec

from .compute_plan import ComputePlan, plan
from .config import TrainConfig
from .distributed.process_group import SINGLE_PROCESS, ProcessGroup
from .networks.discriminator import Discriminator
from .networks.generator import Generator
from .training.adversarial_model import AdversarialModel
from .training.augment import Augmentation, Chain, DiffAugment, InstanceNoise
from .training.losses import OBJECTIVES
from .training.lr_schedule import WarmupAndDecay


class DCGAN(AdversarialModel):
    """Generator, discriminator, their optimizers and losses, ready to `fit`.

        model = DCGAN(TrainConfig(base_channels=32))
        model.fit(loader, epochs=5)
        images = model.generate(seeds=range(100))  # float32 [100, 3, 64, 64] in [-1, 1]

    Args: process_group - the processes that train together.  compute - where and how to compute; None: as `plan` of
          dcgan.compute_plan decides for the config.
    Raises ValueError for a config that is out of range, and for what this machine lacks. Sets Paddle's device and
    random seed.
    """

    def __init__(
        self,
        config: TrainConfig = TrainConfig(),  # noqa: B008 - frozen
        process_group: ProcessGroup = SINGLE_PROCESS,
        compute: ComputePlan | None = None,
    ):
        config.validate()
        self.compute = compute or plan(config)
        self.compute.apply()
        paddle.seed(config.seed)
        size = config.image_size
        momentum = config.batch_norm_momentum
        generator = Generator(
            config.latent_dim, config.base_channels, size, batch_norm_momentum=momentum, init=config.init
        )
        discriminator = Discriminator(config.base_channels, size, batch_norm_momentum=momentum)
        super().__init__(
            generator,
            discriminator,
            latent_spec=InputSpec([None, config.latent_dim], "float32", "z"),
            image_spec=InputSpec([None, 3, size, size], "float32", "image"),
            ema_decay=config.ema,
            seed=config.seed,
            process_group=process_group,
        )
        if config.sync_bn:  # not of the averaged generator, which one process may use by itself; never run on a GPU
            convert = paddle.nn.SyncBatchNorm.convert_sync_batchnorm
            generator, discriminator = convert(generator), convert(discriminator)
        self.config = config
        generator.kernels = discriminator.kernels = self.compute.training_kernels()
        self.prepare(
            _adam(config, config.lr, generator),
            _adam(config, config.lr_d or config.lr, discriminator),
            losses=OBJECTIVES[config.loss],
            d_steps=config.d_steps,
            g_steps=config.g_steps,
            augment=augmentation(config),
            schedule=WarmupAndDecay(config.lr_warmup, config.lr_decay) if config.lr_warmup or config.lr_decay else None,
            precise_bn=config.precise_bn,
            energy_weight=config.energy_weight,
            texture_weight=config.texture_weight,
            structure_weight=config.structure_weight,
            precision=self.compute.precision,
            sampling_kernels=self.compute.sampling_kernels(),
        )

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """See AdversarialModel.fit. A CPU computes with the threads of `compute`."""
        self.compute.set_threads()
        super().fit(*args, **kwargs)


def augmentation(config: TrainConfig) -> Augmentation | None:
    """What the discriminator sees of the images by these settings; None: the images themselves."""
    parts: list[Augmentation] = []
    if config.diffaugment:
        parts.append(DiffAugment(tuple(config.diffaugment.split(",")), config.translation_ratio))
    if config.instance_noise:
        parts.append(InstanceNoise(config.instance_noise, config.noise_steps))
    return Chain(tuple(parts)) if parts else None


def _adam(config: TrainConfig, learning_rate: float, network: paddle.nn.Layer) -> paddle.optimizer.Adam:
    return paddle.optimizer.Adam(learning_rate, config.beta1, config.beta2, parameters=network.parameters())
