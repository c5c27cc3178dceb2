"""Several processes that train one run: who this one is, and how they keep their networks the same.

Every process holds both networks, both optimizers and a share of the data. Between backward and the optimizer's step
the gradients are averaged over the processes (`ProcessGroup.all_reduce_mean`), so all take the same step. That is what
paddle.DataParallel computes; it is called by hand because a GAN fits DataParallel badly: two forwards before one
backward lose gradients silently (Paddle 3.2.2), a frozen discriminator has none to wait for, and its hooks see only
what goes through nn.Layer calls. The price is that no gradient travels while others are still computed.

Tensors go through Paddle's collectives, gloo between CPUs and NCCL between GPUs; everything else through `channel`.
The GPU side has never run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import paddle
import paddle.distributed as dist

from ..errors import ProjectError, TrainingError
from .control_channel import GRACE_SECONDS, ControlChannel, connect, wait_for_server
from .gloo import delay_abort
from .launcher import Launch, read_launch

T = TypeVar("T")


class ProcessGroup:
    """The processes of a run as one of them sees it. `ProcessGroup()` is one process: nothing below costs anything.

    `rank` of `size` processes; rank 0 alone reads checkpoints, writes files and judges the run.
    All processes must call the methods in the same order; they raise TrainingError when one of them has died.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        channel: ControlChannel | None = None,
        gloo: bool = True,
    ):
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._channel, self._gloo = channel, gloo

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    # ---- messages ---------------------------------------------------------------------------------------------------

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0 on every process; must be JSON."""
        return self._channel.broadcast(value) if self._channel else value

    def all_reduce_max(self, number: int) -> int:
        """The largest of all processes' numbers, on each of them."""
        if self._channel is None:
            return number
        return self._channel.broadcast(max(self._channel.gather(number) or [0]))

    def barrier(self) -> None:
        """Wait until all processes have called this, however long that takes."""
        self.all_reduce_max(0)

    def rank_zero_first(self, work: Callable[[], T]) -> T:
        """`work()`, done by rank 0 first, then by one process per other machine, then by the rest.

        For work whose result is kept in files, which those who come later find: the images are packed once.
        """
        turn = 0 if self.is_rank_zero else 1 if self.local_rank == 0 else 2
        for now in range(3):
            if now == turn:
                result = work()
            self.barrier()
        return result

    def check_equal(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Raise TrainingError on all processes, naming the tensor, unless all hold the same bits under each name."""
        if self._channel is None:
            return
        digests = {name: hashlib.sha256(np.ascontiguousarray(t).tobytes()).hexdigest() for name, t in tensors.items()}
        everybody = self._channel.gather(digests)
        found = self.broadcast(
            [[n, rank] for rank, theirs in enumerate(everybody or []) for n in digests if theirs.get(n) != digests[n]]
        )
        if found:
            name, rank = found[0]
            more = f", and so do {len(found) - 1} more" if len(found) > 1 else ""
            raise TrainingError(
                f"the processes do not hold the same numbers any more: {name} of process {rank} differs from that of "
                f"process 0{more}. Resume from the last checkpoint; if it comes again, suspect the machine."
            )

    def shutdown(self) -> None:
        """Wait for the others to call this too; afterwards a process may end without being missed."""
        if self._channel:
            self._channel.close()

    # ---- tensors ----------------------------------------------------------------------------------------------------

    @paddle.no_grad()
    def all_reduce_mean(self, tensors: Sequence[paddle.Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in one exchange, computed in float32.

        Each process must bring the same shapes in the same order. The mean has the same bits everywhere.
        """
        if self.size == 1 or not tensors:
            return
        # gloo sums float16 wrongly (3.2.2). Divided first, so that the sum does not overflow where no part did.
        flat = paddle.concat([tensor.astype("float32").flatten() for tensor in tensors]).scale_(1.0 / self.size)
        self._exchange(dist.all_reduce, flat)
        start = 0
        for tensor in tensors:
            mean = flat[start : start + tensor.size]
            paddle.assign(mean.reshape(tensor.shape).astype(tensor.dtype), output=tensor)
            start += tensor.size

    def broadcast_tensors(self, tensors: Sequence[paddle.Tensor]) -> None:
        """Replace each tensor's values by those of rank 0. Goes through the host, as tensors may lie anywhere."""
        if self.size == 1:
            return
        flat = paddle.to_tensor(np.concatenate([t.astype("float32").numpy().ravel() for t in tensors]))
        self._exchange(dist.broadcast, flat, 0)
        parts = np.split(flat.numpy(), np.cumsum([int(tensor.size) for tensor in tensors])[:-1])
        for tensor, part in zip(tensors, parts):
            tensor.set_value(paddle.to_tensor(part.reshape(tensor.shape)).astype(tensor.dtype))

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        """The processes' arrays [N, ...] of one shape, one after the other: [size * N, ...], on each of them."""
        if self.size == 1:
            return array
        parts: list[paddle.Tensor] = []
        self._exchange(dist.all_gather, parts, paddle.to_tensor(array))
        return np.concatenate([part.numpy() for part in parts])

    def _exchange(self, collective: Callable, *arguments: Any) -> None:
        if self._gloo:
            self.barrier()  # gloo itself waits 30 s for a process that saves or generates images, then fails
        try:
            collective(*arguments)
        except RuntimeError:  # what gloo raises when a connection ends, among other things
            self.barrier()  # raises and says who has died, if it was that
            raise


SINGLE_PROCESS = ProcessGroup()


def init_process_group(device: str = "auto", flags: Mapping[str, Any] | None = None) -> ProcessGroup:
    """Meet the other processes that `python -m paddle.distributed.launch` started; `SINGLE_PROCESS` if there are none.

    Args: device - as in TrainConfig; "cpu" makes the processes talk through gloo.
          flags - of the command, as JSON values by name; they must be the same in all processes.
    Call once, before any network is built. Afterwards only rank 0 logs below errors. Raises TrainingError if the others
    do not come, ProjectError for other flags or an environment that makes no sense, ValueError for one card by number.
    """
    launch = read_launch()
    if launch.size == 1:
        return SINGLE_PROCESS
    if device.startswith("gpu:"):
        raise ValueError(
            f"--device {device} is one card for {launch.size} processes: give the launcher --devices instead"
        )
    gloo = launch.backend == "gloo" or device == "cpu" or not paddle.is_compiled_with_cuda()
    if launch.rank:
        logging.getLogger("dcgan").setLevel(logging.ERROR)
    channel = connect(launch.rank, launch.size, launch.endpoints[0], launch.run_id)
    _check_flags(channel, launch, dict(flags or {}))
    _init_paddle(channel, launch, gloo)
    return ProcessGroup(launch.rank, launch.size, launch.local_rank, channel, gloo)


def _check_flags(channel: ControlChannel, launch: Launch, flags: dict[str, Any]) -> None:
    everybody = channel.gather(flags) or []
    different = [
        f"process {rank} was started with another --{name.replace('_', '-')} than process 0"
        for rank, theirs in enumerate(everybody)
        for name in sorted({*flags, *theirs})  # settings that were not given are in neither
        if theirs.get(name) != flags.get(name)
    ]
    different = channel.broadcast(different)
    if different:
        raise ProjectError(f"{different[0]}; give the same command to all processes")


def _init_paddle(channel: ControlChannel, launch: Launch, gloo: bool) -> None:
    """Paddle's own start. Its store gets a port of its own, as the older launcher gives it the one of `channel`."""
    master = channel.broadcast(_free_address(launch.endpoints[0].rsplit(":", 1)[0]) if launch.rank == 0 else None)
    os.environ.update(
        PADDLE_MASTER=master,
        PADDLE_TRAINER_ENDPOINTS=",".join(launch.endpoints),
        PADDLE_CURRENT_ENDPOINT=launch.endpoints[launch.rank],
        PADDLE_TRAINER_ID=str(launch.rank),
        PADDLE_TRAINERS_NUM=str(launch.size),
        PADDLE_LOCAL_SIZE=str(launch.local_size),  # how many share the cores
        **({"PADDLE_DISTRI_BACKEND": "gloo"} if gloo else {}),
    )
    for name in ("MASTER_ADDR", "MASTER_PORT"):  # Paddle would prefer them
        os.environ.pop(name, None)
    os.environ.setdefault("FLAGS_stop_check_timeout", "86400")  # how long its store waits for a process, in seconds
    if launch.rank:
        wait_for_server(master)  # Paddle itself tries every 3 s
    with contextlib.redirect_stderr(io.StringIO()):  # it lists its flags
        dist.init_parallel_env()
    if gloo:
        delay_abort(2 * GRACE_SECONDS)  # by then `channel` has ended this process, if it was that another one died
    # paddle.Model looks here too, and would wrap `network` alone in a DataParallel of its own (hapi/model.py:1214).
    os.environ["PADDLE_TRAINERS_NUM"] = "1"


def _free_address(host: str) -> str:
    with socket.create_server((host, 0)) as server:
        return f"{host}:{server.getsockname()[1]}"
