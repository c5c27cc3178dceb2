"""What `paddle.Model`'s loop needs mended for a run that continues, and metrics that do not wait for the device.

Subclasses of `ResumableModel` train with the inherited `fit`; `epoch`, `epoch_step` and `global_step` are the only
counters. Line numbers are those of Paddle 3.2.2.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import paddle
from paddle.static import InputSpec

from ..distributed.process_group import SINGLE_PROCESS, ProcessGroup


class ResumableModel(paddle.Model):
    """A `paddle.Model` whose `fit` starts where the counters stand and stops as soon as it is told to.

    Counters: `epoch` (whole epochs done), `epoch_step` (iterations done of the current one), `global_step`. While it
    fits, `epoch_length` is the number of iterations in an epoch, None if the loader does not know.
    `scalars` holds tensors of the last iteration by name, still on the device.
    """

    def __init__(self, network: paddle.nn.Layer, inputs: list[InputSpec]):
        if not paddle.in_dynamic_mode():
            raise RuntimeError("AdversarialModel needs dynamic mode: call paddle.disable_static() first")
        super().__init__(network, inputs=inputs)
        self.epoch, self.epoch_step, self.global_step = 0, 0, 0
        self.epoch_length: int | None = None
        self._end: int | None = None  # the `global_step` at which `fit` ends, where hapi would miscount
        self.scalars: dict[str, paddle.Tensor] = {}

    def count_iteration(self) -> None:
        """One iteration is done. Here, so that whoever saves after an epoch's last iteration saves a new epoch."""
        self.global_step += 1
        self.epoch_step += 1
        if self.epoch_step == self.epoch_length:
            self.epoch, self.epoch_step = self.epoch + 1, 0

    def fit(
        self,
        train_data: Any = None,
        eval_data: Any = None,
        batch_size: int = 1,
        epochs: int = 1,
        *args: Any,
        accumulate_grad_batches: int = 1,
        num_iters: int | None = None,
        **kwargs: Any,
    ) -> None:
        """`paddle.Model.fit`; an epoch that a loaded checkpoint left unfinished is finished first, as the first epoch.

        Raises ValueError for an empty loader, fewer than one epoch or iteration, and what two networks do not have:
        `eval_data` and gradient accumulation.
        """
        if accumulate_grad_batches != 1:
            raise ValueError("gradients of two optimizers cannot be accumulated: accumulate_grad_batches must be 1")
        if eval_data is not None:
            raise ValueError("there is no loss to evaluate: measure images with dcgan.metrics.evaluate, not eval_data")
        if hasattr(train_data, "__len__") and len(train_data) == 0:
            raise ValueError("there is nothing to learn from: the loader is empty")
        if epochs < 1 or (num_iters is not None and num_iters < 1):
            raise ValueError(f"epochs and num_iters must be at least 1, received {epochs} and {num_iters}")
        self.stop_training = False  # hapi never takes it back
        self._end = None
        if num_iters is not None and hasattr(train_data, "seek") and hasattr(train_data, "__len__"):
            # hapi counts whole epochs, and this one may be half done
            self._end = self.global_step + num_iters
            epochs, num_iters = -(-(self.epoch_step + num_iters) // len(train_data)), None
        try:
            super().fit(
                train_data, None, batch_size, epochs, *args, accumulate_grad_batches=1, num_iters=num_iters, **kwargs
            )
        finally:
            self.epoch_length = None  # not sooner: what is written at the end of training says where that was

    def _run_one_epoch(self, data_loader: Any, callbacks: Any, mode: str, logs: dict | None = None) -> Any:
        """hapi's epoch with a dict of its own (hapi shares one between all models, model.py:2778), started where the
        counters stand, and ended as soon as somebody sets `stop_training`."""
        if mode != "train":
            return super()._run_one_epoch(data_loader, callbacks, mode, {})
        self.epoch_length = self._len_data_loader(data_loader)
        if hasattr(data_loader, "seek"):
            self._check_position()
            data_loader.seek(self.epoch, self.epoch_step)
        else:
            self.epoch_step = 0  # such a loader can only start its epoch from the beginning
        loader = _StoppableLoader(data_loader, self)
        logs = super()._run_one_epoch(loader, callbacks, mode, {})
        if loader.is_exhausted and self.epoch_step:  # a loader that did not know its length
            self.epoch, self.epoch_step = self.epoch + 1, 0
        return logs

    def _check_position(self) -> None:
        if self.epoch_length is not None and self.epoch_step >= self.epoch_length:
            raise ValueError(
                f"training stopped after iteration {self.epoch_step} of its epoch, and an epoch of this loader has "
                f"{self.epoch_length}. Go on with the images and batch size that it had, or set model.epoch_step = 0"
            )


class _StoppableLoader:
    """A loader that ends when the model's `stop_training` is set; `is_exhausted` when it ran to its own end."""

    def __init__(self, loader: Iterable, model: ResumableModel):
        self._loader, self._model, self.is_exhausted = loader, model, False

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if self._model.stop_training:
                return
            yield batch
            if self._model.global_step == self._model._end:
                self._model.stop_training = True
                return
        self.is_exhausted = True


class Scalar(paddle.metric.Metric):
    """A quantity of the last iteration under its own log key, read from the device only when somebody looks at it."""

    def __init__(self, name: str, model: ResumableModel):
        super().__init__()
        self._scalar_name, self._model = name, model

    def name(self) -> str:
        return self._scalar_name

    def update(self, *args: Any) -> None:
        """The model writes `model.scalars`; there is nothing to add up."""

    def reset(self) -> None:
        """A quantity of the last iteration has nothing to forget."""

    def accumulate(self) -> LazyNumber:
        return LazyNumber(self._model.scalars[self._scalar_name])


@functools.total_ordering
class LazyNumber(numbers.Number):
    """A number on the device; float(), formatting and comparing fetch it, which waits for the device.

    A Number, because paddle.callbacks.VisualDL passes over whatever is none.
    """

    def __init__(self, tensor: paddle.Tensor):
        self._tensor = tensor

    def __float__(self) -> float:
        return float(read_scalars({"value": self._tensor})["value"])

    def __eq__(self, other: object) -> bool:
        return float(self) == (float(other) if isinstance(other, LazyNumber) else other)

    def __lt__(self, other: Any) -> bool:
        return float(self) < float(other) if isinstance(other, numbers.Number) else NotImplemented

    def __hash__(self) -> int:
        return hash(float(self))

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)

    def __repr__(self) -> str:
        return repr(float(self))


def read_scalars(
    scalars: Mapping[str, paddle.Tensor], process_group: ProcessGroup = SINGLE_PROCESS
) -> dict[str, float]:
    """Numbers by name, their mean over the processes of the group, fetched in one go: the only place where training
    reads the device. Waits for the device."""
    if not scalars:
        return {}
    stacked = paddle.stack([scalar.astype("float32").reshape([]) for scalar in scalars.values()])
    process_group.all_reduce_mean([stacked])
    return dict(zip(scalars, stacked.numpy().tolist()))


def check_images(inputs: Any, spec: InputSpec, multiple_of: int = 1) -> paddle.Tensor:
    """The one field of a batch as a tensor [N, ...] of the dtype of `spec`. uint8 levels become floats in [-1, 1] on
    the device, the bits of `dcgan.images.to_float`.

    Raises ValueError, naming both shapes, when it does not fit `spec`, and when N is not a multiple of `multiple_of`.
    """
    fields = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    if len(fields) != 1:
        raise ValueError(f"a batch must be one field of images, received {len(fields)} fields")
    images = fields[0] if isinstance(fields[0], paddle.Tensor) else paddle.to_tensor(np.asarray(fields[0]))
    if images.dtype == paddle.uint8 and spec.dtype == paddle.float32:
        images = images.astype("float32") * (1 / 127.5) - 1.0
    expected = list(spec.shape)
    shape_fits = len(images.shape) == len(expected) and all(
        n in (-1, None) or n == m for n, m in zip(expected, images.shape)
    )
    if not shape_fits or images.dtype != spec.dtype:
        raise ValueError(
            f"a batch of {spec.name} must be {_name(spec.dtype)} "
            f"{['N' if n in (-1, None) else n for n in expected]}, received {_name(images.dtype)} {list(images.shape)}"
        )
    if images.shape[0] == 0 or images.shape[0] % multiple_of:
        raise ValueError(f"a batch must hold a multiple of d_steps = {multiple_of}, received {images.shape[0]}")
    return images


def _name(dtype: Any) -> str:
    return str(dtype).replace("paddle.", "")
