"""AdversarialModel: two networks that learn against each other (Goodfellow et al. 2014, algorithm 1).

The model knows a generator, a discriminator and a way to sample latents. It knows no image size, no data set and no
command line. Sampling, saving and loading are in two_networks.py, the loop around the iteration in hapi.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

from deploy.seeds import key

from ..networks.batch_norm import running_statistics
from ..networks.kernels import PADDLE_KERNELS
from ..networks.modes import frozen
from .augment import Augmentation
from .ema import update_average
from .energy_distance import energy_distance, structure_distance, texture_distance
from .hapi import Scalar, check_images
from .losses import OBJECTIVES, Objective
from .lr_schedule import Schedule
from .precision import FLOAT32, Precision
from .state import master_weights
from .two_networks import TwoNetworkModel

_LATENT_STREAM, _NOISE_STREAM = 3, 4  # which streams of the run's seed training takes its random numbers from


class AdversarialModel(TwoNetworkModel):
    """A generator and a discriminator that `prepare` tells how to learn, and `fit` teaches.

    Args: as TwoNetworkModel's.
    `last_step`, set by whoever knows, is the `global_step` at which training will end: a learning rate schedule may
    need it.
    """

    last_step: int | None = None
    _latent_batches = 0  # sampled so far in this iteration
    schedule: Schedule | None = None

    # ---- the iteration ----------------------------------------------------------------------------------------------

    def train_batch(self, inputs: Sequence[Any], labels: Any = None, update: bool = True) -> list:
        """One iteration: `d_steps` steps of the discriminator, then `g_steps` of the generator.

        Args: inputs - one field: real images [d_steps * N, C, H, W], float32 in [-1, 1] or uint8.
        Returns an empty list; `scalars` holds what happened, still on the device.
        """
        real_batches = self._begin_iteration(inputs)
        for real in real_batches:
            fake = self._fake_images(real.shape[0])
            self.discriminator_step(real, fake.detach())
        for step in range(self.g_steps):
            if step:  # the first generator step reuses the images that the discriminator has just seen
                fake = self._fake_images(real.shape[0])
            self.generator_step(real, fake)
        self._end_iteration()
        return []

    def discriminator_step(self, real: paddle.Tensor, fake: paddle.Tensor) -> None:
        """Teach the discriminator to tell `real` from `fake`; both [N, C, H, W], detached."""
        real, fake = self._augmented(real), self._augmented(fake)
        real_logits, fake_logits = self._logits(real), self._logits(fake)
        loss = self.losses.discriminator(real_logits, fake_logits)
        self._backward_and_step("discriminator", loss)  # one backward over the sum: what data parallel needs too
        self.scalars["loss_d"] = loss.detach()
        self.scalars["score_real"] = nn.functional.sigmoid(real_logits.detach()).mean()
        self.scalars["score_fake"] = nn.functional.sigmoid(fake_logits.detach()).mean()

    def generator_step(self, real: paddle.Tensor, fake: paddle.Tensor) -> None:
        """Teach the generator images that the discriminator takes for real, and the colours, texture and structure of
        `real`; `fake` [N, C, H, W] with its graph."""
        with frozen(self.discriminator):
            loss = self.losses.generator(self._logits(self._augmented(fake)))
            if self.energy_weight:
                loss = loss + self.energy_weight * energy_distance(fake, real)
            if self.texture_weight:
                loss = loss + self.texture_weight * texture_distance(fake, real)
            if self.structure_weight:
                loss = loss + self.structure_weight * structure_distance(fake, real)
            self._backward_and_step("generator", loss)
        self.scalars["loss_g"] = loss.detach()

    # ---- the parts of an iteration ----------------------------------------------------------------------------------

    def _begin_iteration(self, inputs: Any) -> list[paddle.Tensor]:
        """Train mode, random numbers and learning rates of this iteration; the real images of each discriminator
        step."""
        real = check_images(inputs, self.image_spec, multiple_of=self.d_steps)
        self.generator.train()
        self.discriminator.train()
        # Random numbers are functions of (seed, iteration), so that a resumed run needs no generator states.
        rank = [self.process_group.rank] if self.process_group.rank else []
        paddle.seed(key(self.seed, _NOISE_STREAM, self.global_step, *rank))
        self._latent_batches = 0
        if self.schedule is not None:
            factor = self.schedule(self.global_step, self.last_step)
            for name, optimizer in self._optimizers().items():
                optimizer.set_lr(factor * self._learning_rates[name])
        # Dealt out in turn: the loader sorts a batch, so its parts would be parts of the data. The kernels read memory.
        return [real[i :: self.d_steps].contiguous() for i in range(self.d_steps)]

    def _fake_images(self, count: int) -> paddle.Tensor:
        """Images [count, C, H, W] from fresh latents, with their graph."""
        with self.precision.autocast():
            return self.generator(self._sample_latents(count))

    def _augmented(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images as the discriminator sees them."""
        return images if self.augment is None else self.augment(images.astype("float32"), self.global_step)

    def _logits(self, images: paddle.Tensor) -> paddle.Tensor:
        """The discriminator's logits in float32."""
        with self.precision.autocast():
            return self.discriminator(images).astype("float32")

    def _backward_and_step(self, name: str, loss: paddle.Tensor) -> None:
        optimizer, scaler = self._optimizers()[name], self._scalers.get(name)
        # Before, not after: the gradients of the last step can then be looked at. Dropped, not zeroed: zeros would be
        # written and then added to.
        parameters = self._networks()[name].parameters()
        for parameter in parameters:  # those that no optimizer moves as well
            parameter.clear_gradient(False)
        (loss if scaler is None else scaler.scale(loss)).backward()
        # Still scaled: an overflow in one process is seen by all, and all skip.
        self.process_group.all_reduce_mean([p.grad for p in parameters if p.grad is not None])
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    def _end_iteration(self) -> None:
        # Each process saw the statistics of its own batches. Averaged at once, not only for a checkpoint, all of them
        # hold the same numbers after every iteration, wherever a run is stopped.
        networks = (self.generator, self.discriminator)
        self.process_group.all_reduce_mean([t for network in networks for t in running_statistics(network).values()])
        if self.network is not self.generator:
            masters = master_weights(self.generator_optimizer, self.generator)
            update_average(self.network, self.generator, self.ema_decay, self.global_step, masters)
        self._statistics_are_stale = True
        self.count_iteration()

    def _sample_latents(self, count: int) -> paddle.Tensor:
        """Training latents [count, *latent shape]: a function of (seed, iteration, batch within it).

        Processes take adjoining ranges: together they sample what one process with their summed batch would sample.
        """
        first = key(self.seed, _LATENT_STREAM, self.global_step, self._latent_batches)
        self._latent_batches += 1
        seeds = first + self.process_group.rank * count + np.arange(count, dtype=np.int64)
        return paddle.to_tensor(self._latents_of(seeds % (1 << 32)))

    # ---- how the networks learn -------------------------------------------------------------------------------------

    def prepare(
        self,
        generator_optimizer: paddle.optimizer.Optimizer | None = None,
        discriminator_optimizer: paddle.optimizer.Optimizer | None = None,
        losses: Objective = OBJECTIVES["bce"],
        d_steps: int = 1,
        g_steps: int = 1,
        precision: Precision = FLOAT32,
        augment: Augmentation | None = None,
        schedule: Schedule | None = None,
        precise_bn: bool = False,
        energy_weight: float = 0.0,
        texture_weight: float = 0.0,
        structure_weight: float = 0.0,
        sampling_kernels: Any = PADDLE_KERNELS,
    ) -> None:
        """Say how the networks learn. Without optimizers the model can only sample.

        Args: losses, precision, augment, schedule - see the modules of these names beside this one.
              d_steps - discriminator steps per iteration; an iteration takes d_steps batches, handed over as one.
              g_steps - generator steps per iteration.  precise_bn - whether a generator that is not averaged, too, is
              given BatchNorm statistics of its own weights before it samples or is saved; the averaged one always is.
              energy_weight, texture_weight, structure_weight - of parts of the generator's loss: energy_distance.py.
              sampling_kernels - what computes the generator while it samples, see dcgan.networks.kernels.
        Raises ValueError as TwoNetworkModel's, and for losses that are no Objective and fewer steps than one.
        """
        if not (hasattr(losses, "discriminator") and hasattr(losses, "generator")):
            raise ValueError(f"losses must be an Objective of dcgan.training.losses, received {losses!r}")
        if d_steps < 1 or g_steps < 1:
            raise ValueError(f"d_steps and g_steps must be at least 1, received {d_steps} and {g_steps}")
        metrics = [Scalar(name, self) for name in ("loss_d", "loss_g", "score_real", "score_fake")]
        changed = self._optimizers() if self.schedule else {}
        rates = [(optimizer, self._learning_rates[name]) for name, optimizer in changed.items()]
        super().prepare(generator_optimizer, discriminator_optimizer, metrics, precision, precise_bn, sampling_kernels)
        for optimizer, rate in rates:
            optimizer.set_lr(rate)  # the schedule until now has changed it
        self.losses, self.d_steps, self.g_steps = losses, d_steps, g_steps
        self.augment, self.schedule = augment, schedule
        self.energy_weight, self.texture_weight, self.structure_weight = energy_weight, texture_weight, structure_weight
        self._learning_rates = {name: optimizer.get_lr() for name, optimizer in self._optimizers().items()}

    def fit(self, train_data: Any = None, *args: Any, **kwargs: Any) -> None:
        """See ResumableModel.fit. Raises ValueError, too, for a model without optimizers."""
        if len(self._optimizers()) < 2:
            raise ValueError("fit needs two optimizers: call prepare(generator_optimizer, discriminator_optimizer)")
        super().fit(train_data, *args, **kwargs)

    def gradient_norms(self) -> dict[str, paddle.Tensor]:
        """L2 norm of the gradients that the last iteration used, of each network, still on the device."""
        return {name: gradient_norm(getattr(self, name)) for name in ("generator", "discriminator")}


def gradient_norm(network: nn.Layer) -> paddle.Tensor:
    """L2 norm of a network's gradients, float32, still on the device; 0 where there are none."""
    squares = [(p.grad.astype("float32") ** 2).sum() for p in network.parameters() if p.grad is not None]
    return paddle.sqrt(paddle.add_n(squares)) if squares else paddle.zeros([])
