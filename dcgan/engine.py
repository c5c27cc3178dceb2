"""AdversarialModel: two networks that learn against each other on the loop, callbacks and export of `paddle.Model`.

The engine knows a generator, a discriminator and a way to draw latents. It knows no picture size, no data set and no
command line. `paddle.Model` trains one network with one optimizer; `train_batch`, `prepare`, `save` and `load` are
replaced here, and `fit`, `predict` and the callbacks are inherited. `_loss` and `_optimizer` stay None, so that hapi
reads nothing back from the device after a step: what a step has to say goes through `Scalar` metrics.
"""

from __future__ import annotations

import contextlib
import copy
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from deploy.latents import key, latents

from .augment import Augmentation
from .checkpoint import Checkpoint, Tensors, read_checkpoint, write_checkpoint
from .device import Precision
from .distributed import ALONE, World
from .errors import CheckpointError, TrainingError
from .files import PathLike
from .losses import OBJECTIVES, Objective
from .penalty import Penalty
from .schedule import Schedule

FLOAT32 = Precision("O0", "float32")
_COUNTERS = ("epoch", "epoch_step", "global_step", "seed")
_TRAINING_LATENTS, _TRAINING_NOISE = 3, 4  # which streams of the run's seed training draws from
_STATISTICS_BATCHES, _STATISTICS_BATCH_SIZE = 4, 64  # latents that the averaged generator's BatchNorm is measured on


class AdversarialModel(paddle.Model):
    """A `paddle.Model` of two networks.

    Args: generator - Layer: latents -> images.  discriminator - Layer: images -> logits.
          latent_spec, image_spec - InputSpecs of the two inputs, named, with a batch axis of None. A batch that does
          not fit is refused.  ema_decay - per iteration; 0 keeps no averaged generator.  seed - of the training
          latents.  world - the processes that train together, see dcgan.distributed.
    `network` is the generator that draws and is exported: the averaged one where there is one.
    Counters: `epoch` (whole epochs done), `epoch_step` (iterations done of the current one), `global_step`. While it
    fits, `epoch_length` is the number of iterations in an epoch, None if the loader does not know. `last_step`, set by
    whoever knows, is the `global_step` at which training will end: a schedule may need it.
    """

    def __init__(
        self,
        generator: nn.Layer,
        discriminator: nn.Layer,
        latent_spec: InputSpec,
        image_spec: InputSpec,
        ema_decay: float = 0.0,
        seed: int = 0,
        world: World = ALONE,
    ):
        if not paddle.in_dynamic_mode():
            raise RuntimeError("AdversarialModel needs dynamic mode: call paddle.disable_static() first")
        super().__init__(generator, inputs=[latent_spec])
        self.generator, self.discriminator = generator, discriminator
        self.latent_spec, self.image_spec = latent_spec, image_spec
        self.ema_decay, self.seed, self.world = ema_decay, seed, world
        if ema_decay:
            self.network = _frozen_copy(generator)
        self.epoch, self.epoch_step, self.global_step = 0, 0, 0
        self.precision = FLOAT32
        self.generator_optimizer = self.discriminator_optimizer = None
        self.losses: Objective = OBJECTIVES["bce"]
        self.d_steps = self.g_steps = 1
        self.augment: Augmentation | None = None
        self.penalty: Penalty | None = None
        self.schedule: Schedule | None = None
        self.last_step: int | None = None
        self._learning_rates: dict[str, float] = {}
        self.measures_statistics = ema_decay > 0
        self.scalars: dict[str, paddle.Tensor] = {}
        self._scalers: dict[str, paddle.amp.GradScaler] = {}
        self._draws = 0
        self.epoch_length: int | None = None
        self._statistics_are_stale = True

    # ---- preparing ------------------------------------------------------------------------------------------------

    def prepare(
        self,
        generator_optimizer: paddle.optimizer.Optimizer | None = None,
        discriminator_optimizer: paddle.optimizer.Optimizer | None = None,
        losses: Objective = OBJECTIVES["bce"],
        d_steps: int = 1,
        g_steps: int = 1,
        precision: Precision = FLOAT32,
        augment: Augmentation | None = None,
        penalty: Penalty | None = None,
        schedule: Schedule | None = None,
        measure_statistics: bool = False,
    ) -> None:
        """Say how the networks learn. Without optimizers the model can only draw.

        Args: losses - see dcgan.losses.  d_steps - discriminator steps per iteration; an iteration takes d_steps
              batches, handed over as one.  g_steps - generator steps per iteration.  precision - see dcgan.device.
              augment - what the discriminator sees of (images, iteration), see dcgan.augment.
              penalty - what is added to the discriminator's loss, see dcgan.penalty.
              schedule - what the optimizers' learning rates are multiplied by at an iteration, see dcgan.schedule.
              measure_statistics - whether a generator that is not averaged is also given BatchNorm statistics of its
              very weights before it draws or is saved; the averaged one always is.
        """
        names = ("loss_d", "loss_g", "score_real", "score_fake")
        super().prepare(None, None, [Scalar(name, self) for name in names], None)
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.losses, self.d_steps, self.g_steps, self.precision = losses, d_steps, g_steps, precision
        self.augment, self.penalty, self.schedule = augment, penalty, schedule
        self.measures_statistics = measure_statistics or self.ema_decay > 0
        self._learning_rates = {name: optimizer.get_lr() for name, optimizer in self._optimizers().items()}
        if precision.level == "O2":
            paddle.amp.decorate(
                models=[self.generator, self.discriminator],
                optimizers=[generator_optimizer, discriminator_optimizer],
                level="O2",
                dtype=precision.dtype,
                master_weight=True,
            )
        if precision.needs_scaler:
            # One each: a scaler shared by two optimizers forgets the first one's overflow (grad_scaler.py:849).
            self._scalers = {name: paddle.amp.GradScaler(init_loss_scaling=2.0**15) for name in self._optimizers()}

    # ---- learning -------------------------------------------------------------------------------------------------

    def fit(self, train_data: Any = None, *args: Any, accumulate_grad_batches: int = 1, **kwargs: Any) -> None:
        """`paddle.Model.fit`; an epoch that a loaded checkpoint left unfinished is finished first, as the first epoch.

        Raises ValueError for an empty loader, gradient accumulation, or a model without optimizers.
        """
        if accumulate_grad_batches != 1:
            raise ValueError("gradients of two optimizers cannot be accumulated: accumulate_grad_batches must be 1")
        if self.generator_optimizer is None or self.discriminator_optimizer is None:
            raise ValueError("fit needs two optimizers: call prepare(generator_optimizer, discriminator_optimizer)")
        if hasattr(train_data, "__len__") and len(train_data) == 0:
            raise ValueError("there is nothing to learn from: the loader is empty")
        self.stop_training = False  # hapi never takes it back
        super().fit(train_data, *args, accumulate_grad_batches=1, **kwargs)

    def train_batch(self, inputs: Sequence[Any], labels: Any = None, update: bool = True) -> list:
        """One iteration: the discriminator learns from real pictures and fakes, then the generator from its judgement.

        Args: inputs - one field: real images, float32 [d_steps * N, C, H, W] in [-1, 1].
        Returns an empty list; `scalars` holds what happened, still on the device.
        """
        real = self._checked_images(inputs)
        self.generator.train()
        self.discriminator.train()
        self._draws = 0
        own = [self.world.rank] if self.world.rank else []
        paddle.seed(key(self.seed, _TRAINING_NOISE, self.global_step, *own))  # whatever is drawn below has no history
        self._set_learning_rates()
        size = real.shape[0] // self.d_steps
        for i in range(self.d_steps):
            batch = real[i * size : (i + 1) * size]
            fake = self._fakes(batch.shape[0])
            self.discriminator_step(batch, fake.detach())
        for step in range(self.g_steps):
            if step:  # the first generator step reuses the pictures that the discriminator has just judged
                fake = self._fakes(batch.shape[0])
            self.generator_step(fake)
        # Each process saw the statistics of its own batches. Averaged at once, not only for a checkpoint, all of them
        # hold the same numbers after every iteration, wherever a run is stopped.
        self.world.average(self._running_statistics())
        self._update_average()
        self._statistics_are_stale = True
        self.global_step += 1
        self.epoch_step += 1
        if self.epoch_step == self.epoch_length:  # here, so that whoever saves after this iteration saves a new epoch
            self.epoch, self.epoch_step = self.epoch + 1, 0
        return []

    def discriminator_step(self, real: paddle.Tensor, fake: paddle.Tensor) -> None:
        """Move the discriminator towards calling `real` real and `fake` fake; both [N, C, H, W], detached."""
        real, fake = self._shown(real), self._shown(fake)
        real_logits, fake_logits = self._judge(real), self._judge(fake)
        loss = self.losses.discriminator(real_logits, fake_logits)
        penalty = self.penalty(self.discriminator, real, self.global_step) if self.penalty else None
        total = loss if penalty is None else loss + penalty
        self._descend("discriminator", total)  # one backward over the sum: also what data parallel needs
        self.scalars["loss_d"] = loss.detach()
        self.scalars["score_real"] = nn.functional.sigmoid(real_logits.detach()).mean()
        self.scalars["score_fake"] = nn.functional.sigmoid(fake_logits.detach()).mean()

    def generator_step(self, fake: paddle.Tensor) -> None:
        """Move the generator towards pictures that the discriminator calls real; `fake` [N, C, H, W] with its graph."""
        with frozen(self.discriminator):
            loss = self.losses.generator(self._judge(self._shown(fake)))
            self._descend("generator", loss)
        self.scalars["loss_g"] = loss.detach()

    def _shown(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images as the augmentation shows them to the discriminator."""
        return images if self.augment is None else self.augment(images.astype("float32"), self.global_step)

    def _judge(self, images: paddle.Tensor) -> paddle.Tensor:
        """The discriminator's logits in float32."""
        with self._autocast():
            return self.discriminator(images).astype("float32")

    def _descend(self, name: str, loss: paddle.Tensor) -> None:
        optimizer, scaler = self._optimizers()[name], self._scalers.get(name)
        # Before, not after: the gradients of the last step can then be looked at. Dropped, not zeroed: zeros would be
        # written and then added to.
        optimizer.clear_grad(set_to_zero=False)
        if scaler is None:
            loss.backward()
            self._average_gradients(name)
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            self._average_gradients(name)  # still scaled: an overflow in one process is seen by all, and all skip
            scaler.step(optimizer)
            scaler.update()

    def _average_gradients(self, name: str) -> None:
        parameters = self._networks()[name].parameters()
        self.world.average([parameter.grad for parameter in parameters if parameter.grad is not None])

    def _set_learning_rates(self) -> None:
        """A function of the iteration, so that nothing has to be saved."""
        if self.schedule is None:
            return
        factor = self.schedule(self.global_step, self.last_step)
        for name, optimizer in self._optimizers().items():
            optimizer.set_lr(factor * self._learning_rates[name])

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.precision.level == "O0":
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.precision.level, dtype=self.precision.dtype)

    def _fakes(self, count: int) -> paddle.Tensor:
        """Pictures [count, C, H, W] from fresh latents, with their graph."""
        with self._autocast():
            return self.generator(self._draw(count))

    def _draw(self, count: int) -> paddle.Tensor:
        """Training latents [count, *latent shape]: a function of (seed, iteration, draw): nothing to save.

        Processes take adjoining ranges: together they draw what one process with their summed batch would draw.
        """
        first = key(self.seed, _TRAINING_LATENTS, self.global_step, self._draws) + self.world.rank * count
        self._draws += 1
        seeds = (first + np.arange(count, dtype=np.int64)) % (1 << 32)
        return paddle.to_tensor(self._latents(seeds))

    def _latents(self, seeds: Sequence[int]) -> np.ndarray:
        shape = [int(n) for n in self.latent_spec.shape[1:]]
        return latents(seeds, math.prod(shape)).reshape([-1, *shape])

    @paddle.no_grad()
    def _update_average(self) -> None:
        """Exponential moving average of the generator's weights (Karras et al. 2018, sec. 4).

        The decay ramps up as (1 + step) / (10 + step), so that the first weights, which are noise, are soon forgotten.
        """
        if self.network is self.generator:
            return
        decay = min(self.ema_decay, (1 + self.global_step) / (10 + self.global_step))
        for average, live in zip(self.network.parameters(), self.generator.parameters()):
            if not live.stop_gradient:  # Paddle counts BatchNorm's running statistics among the parameters
                # Not lerp_: Paddle's takes four times as long on a CPU.
                average.add_((live.astype(average.dtype) - average).scale_(1 - decay))

    @paddle.no_grad()
    def _measure_statistics(self) -> None:
        """Give the drawing generator's BatchNorm layers the statistics of its own weights, on fixed latents.

        Averaged weights have activations that no average of the statistics describes: pictures would come out pale.
        Those of a generator that is not averaged are of weights a few iterations old. A function of the weights alone,
        so a resumed run has the same.
        """
        if not (self.measures_statistics and self._statistics_are_stale):
            return
        layers = [layer for layer in self.network.sublayers() if isinstance(layer, nn.BatchNorm2D)]
        kept_shares = [layer._momentum for layer in layers]
        self.network.train()
        for batch in range(_STATISTICS_BATCHES):
            for layer in layers:
                layer._momentum = batch / (batch + 1)  # a running mean over the batches; Paddle's is the share kept
            seeds = np.arange(_STATISTICS_BATCH_SIZE) + batch * _STATISTICS_BATCH_SIZE
            self.network(paddle.to_tensor(self._latents(seeds)))
        self.network.eval()
        for layer, share in zip(layers, kept_shares):
            layer._momentum = share
        self._statistics_are_stale = False

    def _checked_images(self, inputs: Any) -> paddle.Tensor:
        """The one field of a batch as a tensor. Raises ValueError naming both shapes when it does not fit the spec."""
        fields = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if len(fields) != 1:
            raise ValueError(f"a batch must be one field of images, received {len(fields)} fields")
        images = fields[0] if isinstance(fields[0], paddle.Tensor) else paddle.to_tensor(np.asarray(fields[0]))
        expected, dtype = list(self.image_spec.shape), self.image_spec.dtype
        shape_fits = len(images.shape) == len(expected) and all(
            n in (-1, None) or n == m for n, m in zip(expected, images.shape)
        )
        if not shape_fits or images.dtype != dtype:
            raise ValueError(
                f"a batch of {self.image_spec.name} must be {_name(dtype)} "
                f"{['N' if n in (-1, None) else n for n in expected]}, "
                f"received {_name(images.dtype)} {list(images.shape)}"
            )
        if images.shape[0] == 0 or images.shape[0] % self.d_steps:
            raise ValueError(f"a batch must hold a multiple of d_steps = {self.d_steps}, received {images.shape[0]}")
        return images

    # ---- the loop, mended where hapi's is not right for a run that continues ----------------------------------------

    def _run_one_epoch(self, data_loader: Any, callbacks: Any, mode: str, logs: dict | None = None) -> Any:
        """hapi's epoch with a dict of its own (hapi shares one between all models, model.py:2778), started where the
        counters stand, and ended as soon as somebody sets `stop_training`."""
        if mode != "train":
            return super()._run_one_epoch(data_loader, callbacks, mode, {})
        if hasattr(data_loader, "seek"):
            data_loader.seek(self.epoch, self.epoch_step)
        else:
            self.epoch_step = 0  # such a loader can only start its epoch anew
        self.epoch_length = self._len_data_loader(data_loader)
        ended: list[bool] = []
        logs = super()._run_one_epoch(_Stoppable(data_loader, self, ended), callbacks, mode, {})
        if ended and self.epoch_step:  # a loader that did not know its length
            self.epoch, self.epoch_step = self.epoch + 1, 0
        self.epoch_length = None
        return logs

    # ---- drawing --------------------------------------------------------------------------------------------------

    def generate(self, seeds: int | Sequence[int], batch_size: int = 100) -> np.ndarray:
        """One picture per seed, float32 [N, C, H, W] in [-1, 1]: eval mode, no gradient, the mode is put back.

        A seed is the same picture whatever its neighbours (see deploy.latents). A whole number counts as one seed.
        """
        z = self._latents(np.atleast_1d(np.asarray(seeds)))
        network = self.drawing_network()
        with evaluating(network), paddle.no_grad():
            parts = [network(paddle.to_tensor(z[i : i + batch_size])) for i in range(0, len(z), batch_size)]
            return np.concatenate([part.astype("float32").numpy() for part in parts])

    def generate_together(self, seeds: Sequence[int]) -> np.ndarray:
        """As `generate`, each process drawing a part: all of them must call it, and all receive all pictures."""
        share = math.ceil(len(seeds) / self.world.size)
        padded = np.resize(np.asarray(seeds), share * self.world.size)  # equal shares; what is too much is cut off
        own = padded[self.world.rank * share : (self.world.rank + 1) * share]
        return self.world.gather(self.generate(own))[: len(seeds)]

    def predict_batch(self, inputs: Any) -> list:
        """As `generate`, from latents instead of seeds: a list of one array."""
        self.drawing_network()
        return super().predict_batch(inputs)

    def drawing_network(self) -> nn.Layer:
        """`network`, its BatchNorm statistics brought up to date: what draws, and what is saved and exported."""
        self._measure_statistics()
        return self.network

    def summary(self, input_size: Any = None, dtype: Any = None) -> dict[str, Any]:
        """Print the layers of both networks for a batch of one; return their summed parameter counts."""
        total: dict[str, Any] = {}
        for network, spec in ((self.generator, self.latent_spec), (self.discriminator, self.image_spec)):
            counts = paddle.summary(network, (1, *[int(n) for n in spec.shape[1:]]), dtypes=spec.dtype)
            total = {name: total.get(name, 0) + count for name, count in counts.items()}
        return total

    def parameters(self, *args: Any, **kwargs: Any) -> list[paddle.Tensor]:
        """Parameters of both networks, the generator's first."""
        return [*self.generator.parameters(*args, **kwargs), *self.discriminator.parameters(*args, **kwargs)]

    # ---- saving and loading ---------------------------------------------------------------------------------------

    def save(self, path: PathLike, training: bool = True, extra: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint folder at `path`, or (training=False) the generator as a Paddle inference model.

        `extra` is kept under "extra" in `state.json`. See dcgan.checkpoint for the format and its errors. Raises
        TrainingError for weights that are not finite: such a checkpoint would only take the place of a good one.
        """
        self._measure_statistics()
        if not training:
            with evaluating(self.network):
                super().save(str(path), training=False)
            return
        groups = {name: tensors_of(network) for name, network in self._networks().items()}
        for name, optimizer in self._optimizers().items():
            network = self._networks()[name]
            groups[f"{name}_optimizer"] = optimizer_tensors(optimizer, network)
            groups[name].update({k: master.numpy() for k, master in _master_weights(optimizer, network).items()})
        spoiled = [f"{g}/{k}" for g, tensors in groups.items() for k, v in tensors.items() if not np.isfinite(v).all()]
        if spoiled:
            raise TrainingError(f"not saved: {len(spoiled)} tensors are not finite, {spoiled[0]} among them.")
        state = {
            **self._counters(),
            "scalers": self._scaler_states(),
            "extra": dict(extra or {}),
        }
        write_checkpoint(path, groups, state)

    def load(self, path: PathLike | Checkpoint, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Restore everything that `save` wrote and return its `extra`. Call after `prepare`.

        Raises CheckpointError naming every tensor that is missing, unexpected or of another shape; nothing is changed
        then.
        """
        if args or kwargs:
            raise ValueError("a checkpoint is restored whole: load takes the path and nothing else")
        checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(path)
        groups = checkpoint.groups
        restore = [_match(name, net.state_dict(), groups.get(name)) for name, net in self._networks().items()]
        for name, optimizer in self._optimizers().items():
            slots, group = _optimizer_slots(optimizer, self._networks()[name]), f"{name}_optimizer"
            restore.append(_match(group, slots, groups.get(group)))
            masters = _master_weights(optimizer, self._networks()[name])
            restore.append(
                ([], [(master, groups[name][k]) for k, master in masters.items() if k in groups.get(name, {})])
            )
        problems = [problem for found, _ in restore for problem in found]
        if problems:
            raise CheckpointError(f"{checkpoint.folder} does not fit this model: " + "; ".join(problems))
        state = checkpoint.state
        counters = {name: state.get(name) for name in _COUNTERS}
        if not all(type(value) is int and value >= 0 for value in counters.values()):
            raise CheckpointError(f"{checkpoint.folder} has counters that are none: {counters}")
        for _, pairs in restore:
            for tensor, value in pairs:
                tensor.set_value(paddle.to_tensor(value).astype(tensor.dtype))
        self._set_scalers(state.get("scalers", {}))
        self._set_counters(counters)
        return dict(state.get("extra", {}))

    def _set_counters(self, counters: Mapping[str, int]) -> None:
        for name in _COUNTERS:
            setattr(self, name, counters[name])
        self._statistics_are_stale = True

    # ---- several processes ------------------------------------------------------------------------------------------

    def follow_writer(self) -> None:
        """Give every process what the writer holds: tensors, counters, loss scales. For the start, and after `load`,
        which is then the writer's alone."""
        state = self.world.share({**self._counters(), "scalers": self._scaler_states()})
        self.world.copy_from_writer(list(self._state_tensors().values()))
        if not self.world.is_writer:
            self._set_counters(state)
            self._set_scalers(state["scalers"])

    def check_replicas(self) -> None:
        """Compare every trained number of all processes. Raises TrainingError naming the tensor that differs.

        Left out are statistics that are measured anew from the weights, to draw: not all processes may have done so.
        """
        if self.world.size == 1:
            return
        drawing = "generator" if self.network is self.generator else "generator_ema"
        remade = {f"{drawing}/{name}" for name in _statistics_of(self.generator)} if self.measures_statistics else set()
        tensors = {name: t for name, t in self._state_tensors().items() if name not in remade}
        self.world.check_equal({name: tensor.astype("float32").numpy() for name, tensor in tensors.items()})

    def _state_tensors(self) -> dict[str, paddle.Tensor]:
        """Everything that learning changes, by `<network or optimizer>/<name>`."""
        groups = {name: network.state_dict() for name, network in self._networks().items()}
        for name, optimizer in self._optimizers().items():
            network = self._networks()[name]
            groups[f"{name}_optimizer"] = _optimizer_slots(optimizer, network)
            groups[f"{name}_masters"] = _master_weights(optimizer, network)
        return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}

    def _running_statistics(self) -> list[paddle.Tensor]:
        networks = (self.generator, self.discriminator)
        return [tensor for network in networks for tensor in _statistics_of(network).values()]

    def _counters(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _COUNTERS}

    def _scaler_states(self) -> dict[str, dict[str, Any]]:
        return {name: _scaler_state(scaler) for name, scaler in self._scalers.items()}

    def _set_scalers(self, states: Mapping[str, Any]) -> None:
        for name, scaler in self._scalers.items():
            if name in states:
                scaler.load_state_dict(_scaler_tensors(states[name]))

    def gradient_norms(self) -> dict[str, paddle.Tensor]:
        """L2 norm of the gradients that the last iteration used, of each network, still on the device."""
        return {name: _gradient_norm(getattr(self, name)) for name in ("generator", "discriminator")}

    def _networks(self) -> dict[str, nn.Layer]:
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return networks if self.network is self.generator else {**networks, "generator_ema": self.network}

    def _optimizers(self) -> dict[str, paddle.optimizer.Optimizer]:
        both = {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}
        return {name: optimizer for name, optimizer in both.items() if optimizer is not None}


class Scalar(paddle.metric.Metric):
    """A quantity of the last iteration under its own log key, read from the device only when somebody looks at it."""

    def __init__(self, name: str, model: AdversarialModel):
        super().__init__()
        self._scalar_name, self._model = name, model

    def name(self) -> str:
        return self._scalar_name

    def update(self, *args: Any) -> None:
        """The engine writes `model.scalars`; there is nothing to add up."""

    def reset(self) -> None:
        """A quantity of the last iteration has nothing to forget."""

    def accumulate(self) -> LazyNumber:
        return LazyNumber(self._model.scalars[self._scalar_name])


class LazyNumber(numbers.Number):
    """A number on the device; float() and formatting fetch it, which waits for the device.

    A Number, because paddle.callbacks.VisualDL passes over whatever is none.
    """

    def __init__(self, tensor: paddle.Tensor):
        self._tensor = tensor

    def __float__(self) -> float:
        return float(read_scalars({"value": self._tensor})["value"])

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)

    def __repr__(self) -> str:
        return repr(float(self))


def read_scalars(scalars: Mapping[str, paddle.Tensor], world: World = ALONE) -> dict[str, float]:
    """Numbers by name, their mean over the processes of `world`, fetched in one go: the only place where training
    reads the device. Waits for the device."""
    if not scalars:
        return {}
    stacked = paddle.stack([scalar.astype("float32").reshape([]) for scalar in scalars.values()])
    world.average([stacked])
    return dict(zip(scalars, stacked.numpy().tolist()))


@contextlib.contextmanager
def frozen(network: nn.Layer) -> Iterator[None]:
    """Inside the block the network's weights need no gradient: none is computed, none is stored."""
    trainable = [parameter for parameter in network.parameters() if not parameter.stop_gradient]
    try:
        for parameter in trainable:
            parameter.stop_gradient = True
        yield
    finally:
        for parameter in trainable:
            parameter.stop_gradient = False


@contextlib.contextmanager
def evaluating(network: nn.Layer) -> Iterator[None]:
    """Inside the block the network is in eval mode: BatchNorm uses its running statistics. The mode is put back."""
    was_training = network.training
    try:
        network.eval()
        yield
    finally:
        if was_training:
            network.train()


def tensors_of(network: nn.Layer) -> Tensors:
    """Weights and statistics by structured name, float32 on the host."""
    return {name: tensor.astype("float32").numpy() for name, tensor in network.state_dict().items()}


def optimizer_tensors(optimizer: paddle.optimizer.Optimizer, network: nn.Layer) -> Tensors:
    """An optimizer's moments by `<structured name>/<moment>`, float32 on the host.

    Paddle names them by process-global counters, which is why its own optimizer files fit only a process that built
    everything in the same order.
    """
    slots = _optimizer_slots(optimizer, network)
    return {name: tensor.astype("float32").numpy() for name, tensor in slots.items()}


def _optimizer_slots(optimizer: paddle.optimizer.Optimizer, network: nn.Layer) -> dict[str, paddle.Tensor]:
    """The optimizer's own tensors by structured name, made first where no step has made them yet."""
    trainable = {name: p for name, p in network.named_parameters() if not p.stop_gradient}
    optimizer._create_accumulators(paddle.base.default_main_program().global_block(), list(trainable.values()))
    masters = getattr(optimizer, "_master_weights", {})  # O2: the moments belong to these, not to the parameters
    return {
        f"{name}/{moment}": by_parameter[masters.get(parameter.name, parameter).name]
        for moment, by_parameter in optimizer._accumulators.items()
        for name, parameter in trainable.items()
    }


def _master_weights(optimizer: paddle.optimizer.Optimizer, network: nn.Layer) -> dict[str, paddle.Tensor]:
    """float32 weights by structured name where the parameters themselves are of half precision (O2), else nothing.

    They are saved in the parameters' stead, so that a checkpoint has one form whatever the precision.
    """
    masters = getattr(optimizer, "_master_weights", {})
    return {name: masters[p.name] for name, p in network.named_parameters() if p.name in masters}


def _match(
    group: str, own: Mapping[str, paddle.Tensor], saved: Tensors | None
) -> tuple[list[str], list[tuple[paddle.Tensor, np.ndarray]]]:
    """Problems, and pairs of (own tensor, saved value). All problems at once, none hidden behind the first."""
    if saved is None:
        return [f"it holds no {group}"], []
    problems = [f"{group}: {name} is missing" for name in own if name not in saved]
    problems += [f"{group}: {name} is unknown" for name in saved if name not in own]
    pairs = [(own[name], saved[name]) for name in own if name in saved]
    problems += [
        f"{group}: {name} has shape {list(saved[name].shape)}, expected {list(own[name].shape)}"
        for name in own
        if name in saved and list(saved[name].shape) != list(own[name].shape)
    ]
    return problems, pairs


def _statistics_of(network: nn.Layer) -> dict[str, paddle.Tensor]:
    """What a network's training changes without a gradient: BatchNorm's running mean and variance.

    The network must not be frozen.
    """
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.stop_gradient}


def _frozen_copy(network: nn.Layer) -> nn.Layer:
    duplicate = copy.deepcopy(network)
    for parameter in duplicate.parameters():
        parameter.stop_gradient = True
    duplicate.eval()
    return duplicate


def _gradient_norm(network: nn.Layer) -> paddle.Tensor:
    squares = [
        (parameter.grad.astype("float32") ** 2).sum()
        for parameter in network.parameters()
        if parameter.grad is not None
    ]
    return paddle.sqrt(paddle.add_n(squares)) if squares else paddle.zeros([])


def _scaler_state(scaler: paddle.amp.GradScaler) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in scaler.state_dict().items()}


def _scaler_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.array(value, np.float32) if isinstance(value, list) else value for name, value in state.items()}


def _name(dtype: Any) -> str:
    return str(dtype).replace("paddle.", "")


class _Stoppable:
    """A loader that ends when the model's `stop_training` is set; notes in `ended` when it ran to its own end."""

    def __init__(self, loader: Iterable, model: AdversarialModel, ended: list[bool]):
        self._loader, self._model, self._ended = loader, model, ended

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if self._model.stop_training:
                return
            yield batch
        self._ended.append(True)
