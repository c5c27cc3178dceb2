"""From a state to a process that listens, verifies its model, reloads it, and stops without losing an answer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from deploy.serving.app import Service, State
from deploy.serving.engine import Engine
from deploy.serving.model import Model, load
from deploy.serving.protocol import Limits, Protocol

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25
KEEP_ALIVE_SECONDS = 15  # that an idle connection stays open
DRAIN_SECONDS = 30  # that accepted requests have, once the server is told to stop


class Options(NamedTuple):
    """Of the command line; `max_wait` in seconds."""

    model: Path
    backend: str
    threads: int
    max_batch: int
    max_wait: float
    max_queue: int
    max_images: int
    max_connections: int


def serve(options: Options, listener: socket.socket, say: Callable[[str], object], explain: Callable) -> int:
    """Serve until a signal; returns the exit code. `say` prints the line of the address, `explain` an error."""
    # The runtime's thread needs the interpreter for moments only, and would wait 5 ms, Python's default, for each of
    # them while the event loop is busy refusing requests.
    sys.setswitchinterval(0.0005)
    return asyncio.run(_Process(options, listener, say, explain).run())


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are ours: uvicorn would raise them again after a clean end


class _Process:
    def __init__(self, options: Options, listener: socket.socket, say: Callable, explain: Callable):
        self.options, self.listener, self.say, self.explain = options, listener, say, explain
        self.state = State(options.max_images)
        self.exit_code = 0
        self.is_loading = False
        self.tasks: set[asyncio.Task] = set()

    async def run(self) -> int:
        options, state, loop = self.options, self.state, asyncio.get_running_loop()
        loop.set_exception_handler(_one_line)
        state.engine = Engine(options.max_batch, options.max_wait, options.max_queue, state.metrics.computed)
        self.limits = limits = Limits(max_connections=options.max_connections)
        config = uvicorn.Config(
            Service(state),
            http=functools.partial(Protocol, limits=limits),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        self.server = _Server(config)
        connections = self.server.server_state.connections
        state.metrics.watch(lambda: state.engine.held, lambda: len(connections))
        for number in (signal.SIGTERM, signal.SIGINT):
            _on_signal(loop, number, self.stop, number)
        if hasattr(signal, "SIGHUP"):  # Windows has none
            _on_signal(loop, signal.SIGHUP, self.reload)
        self.start(self.sweep())
        self.start(self.load_first())
        await self.server.serve([self.listener])
        await state.engine.stop()
        for task in self.tasks:
            task.cancel()
        return self.exit_code

    def start(self, coroutine) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # ---- signals ----------------------------------------------------------------------------------------------------

    def stop(self, number: int) -> None:
        """Once: answer what was accepted, then end. Twice: end now."""
        if self.state.is_draining:
            self.server.force_exit = True
            self.exit_code = 128 + number
            return
        log.info("stopping: accepted requests are answered, for at most %d s", DRAIN_SECONDS)
        self.state.is_draining = True
        self.state.metrics.ready.set(False)
        self.exit_code = 130 if number == signal.SIGINT else 0
        self.server.should_exit = True

    def reload(self) -> None:
        """Load and verify the export beside the one that is served, then swap."""
        if self.is_loading or self.state.is_draining:
            log.warning("reload refused: %s", "a model is being loaded already" if self.is_loading else "stopping")
            return
        self.start(self.load_next())

    # ---- models -----------------------------------------------------------------------------------------------------

    async def load(self) -> Model:
        options = self.options
        self.is_loading = True
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, load, options.model, options.backend, options.threads)
        finally:
            self.is_loading = False

    async def load_first(self) -> None:
        start = time.monotonic()
        try:
            model = await self.load()
        except Exception as error:  # whatever it is: a server that never gets ready must end
            self.explain(error)
            self.exit_code = 1
            self.server.should_exit = True
            return
        self.use(model)
        self.state.metrics.ready.set(not self.state.is_draining)
        host, port = self.listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.say(f"{address} is ready after {time.monotonic() - start:.1f} s: {_describe(model)}")

    def use(self, model: Model) -> None:
        """From now on. Jobs that were accepted before are made with the model that they were accepted for."""
        self.state.model = model
        self.limits.max_body = self.state.max_body

    async def load_next(self) -> None:
        try:
            model = await self.load()
        except Exception as error:  # whatever it is: the model in use is whole
            self.state.metrics.reloads.labels("refused").inc()
            log.error("reload refused, the model in use goes on: %s", " ".join(str(error).split()))
            log.debug("traceback", exc_info=error)
            return
        self.use(model)
        self.state.metrics.reloads.labels("swapped").inc()
        log.info("reloaded: %s", _describe(model))

    async def sweep(self) -> None:
        """Look at every connection a few times a second, to the end."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = loop.time()
            for connection in list(self.server.server_state.connections):
                connection.sweep(now)


def _on_signal(loop: asyncio.AbstractEventLoop, number: int, callback: Callable, *arguments: Any) -> None:
    try:
        loop.add_signal_handler(number, callback, *arguments)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback, *arguments))


def _describe(model: Model) -> str:
    generator = model.generator
    return (
        f"model {model.tag} ({generator.backend}, {generator.device}), "
        f"within {model.verified.max_difference:.0e} of its reference images"
    )


def _one_line(loop: asyncio.AbstractEventLoop, context: dict) -> None:
    """What nobody awaited, such as accept() without a free handle: a line in the log, not a traceback."""
    error = context.get("exception")
    log.error("%s%s", context.get("message", "asyncio"), f": {type(error).__name__}: {error}" if error else "")
