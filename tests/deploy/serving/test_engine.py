"""Batches, places and failures of the engine, with a runtime that does nothing until it is let."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from deploy.manifest import ModelError
from deploy.serving.engine import Engine, Job, explain
from deploy.serving.problems import ClientGone, Problem

FOREVER = 3600.0


class Generator:
    """Image = its latent's first number; each call waits for `let`, and is in `sizes`."""

    def __init__(self):
        self.sizes, self.let, self.started = [], threading.Semaphore(0), threading.Semaphore(0)
        self.failure = None

    def run(self, z):
        self.started.release()
        assert self.let.acquire(timeout=30)
        self.sizes.append(len(z))
        if self.failure is not None:
            raise self.failure
        return np.broadcast_to(z[:, :1, None, None], (len(z), 3, 2, 2)).astype(np.float32)

    def allow(self, calls):
        for _ in range(calls):
            self.let.release()


class Model:
    latent_dim, discriminator = 2, None

    def __init__(self):
        self.generator = Generator()


@pytest.fixture
def model():
    return Model()


def job(model, *values, is_long=True) -> Job:
    """One image a value, of that value; its content is the levels as bytes."""
    z = np.array([[value, 0] for value in values], np.float32)
    return Job(model, lambda job: bytes(job.images[:, 0, 0, 0]), z=z, is_long=is_long)


def run(scenario, max_batch=32, max_wait=0.0, max_queue=100):
    """Run scenario(engine, submit) in an event loop of its own; submit(job) is a task."""

    async def main():
        engine = Engine(max_batch, max_wait, max_queue, lambda size: None)

        def submit(job, gone=None):
            return asyncio.ensure_future(engine.run(job, gone or asyncio.get_running_loop().create_future()))

        try:
            return await asyncio.wait_for(scenario(engine, submit), 60)
        finally:
            await engine.stop()

    return asyncio.run(main())


async def started(generator):
    """Wait, without stopping the loop, until a batch is in the runtime."""
    await asyncio.get_running_loop().run_in_executor(None, generator.started.acquire, True, 30)


def test_requests_that_wait_share_a_batch_and_get_their_own_images(model):
    async def scenario(engine, submit):
        first = submit(job(model, -1.0))
        await started(model.generator)
        values = np.linspace(-1, 1, 40)
        rest = [submit(job(model, value, is_long=False)) for value in values]
        await asyncio.sleep(0)
        model.generator.allow(3)
        assert await first == b"\0"
        assert [(await task)[0] for task in rest] == np.rint((values + 1) * 127.5).tolist()
        assert model.generator.sizes == [1, 32, 8] and engine.held == 0

    run(scenario)


def test_a_request_of_many_images_is_cut_into_batches(model):
    async def scenario(engine, submit):
        model.generator.allow(3)
        assert await submit(job(model, *np.linspace(-1, 1, 18))) == bytes(
            np.rint((np.linspace(-1, 1, 18) + 1) * 127.5).astype(np.uint8)
        )
        assert model.generator.sizes == [8, 8, 2]

    run(scenario, max_batch=8)


def test_a_lone_client_waits_for_nobody(model):
    async def scenario(engine, submit):
        model.generator.allow(5)
        for _ in range(5):
            await submit(job(model, 0.0))
        assert model.generator.sizes == [1] * 5

    run(scenario, max_wait=FOREVER)  # it would never end


def test_a_batch_waits_for_as_many_images_as_the_last_one_held(model):
    async def scenario(engine, submit):
        model.generator.allow(2)
        await submit(job(model, 0.0, 0.5, 1.0))
        tasks = [submit(job(model, 0.0)), submit(job(model, 1.0))]
        await asyncio.sleep(0.05)  # were it to go, this would be its chance
        assert model.generator.sizes == [3]
        await asyncio.gather(*tasks, submit(job(model, 0.5)))
        assert model.generator.sizes == [3, 3]

    run(scenario, max_wait=FOREVER)


def test_a_batch_waits_no_longer_than_allowed(model):
    async def scenario(engine, submit):
        model.generator.allow(2)
        await submit(job(model, 0.0, 0.5, 1.0))
        await submit(job(model, 0.0))
        assert model.generator.sizes == [3, 1]

    run(scenario, max_wait=0.01)


def test_beyond_the_queue_requests_are_refused_at_once_and_nothing_else_suffers(model):
    async def scenario(engine, submit):
        tasks = [submit(job(model, 0.0, 1.0)) for _ in range(5)]
        await started(model.generator)
        for count, held in ((1, 10), (3, 10)):
            with pytest.raises(Problem, match=f"holds {held} of at most 10 images; {count} more") as refused:
                await submit(job(model, *[0.0] * count))
            assert refused.value.status == 429 and int(refused.value.headers["retry-after"]) >= 1
        model.generator.allow(9)
        assert await asyncio.gather(*tasks) == [b"\x80\xff"] * 5
        assert engine.held == 0 and await submit(job(model, *[0.0] * 10))

    run(scenario, max_queue=10)


def test_who_leaves_frees_a_place_at_once_and_is_not_computed(model):
    async def scenario(engine, submit):
        first = submit(job(model, 0.0))
        await started(model.generator)
        gone = asyncio.get_running_loop().create_future()
        leaving = [submit(job(model, *[0.0] * 4), gone), submit(job(model, 0.0), gone)]
        staying = submit(job(model, 1.0))
        await asyncio.sleep(0)
        assert engine.held == 7
        gone.set_result(None)
        for task in leaving:
            with pytest.raises(ClientGone):
                await task
        assert engine.held == 2
        model.generator.allow(2)
        assert (await first, await staying) == (b"\x80", b"\xff")
        assert model.generator.sizes == [1, 1] and engine.held == 0

    run(scenario)


def test_numbers_that_are_not_finite_are_told_to_their_own_request_alone(model):
    async def scenario(engine, submit):
        first = submit(job(model, 0.0))
        await started(model.generator)
        tasks = [submit(job(model, *values)) for values in ((1.0,), (0.0, float("nan")), (-1.0,))]
        await asyncio.sleep(0)
        model.generator.allow(2)
        assert (await first, await tasks[0], await tasks[2]) == (b"\x80", b"\xff", b"\x00")
        with pytest.raises(Problem, match="no finite numbers"):
            await tasks[1]
        assert model.generator.sizes == [1, 4]

    run(scenario)


def test_a_failure_of_the_runtime_ends_its_batch_and_not_the_service(model):
    async def scenario(engine, submit):
        model.generator.failure = ModelError("/secret/path: out of luck")
        model.generator.allow(2)
        with pytest.raises(ModelError) as failed:
            await submit(job(model, 0.0))
        problem = explain(failed.value)
        assert problem.status == 500 and "secret" not in problem.detail
        model.generator.failure = None
        assert await submit(job(model, 1.0)) == b"\xff" and engine.held == 0

    run(scenario)


def test_a_failure_of_an_encoder_is_told_to_its_request(model):
    async def scenario(engine, submit):
        model.generator.allow(1)
        broken = Job(model, lambda job: 1 / 0, z=np.zeros((1, 2), np.float32))
        with pytest.raises(ZeroDivisionError):
            await submit(broken)
        assert engine.held == 0

    run(scenario)


def test_a_job_is_made_by_the_model_it_was_accepted_for(model):
    other = Model()

    async def scenario(engine, submit):
        first = submit(job(model, 0.0))
        await started(model.generator)
        tasks = [submit(job(each, 1.0)) for each in (model, other, other, model)]
        await asyncio.sleep(0)
        model.generator.allow(3)
        other.generator.allow(1)
        await asyncio.gather(first, *tasks)
        assert model.generator.sizes == [1, 1, 1] and other.generator.sizes == [2]

    run(scenario)
