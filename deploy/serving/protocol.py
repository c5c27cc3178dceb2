"""HTTP/1.1 connections that hostile or slow clients cannot hold: uvicorn's protocol with limits on size and time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.serving.problems import Problem

MAX_UNPARSED = 4 << 20  # bytes that a refused client may still send before it is cut off
CLOSE = (b"connection", b"close")
LEAST_TAKEN = 65536  # bytes: who takes as many in time may go on, as one who downloads 14 MB over a slow line
MAX_PIPELINED = 64  # requests of one connection that wait for their turn


@dataclass
class Limits:
    """Of one connection, in bytes and seconds, and of how many there are."""

    max_head: int = 16384
    max_body: int = 1 << 20
    max_connections: int = 1000
    request_seconds: float = 10.0  # from the connection, or a request's first byte, to its last
    answer_seconds: float = 60.0  # for a client to take what was written to it, or `LEAST_TAKEN` of it
    goodbye_seconds: float = 0.5  # for a client to notice that the server stops, or that its request was refused


class JoinedWrites:
    """What an answer needs of its transport. Header and body, written one after the other, leave in one system call.

    On two cores that is a tenth of what an image costs over HTTP. More than 16 KiB leave at once, so that the transport
    still says when a client does not keep up.
    """

    __slots__ = ("_loop", "_transport", "_held", "_size", "written")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport):
        self._loop, self._transport = loop, transport
        self._held: list[bytes] = []
        self._size = 0
        self.written = 0  # bytes that the transport was given

    def write(self, data: bytes) -> None:
        """Send `data`, at the latest when the event loop is free."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._size += len(data)
        if self._size > 16384:
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            data = b"".join(self._held)
            self._held, self._size = [], 0
            self._transport.write(data)
            self.written += len(data)

    def close(self) -> None:
        """Close behind what is held."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._transport.is_closing()


class Protocol(HttpToolsProtocol):
    """One connection. `scope["extensions"]["gone"]` is a future that is done when the client is gone.

    `sweep` must be called a few times a second: one look at every connection is cheaper than timers of each request.
    """

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.limits = limits
        self.gone: asyncio.Future[None] = self.loop.create_future()
        self.running: Any = None  # the cycle whose turn it is; `cycle` is the newest
        self.is_in_message = self.is_draining = self.is_refused = self.is_answered_early = False
        self.is_in_head = True
        self.bytes_read = self.head_bytes = 0  # of the message that is being read
        self.reading_since: float | None = None
        self.unread_since: float | None = None  # when the client had taken `taken` bytes, with more waiting for it
        self.taken = 0
        self.problem: Problem | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.joined = JoinedWrites(self.loop, transport)
        self.reading_since = self.loop.time()
        if len(self.connections) > self.limits.max_connections:
            self.problem = Problem(
                503, f"the server has its {self.limits.max_connections} connections", {"retry-after": "1"}
            )
            self.send_400_response("")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._is_answering:
            self.running.disconnected = True
        self.pipeline = deque()
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self.is_refused:  # told so already; what it goes on sending is not even parsed
            self.bytes_read += len(data)
            if self.bytes_read > MAX_UNPARSED:
                self.transport.abort()
            return
        if self.reading_since is None and not self.is_in_message:
            self.reading_since = self.loop.time()
        self.bytes_read += len(data)  # set back where a message begins: what came with its first bytes is not counted
        super().data_received(data)
        if self.parser is None or self.transport.is_closing():
            return
        if self.is_in_message and self.is_in_head and self.bytes_read > self.limits.max_head:
            self._refuse_head()
            self.send_400_response("")
        # a chunk of one byte is sent as six
        elif self.is_in_message and self.bytes_read > self.limits.max_head + 8 * self.limits.max_body:
            self.problem = Problem(413, f"a body has at most {self.limits.max_body} bytes; more were received")
            self.send_400_response("")

    def _refuse_head(self) -> None:
        self.problem = Problem(431, f"the address and header of a request have at most {self.limits.max_head} bytes")

    # ---- the parser's callbacks: what is raised here comes back through `send_400_response` -------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"gone": self.gone}
        self.is_in_message = self.is_in_head = True
        self.is_answered_early = False
        self.bytes_read = self.head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > self.limits.max_head:
            self._refuse_head()
            raise ValueError("too long")

    def on_headers_complete(self) -> None:
        self.is_in_head = False
        if self.parser.get_http_version() not in ("1.1", "1.0"):  # the parser takes 0.9 and 2.0 too
            raise ValueError("another version")
        if self.parser.should_upgrade() and self._announces_body():
            # The parser ends a request that asks for another protocol at its head: its body would be the next request.
            self.problem = Problem(400, "a body behind an Upgrade header is not read: send the request without it")
            raise ValueError("a body with Upgrade")
        if len(self.pipeline) >= MAX_PIPELINED:
            self.problem = Problem(429, f"more than {MAX_PIPELINED} requests were sent without waiting for an answer")
            raise ValueError("too many")
        super().on_headers_complete()  # makes `cycle`, whose work begins when the event loop is free
        self.cycle.transport = self.joined
        if not any(waiting is self.cycle for waiting, _ in self.pipeline):
            self.running = self.cycle
        if self.is_draining or not self.cycle.keep_alive:
            self._close_after(self.cycle)

    def _announces_body(self) -> bool:
        """Whether a body follows the head that was just read."""
        names = (b"content-length", b"transfer-encoding")
        return any(name in names and value.strip() != b"0" for name, value in self.headers)

    @staticmethod
    def _close_after(cycle: Any) -> None:
        """The answer of `cycle` is the last of this connection, and says so; older versions of uvicorn do not."""
        cycle.keep_alive = False
        if CLOSE not in cycle.default_headers:
            cycle.default_headers = [*cycle.default_headers, CLOSE]

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.is_in_message = False
        self.reading_since = None

    def on_response_complete(self) -> None:
        answered, following = self.running, self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if following is not None and not self.transport.is_closing():  # super() has begun it
            self.running = following
        if self.is_in_message and not self.is_in_head and answered is self.cycle:
            # answered before it was read to its end, as what is too large: the client gets a moment to see that
            self.is_answered_early = True
            self.reading_since = self.loop.time() - self.limits.request_seconds + self.limits.goodbye_seconds

    @property
    def _is_answering(self) -> bool:
        return self.running is not None and not self.running.response_complete

    # ---- ends -------------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or one that is too large, and close."""
        problem = self.problem or Problem(400, "a request of HTTP 1.1 or 1.0 was expected, something else was received")
        if self.is_refused or self.transport.is_closing():
            return
        self.is_refused = True
        if self.is_answered_early:
            self.transport.close()
            return
        if self._is_answering and self.running.response_started:
            self.transport.close()  # in the middle of an answer nothing else can be said
            return
        if self._is_answering:
            self.running.disconnected = True
        self.joined.flush()  # answers of requests that came before
        self.transport.write(problem.raw())
        self.pipeline = deque()
        if not self.gone.done():
            self.gone.set_result(None)
        # closing with unread bytes in the socket resets the connection, and the client may not see the answer
        with contextlib.suppress(OSError):  # the client is gone already
            self.transport.write_eof()
        self.loop.call_later(self.limits.goodbye_seconds, self.transport.close)

    def shutdown(self) -> None:
        """Answer what was received, then close; an idle client gets a moment to send what is under way."""
        self.is_draining = True
        if self.cycle is not None and not self.cycle.response_complete:
            self._close_after(self.cycle)
        elif not self.is_in_message:
            self.loop.call_later(self.limits.goodbye_seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self.is_in_message and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Close this connection if its time is over."""
        unread = self.transport.get_write_buffer_size()
        taken = self.joined.written - unread
        if unread == 0:
            self.unread_since = None
        elif self.unread_since is None or taken >= self.taken + LEAST_TAKEN:
            self.unread_since, self.taken = now, taken
        elif now - self.unread_since > self.limits.answer_seconds:
            self.transport.abort()  # close() would wait for the client
        late = self.reading_since is not None and now - self.reading_since > self.limits.request_seconds
        if late and not self.transport.is_closing() and not self.is_refused:
            # opened and never used, or an empty line behind a request: that must not end its answer
            is_idle = not self.is_in_message and not self._is_answering
            if self.is_answered_early or is_idle:
                self.transport.close()
            elif self.is_in_message:
                seconds = f"{self.limits.request_seconds:g}"
                self.problem = Problem(408, f"a whole request was expected within {seconds} s")
                self.send_400_response("")
