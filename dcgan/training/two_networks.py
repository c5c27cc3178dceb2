"""A generator and a discriminator as one `paddle.Model`: sampling, saving, loading, and agreeing over processes.

How they learn is in adversarial_model.py.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from deploy.files import PathLike
from deploy.seeds import check_seeds, latents

from ..checkpoints.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ..distributed.process_group import SINGLE_PROCESS, ProcessGroup
from ..errors import CheckpointError
from ..networks.batch_norm import precise_bn, precise_bn_latents, running_statistics
from ..networks.kernels import PADDLE_KERNELS
from ..networks.modes import eval_kernels, evaluating
from .ema import averaged_copy, copy_buffers
from .hapi import ResumableModel
from .precision import FLOAT32, Precision
from .state import ModelState


class TwoNetworkModel(ResumableModel):
    """A `paddle.Model` of two networks, where paddle's own sees one.

    Args: generator - Layer: latents -> images.  discriminator - Layer: images -> logits.
          latent_spec, image_spec - InputSpecs of the two inputs, named, with a batch axis of None. A batch that does
          not fit is refused.  ema_decay - per iteration; 0 keeps no averaged generator.  seed - of the training
          latents.  process_group - the processes that train together, see dcgan.distributed.
    `network` is the generator that samples and is exported: the averaged one where there is one. Several threads may
    sample at once, and wait for each other; while `fit` runs in another one, only an averaged generator may.
    Raises ValueError for a seed outside 0 .. 4294967295.
    """

    def __init__(
        self,
        generator: nn.Layer,
        discriminator: nn.Layer,
        latent_spec: InputSpec,
        image_spec: InputSpec,
        ema_decay: float = 0.0,
        seed: int = 0,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ):
        super().__init__(generator, inputs=[latent_spec])
        self.generator, self.discriminator = generator, discriminator
        self.latent_spec, self.image_spec = latent_spec, image_spec
        self.ema_decay, self.process_group = ema_decay, process_group
        self.seed = int(check_seeds(seed)[0])
        self._sampling_lock = threading.RLock()  # statistics, mode and kernels are changed and put back
        if ema_decay:
            self.network = averaged_copy(generator)
        self.prepare()

    def prepare(
        self,
        generator_optimizer: paddle.optimizer.Optimizer | None = None,
        discriminator_optimizer: paddle.optimizer.Optimizer | None = None,
        metrics: Sequence[paddle.metric.Metric] = (),
        precision: Precision = FLOAT32,
        precise_bn: bool = False,
        sampling_kernels: Any = PADDLE_KERNELS,
    ) -> None:
        """Without optimizers the model can only sample. The arguments are those of AdversarialModel.prepare.

        Raises ValueError for an optimizer of other parameters, or with a scheduler of Paddle's.
        """
        _check_optimizer("generator", generator_optimizer, self.generator, self.discriminator)
        _check_optimizer("discriminator", discriminator_optimizer, self.discriminator, self.generator)
        super().prepare(None, None, list(metrics), None)
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.precision, self.uses_precise_bn = precision, precise_bn or self.ema_decay > 0
        self.sampling_kernels = sampling_kernels
        self._scalers = precision.scalers(self._optimizers())
        precision.decorate([self.generator, self.discriminator], list(self._optimizers().values()))
        self._statistics_are_stale = True

    def _networks(self) -> dict[str, nn.Layer]:
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return networks if self.network is self.generator else {**networks, "generator_ema": self.network}

    def _optimizers(self) -> dict[str, paddle.optimizer.Optimizer]:
        both = {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}
        return {name: optimizer for name, optimizer in both.items() if optimizer is not None}

    # ---- sampling ---------------------------------------------------------------------------------------------------

    def generate(self, seeds: int | Sequence[int], batch_size: int = 100) -> np.ndarray:
        """One image per seed, float32 [N, C, H, W] in [-1, 1]: eval mode, no gradient, the mode is put back.

        A seed is the same image whatever its neighbours (see deploy.seeds). A whole number counts as one seed.
        Raises ValueError for a seed outside 0 .. 4294967295, none at all, and a batch size below 1.
        """
        z = self._latents_of(np.atleast_1d(np.asarray(seeds)))
        if batch_size < 1 or not len(z):
            raise ValueError(
                f"at least one seed and a batch_size of at least 1 are expected, received {len(z)} and {batch_size}"
            )
        with self._sampling_lock, evaluating(self.network), paddle.no_grad(), self._sampling():
            network = self.inference_generator()
            parts = [network(paddle.to_tensor(z[i : i + batch_size])) for i in range(0, len(z), batch_size)]
            return np.concatenate([part.astype("float32").numpy() for part in parts])

    def generate_sharded(self, seeds: Sequence[int]) -> np.ndarray:
        """As `generate`, each process generating a part: all of them must call it, and all receive all images."""
        share = math.ceil(len(seeds) / self.process_group.size)
        padded = np.resize(np.asarray(seeds), share * self.process_group.size)  # equal shares; the rest is cut off
        own = padded[self.process_group.rank * share : (self.process_group.rank + 1) * share]
        return self.process_group.all_gather(self.generate(own))[: len(seeds)]

    def predict_batch(self, inputs: Any) -> list:
        """As `generate`, from latents instead of seeds: a list of one array.

        Args: inputs - one field, N latents of as many numbers as `latent_spec` says.  Raises ValueError for others.
        """
        given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        fields = [np.asarray(field, np.float32) for field in given]
        shape = self._latent_shape()
        if len(fields) != 1 or not fields[0].size or fields[0].size != len(fields[0]) * math.prod(shape):
            received = ", ".join(str(list(field.shape)) for field in fields)
            raise ValueError(f"latents must be one field of [N, {', '.join(map(str, shape))}], received {received}")
        with self._sampling_lock, evaluating(self.network), self._sampling():
            self.inference_generator()
            return super().predict_batch([fields[0].reshape([-1, *shape])])

    def inference_generator(self) -> nn.Layer:
        """`network`, its BatchNorm statistics brought up to date: what samples, and what is saved and exported.

        The statistics are a function of the weights alone, so a resumed run has the same.
        """
        with self._sampling_lock:
            if self.uses_precise_bn and self._statistics_are_stale:
                self._statistics_are_stale = False  # before: an iteration in another thread may come meanwhile
                try:
                    self._estimate_statistics()
                except BaseException:
                    self._statistics_are_stale = True
                    raise
            return self.network

    def _estimate_statistics(self) -> None:
        if self.network is not self.generator:
            copy_buffers(self.network, self.generator)
        shape = self._latent_shape()
        with self._sampling():
            precise_bn(self.network, precise_bn_latents(math.prod(shape)).reshape([-1, *shape]))

    @contextlib.contextmanager
    def _sampling(self) -> Iterator[None]:
        """The kernels of sampling, and the precision that `network` needs: float32, unless its own weights are of half
        precision (O2)."""
        weights_are_half = self.precision.level == "O2" and self.network is self.generator
        autocast = self.precision.autocast() if weights_are_half else contextlib.nullcontext()
        with eval_kernels(self.network, self.sampling_kernels), autocast:
            yield

    def _latents_of(self, seeds: Sequence[int]) -> np.ndarray:
        shape = self._latent_shape()
        return latents(seeds, math.prod(shape)).reshape([-1, *shape])

    def _latent_shape(self) -> list[int]:
        return [int(n) for n in self.latent_spec.shape[1:]]

    # ---- saving, loading, and several processes ----------------------------------------------------------------------

    def save(self, path: PathLike, training: bool = True, extra: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint folder at `path`, or (training=False) the generator as a Paddle inference model.

        `extra` is kept under "extra" in `state.json`. See dcgan.checkpoints.checkpoint for the format and its errors.
        Raises TrainingError for weights that are not finite.
        """
        network = self.inference_generator()
        if not training:
            with evaluating(network):
                super().save(str(path), training=False)
            return
        state = self._state()
        counters = {**self._counters(), "scalers": state.scaler_states(), "extra": dict(extra or {})}
        write_checkpoint(path, state.collect(), counters)

    def load(self, path: PathLike | Checkpoint, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Restore everything that `save` wrote and return its `extra`. Call after `prepare`.

        Raises CheckpointError naming every tensor that is missing, unexpected or of another shape; nothing is changed
        then.
        """
        if args or kwargs:
            raise ValueError("a checkpoint is restored whole: load takes the path and nothing else")
        checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(path)
        counters = {name: checkpoint.state.get(name) for name in self._counters()}
        if not all(type(value) is int and value >= 0 for value in counters.values()):
            raise CheckpointError(f"{checkpoint.folder} has invalid counters: {counters}")
        state = self._state()
        state.restore(checkpoint.groups, checkpoint.folder)
        state.restore_scalers(checkpoint.state.get("scalers", {}))
        self._set_counters(counters)
        return dict(checkpoint.state.get("extra", {}))

    def sync_from_rank_zero(self) -> None:
        """Give every process what rank 0 holds: tensors, counters, loss scales. For the start, and after `load`, which
        only rank 0 calls."""
        state = self._state()
        told = self.process_group.broadcast({"counters": self._counters(), "scalers": state.scaler_states()})
        state.broadcast(self.process_group)
        if not self.process_group.is_rank_zero:
            state.restore_scalers(told["scalers"])
            self._set_counters(told["counters"])

    def check_replicas(self) -> None:
        """Compare every trained number of all processes. Raises TrainingError naming the tensor that differs.

        Left out are statistics that are re-estimated from the weights, to sample: not all processes may have done so.
        """
        sampling = "generator" if self.network is self.generator else "generator_ema"
        remade = {f"{sampling}/{n}" for n in running_statistics(self.generator)} if self.uses_precise_bn else ()
        self._state().check_equal(self.process_group, except_for=remade)

    def _state(self) -> ModelState:
        return ModelState(self._networks(), self._optimizers(), self._scalers)

    def _counters(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("epoch", "epoch_step", "global_step", "seed")}

    def _set_counters(self, counters: Mapping[str, int]) -> None:
        for name, value in counters.items():
            setattr(self, name, value)
        self._statistics_are_stale = True

    # ---- both networks, where paddle.Model sees one ------------------------------------------------------------------

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


def _check_optimizer(
    name: str, optimizer: paddle.optimizer.Optimizer | None, network: nn.Layer, other: nn.Layer
) -> None:
    """Raise ValueError for an optimizer that moves nothing of `network`, or something of `other`, or at a rate that is
    no number."""
    if optimizer is None:
        return
    entries = [entry["params"] if isinstance(entry, dict) else entry for entry in optimizer._parameter_list or []]
    held = {p.name for entry in entries for p in (entry if isinstance(entry, (list, tuple)) else [entry])}
    own, others = ({p.name for p in each.parameters()} for each in (network, other))
    if not held & own or held & others:
        raise ValueError(
            f"the {name}'s optimizer must hold parameters of the {name} and none of the other network: "
            f"parameters={name}.parameters()"
        )
    if isinstance(optimizer._learning_rate, paddle.optimizer.lr.LRScheduler):
        raise ValueError(
            f"the learning rate of the {name}'s optimizer must be a number, received "
            f"{type(optimizer._learning_rate).__name__}: no checkpoint would hold its state. Use "
            "prepare(schedule=...), a function of the iteration"
        )
