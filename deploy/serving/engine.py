"""Many requests, one runtime: a bounded queue of images, batches across requests, encoding beside the computing.

The event loop submits jobs and gets bytes. One thread owns the runtime and runs batches of at most `max_batch` images;
a few threads encode what it made (OpenCV releases the interpreter lock), and one more does the long work: archives,
grids and videos, so that nobody's single image waits behind them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from deploy import images
from deploy.manifest import ModelError
from deploy.seeds import latents
from deploy.serving.model import Model
from deploy.serving.problems import ClientGone, Problem

log = logging.getLogger(__name__)

ENCODED_AT_ONCE = 8  # images a task of an encoding thread: fewer answer sooner, more wake the event loop less often


class Job:
    """The images of one request: seeds, or latents float32 [N, latent_dim], on their way to `finish(job)` -> bytes.

    `images` is uint8 [N, 3, S, S] when `finish` is called, in a thread; `scores` is float64 [N] for `with_scores`, the
    probability that an image is a real one.  `is_long` - finish takes more than the encoding of one image.
    """

    __slots__ = ("model", "seeds", "z", "count", "finish", "with_scores", "is_long", "future", "images", "scores")
    __slots__ += ("taken", "made", "is_ended", "problem", "content")

    def __init__(
        self,
        model: Model,
        finish: Callable[[Job], bytes],
        seeds: Sequence[int] | None = None,
        z: np.ndarray | None = None,
        with_scores: bool = False,
        is_long: bool = True,
    ):
        self.model, self.finish, self.with_scores, self.is_long = model, finish, with_scores, is_long
        self.seeds, self.z = seeds, z
        self.count = len(seeds if z is None else z)
        self.future: asyncio.Future[bytes] | None = None
        self.images: np.ndarray | None = None
        self.scores = np.zeros(self.count) if with_scores else None
        self.taken = self.made = 0
        self.is_ended = False
        self.problem: Exception | None = None
        self.content = b""


class Piece(NamedTuple):
    """Images start .. stop of a job, in one batch."""

    job: Job
    start: int
    stop: int


class Engine:
    """Submit jobs from the event loop in which it was made; every other thread is its own.

    Args: max_batch - images a call of the runtime.  max_wait - seconds that a batch waits for more images after the end
          of the one before; it waits for as many as that one held, so a client that is alone waits for nobody.
          max_queue - images that were accepted and are not yet answered; more are refused.
    """

    def __init__(self, max_batch: int, max_wait: float, max_queue: int, watch: Callable[[int], object]):
        self.max_batch, self.max_wait, self.max_queue = max_batch, max_wait, max_queue
        self.held = 0  # images accepted and not yet answered; touched by the event loop alone
        self._watch = watch  # told the size of every batch
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Job] = deque()
        self._images_waiting = 0
        self._changed = threading.Condition()
        self._is_stopping = False
        self._last_size, self._last_end = 0, -math.inf
        self._seconds_per_image = 0.0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._encoders = _started(max(2, min(8, cores)), "encode")
        self._long = _started(1, "long")
        self._worker = threading.Thread(target=self._work, name="runtime", daemon=True)
        self._worker.start()

    # ---- the event loop's side --------------------------------------------------------------------------------------

    async def run(self, job: Job, gone: asyncio.Future) -> bytes:
        """The bytes of `job.finish`; `gone` is done when the client is.

        Raises Problem 429 at once where the queue has no room, ClientGone, and what went wrong.
        """
        if self.held + job.count > self.max_queue:
            raise Problem(
                429,
                f"the queue holds {self.held} of at most {self.max_queue} images; {job.count} more were asked for",
                {"retry-after": str(max(1, math.ceil(self.held * self._seconds_per_image)))},
            )
        job.future = self._loop.create_future()
        self.held += job.count
        with self._changed:
            self._waiting.append(job)
            self._images_waiting += job.count
            self._changed.notify()

        def cancel(_: object) -> None:
            self._end(job, ClientGone())

        gone.add_done_callback(cancel)
        try:
            return await job.future
        finally:
            gone.remove_done_callback(cancel)
            self._end(job, ClientGone())  # where this task itself was cancelled

    def _end(self, job: Job, problem: Exception | None) -> None:
        """Answer a job, once, and free its place."""
        assert job.future is not None
        if job.is_ended:
            return
        job.is_ended = True  # what is still to be made for it is dropped
        self.held -= job.count
        with self._changed:
            if job.taken < job.count:
                self._images_waiting -= job.count - job.taken
                job.taken = job.count
        if not job.future.done():
            if problem is None:
                job.future.set_result(job.content)
            else:
                job.future.set_exception(problem)

    def _end_all(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._end(job, job.problem)

    async def stop(self) -> None:
        """End the threads; what was submitted and not answered is dropped."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        await self._loop.run_in_executor(self._long, self._worker.join)  # a thread that is there already
        self._encoders.shutdown()
        self._long.shutdown()

    # ---- the runtime's thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            batch = self._take()
            if not batch:
                return
            start = time.monotonic()
            self._make(batch)
            self._last_end = time.monotonic()
            size = sum(piece.stop - piece.start for piece in batch)
            seconds = (self._last_end - start) / size
            self._seconds_per_image += (seconds - self._seconds_per_image) * (0.1 if self._seconds_per_image else 1.0)
            self._last_size = size
            self._watch(size)

    def _take(self) -> list[Piece]:
        """The next batch, all of one model; [] when it is time to stop."""
        with self._changed:
            while not self._is_stopping:
                wanted = min(self.max_batch, self._last_size)
                patience = self._last_end + self.max_wait - time.monotonic()
                if self._images_waiting >= max(1, wanted) or (self._images_waiting and patience <= 0):
                    batch = self._gather()
                    if batch:
                        return batch
                self._changed.wait(patience if self._images_waiting else None)
            return []

    def _gather(self) -> list[Piece]:
        batch: list[Piece] = []
        room = self.max_batch
        while self._waiting and room:
            job = self._waiting[0]
            if batch and job.model is not batch[0].job.model:
                break
            stop = min(job.count, job.taken + room)
            if stop > job.taken:
                batch.append(Piece(job, job.taken, stop))
                room -= stop - job.taken
                self._images_waiting -= stop - job.taken
                job.taken = stop
            if job.taken == job.count:
                self._waiting.popleft()
        return batch

    def _make(self, batch: list[Piece]) -> None:
        """Compute a batch and hand the jobs that are whole to the threads that encode. Never raises."""
        jobs = [piece.job for piece in batch]
        try:
            self._compute(batch)
        except Exception as error:  # the thread must live on; the clients of this batch are told
            for job in jobs:
                job.problem = error
            self._loop.call_soon_threadsafe(self._end_all, jobs)
            return
        whole = [job for job in jobs if job.made == job.count and not job.is_ended]
        short = [job for job in whole if not job.is_long]
        for i in range(0, len(short), ENCODED_AT_ONCE):
            self._encoders.submit(self._finish, short[i : i + ENCODED_AT_ONCE])
        for job in whole:
            if job.is_long:
                self._long.submit(self._finish, [job])

    def _compute(self, batch: list[Piece]) -> None:
        model = batch[0].job.model
        floats = model.generator.run(self._latents(batch, model.latent_dim))
        is_finite = np.isfinite(floats).all(axis=(1, 2, 3))
        levels = images.to_uint8(floats if is_finite.all() else np.nan_to_num(floats))
        logits = None
        if model.discriminator is not None and any(job.with_scores for job, _, _ in batch):
            logits = model.discriminator.run(floats)[:, 0].astype(np.float64)
        row = 0
        for job, start, stop in batch:
            rows = slice(row, row + stop - start)
            row = rows.stop
            if not is_finite[rows].all():  # of this job alone: its neighbours in the batch are right
                job.problem = job.problem or Problem(422, "of these latents the generator makes no finite numbers")
            if start == 0 and stop == job.count:
                job.images = levels[rows]
            else:
                if job.images is None:
                    job.images = np.empty((job.count, *levels.shape[1:]), np.uint8)
                job.images[start:stop] = levels[rows]
            if job.scores is not None and logits is not None:
                if np.isnan(logits[rows]).any():
                    job.problem = job.problem or Problem(500, "the discriminator gives no numbers for these images")
                job.scores[start:stop] = 1.0 / (1.0 + np.exp(-np.clip(logits[rows], -700, 700)))
            job.made = stop

    @staticmethod
    def _latents(batch: list[Piece], latent_dim: int) -> np.ndarray:
        """float32 [N, latent_dim]; those of all seeds are made in one call, which costs as much as one seed."""
        seeds = [seed for job, start, stop in batch if job.z is None for seed in job.seeds[start:stop]]
        made = latents(seeds, latent_dim) if seeds else np.empty((0, latent_dim), np.float32)
        parts, row = [], 0
        for job, start, stop in batch:
            if job.z is not None:
                parts.append(job.z[start:stop])
            else:
                parts.append(made[row : row + stop - start])
                row += stop - start
        return made if len(seeds) == sum(map(len, parts)) else np.concatenate(parts)

    # ---- the encoding threads ---------------------------------------------------------------------------------------

    def _finish(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.is_ended or job.problem is not None:
                continue
            try:
                job.content = job.finish(job)
            except Exception as error:  # as in _make
                job.problem = error
            job.images = None
        self._loop.call_soon_threadsafe(self._end_all, jobs)


def explain(error: Exception) -> Problem:
    """What a client is told of an error: nothing of this machine, whose part goes to the log."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, MemoryError):
        return Problem(503, "the memory is full; ask for fewer images", {"retry-after": "1"})
    log.error("%s: %s", type(error).__name__, " ".join(str(error).split())[:300])
    log.debug("traceback", exc_info=error)
    what = "the runtime failed" if isinstance(error, ModelError) else "something failed that should not"
    return Problem(500, f"{what}; the server's log says more")


def _started(count: int, name: str) -> ThreadPoolExecutor:
    """An executor whose threads run already: a limit of threads shows at the start, not in the first request."""
    executor, gate = ThreadPoolExecutor(count, name), threading.Event()
    try:
        for _ in range(count):
            executor.submit(gate.wait)
    finally:
        gate.set()
    return executor
