"""Whole batches from a packed array: gathered, scaled and mirrored while the previous step runs.

The order is a pure function of (seed, epoch), so a run continues in the middle of an epoch without any saved random
state. Several processes share one order: what is one batch to them together is dealt out among them. One thread
suffices: a batch costs a gather and a multiplication, at memory speed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np

from deploy.seeds import bits, key, permutation

from ..images import to_float

_ORDER, _MIRROR = 1, 2  # which stream of the seed a number is drawn from


class BatchLoader:
    """Iterating gives the batches of one epoch: lists of one array [batch_size, 3, S, S], float32 in [-1, 1].

    Args: images - uint8 [N, 3, S, S], may be memory-mapped; kept, not copied.  batch_size - at most N; the last,
          smaller batch of an epoch is left out.  seed - sets the order and the mirroring.  flip - mirror each image
          left to right with probability 1/2.  prefetch - batches made ahead by a thread; 0: none, no thread.
          rank, processes - this is loader `rank` of `processes`: batch i of all of them together is what batch i of
          one loader with `processes` times the batch size holds, and no image comes twice in an epoch.
          as_uint8 - whether batches stay uint8 levels 0 .. 255, a quarter of the bytes on the way to a GPU, which
          scales them to the same float32 bits; see `check_images` of dcgan.training.hapi.
    Raises ValueError when there are fewer images than one batch of all holds, a batch holds none, or `images` are of
    another dtype.
    """

    def __init__(
        self,
        images: np.ndarray,
        batch_size: int,
        seed: int = 0,
        flip: bool = False,
        prefetch: int = 2,
        rank: int = 0,
        processes: int = 1,
        as_uint8: bool = False,
    ):
        dtype = getattr(images, "dtype", np.uint8)  # what reads images when it is indexed need not say
        if "uint8" not in str(dtype):
            raise ValueError(
                f"images must be uint8 levels, received {dtype}: dcgan.to_uint8 makes them of floats in [-1, 1]"
            )
        self._length = batches_per_epoch(len(images), batch_size * processes)
        self._rank, self._processes, self.as_uint8 = rank, processes, as_uint8
        self.images, self.batch_size, self.seed, self.flip, self.prefetch = images, batch_size, seed, flip, prefetch
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._length

    def seek(self, epoch: int, position: int = 0) -> None:
        """The next iteration gives epoch `epoch` from its batch number `position` on."""
        if not 0 <= position < len(self):
            raise ValueError(f"an epoch has batches 0 .. {len(self) - 1}, received position {position}")
        self.epoch, self.position = epoch, position

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        batches = self._batches(self.epoch, self.position)
        self.epoch, self.position = self.epoch + 1, 0
        return _ahead(batches, self.prefetch) if self.prefetch else batches

    def _batches(self, epoch: int, position: int) -> Iterator[list[np.ndarray]]:
        order = permutation(len(self.images), self.seed, _ORDER, epoch)
        for i in range(position, len(self)):
            share = i * self._processes + self._rank
            chosen = order[share * self.batch_size : (share + 1) * self.batch_size]
            # sorted: neighbours in the file are read together; training takes a batch as a set
            chosen = np.sort(chosen)
            batch = np.asarray(self.images[chosen]) if self.as_uint8 else to_float(self.images[chosen])
            if self.flip:
                mirrored = bits(np.array([key(self.seed, _MIRROR, epoch, share)]), len(batch))[0] >> np.uint32(31) == 1
                batch[mirrored] = batch[mirrored, :, :, ::-1]
            yield [batch]


def batches_per_epoch(image_count: int, batch_size: int) -> int:
    """Whole batches in `image_count` images. Raises ValueError if there is none."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, received {batch_size}")
    if batch_size > image_count:
        raise ValueError(
            f"an iteration takes {batch_size} images (batch size x discriminator steps x processes), and the data hold "
            f"{image_count}. Give more images or a smaller batch size."
        )
    return image_count // batch_size


def _ahead(items: Iterator, count: int) -> Iterator:
    """The same items, up to `count` of them made ahead by a thread that ends with the consumer."""
    ready: queue.Queue = queue.Queue(count)
    abandoned = threading.Event()

    def put(message: tuple) -> None:
        while not abandoned.is_set():
            try:
                return ready.put(message, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(("item", item))
                if abandoned.is_set():
                    return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    threading.Thread(target=work, name="batch-loader", daemon=True).start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        abandoned.set()
