"""A load generator for a face service on this machine: closed or open loop, every byte checked, a process of its own.

In a closed loop each client sends its next request when it has an answer, or after Retry-After. In an open loop
requests are due at fixed times, whatever the server does, and latency counts from when a request was due, so that a
server that stands still is not measured only while it runs ("coordinated omission"). Speaks to 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pickle
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEAST_BACK_OFF = 0.05  # seconds, for a server that refuses without Retry-After


class Load:
    """One run; `report()` is what it found."""

    def __init__(self, table: dict[int, bytes], warm_up: float, seconds: float, count: int, is_post: bool):
        self.table, self.seeds = table, sorted(table)
        self.warm_up, self.seconds = warm_up, seconds
        self.begin()
        self.left = count  # requests still to be sent; 0 - only time ends the run
        self.is_counted, self.is_post = count > 0, is_post
        self.sent = 0
        self.accepted: list[float] = []  # seconds of latency
        self.refused: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.free: list[Client] = []
        self.reconnect: Callable[[], None] = lambda: None
        self.due: deque[float] = deque()

    def begin(self) -> None:
        """Now that all are connected."""
        self.start = time.perf_counter() + self.warm_up
        self.end, self.last = self.start + self.seconds, self.start

    def is_over(self) -> bool:
        return self.left <= 0 if self.is_counted else time.perf_counter() >= self.end

    def next_seed(self) -> int:
        self.left -= 1
        self.sent += 1
        return self.seeds[self.sent * 7919 % len(self.seeds)]

    def answered(self, status: int, seed: int, body: bytes, since: float) -> None:
        now = time.perf_counter()
        if now < self.start:
            return
        self.last = now
        if status == 200:
            is_right = body == self.table[seed]
            self.outcomes["right" if is_right else "wrong"] += 1
            self.accepted.append(now - since)
        elif status in (429, 503):
            self.outcomes["refused"] += 1
            self.refused.append(now - since)
        else:
            self.outcomes["lost"] += 1  # to an error

    def report(self) -> dict[str, Any]:
        seconds = max(1e-9, self.last - self.start)
        return {
            "images_per_second": self.outcomes["right"] / seconds,
            "p50_ms": _quantile(self.accepted, 0.5),
            "p99_ms": _quantile(self.accepted, 0.99),
            "refused_p50_ms": _quantile(self.refused, 0.5),
            "seconds": seconds,
            **{name: self.outcomes[name] for name in ("right", "wrong", "refused", "lost", "unsent")},
        }


class Client(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, load: Load, is_open_loop: bool):
        self.load, self.is_open_loop = load, is_open_loop
        self.buffer = bytearray()
        self.need = 0  # bytes of the whole answer, 0 while its header is not whole
        self.body_at = self.status = self.retry_after = 0
        self.seed = -1
        self.since = 0.0
        self.is_closing = False
        self.closed: asyncio.Future = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, since: float) -> None:
        self.seed, self.since = self.load.next_seed(), since
        if self.load.is_post:
            body = b'{"seed": %d}' % self.seed
            head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: "
            self.transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        else:
            self.transport.write(b"GET /faces/%d.png HTTP/1.1\r\nhost: localhost\r\n\r\n" % self.seed)

    def go_on(self) -> None:
        """The next request, if one is due."""
        if self.is_closing:
            return
        if self.is_open_loop:
            if self.load.due:
                self.send(self.load.due.popleft())
            else:
                self.load.free.append(self)
        elif self.load.is_over():
            self.finish()
        else:
            self.send(time.perf_counter())

    def finish(self) -> None:
        self.is_closing = True
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.need:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[:end]).lower()
            self.status, self.body_at = int(head[9:12]), end + 4
            self.need = self.body_at + _number(head, b"content-length:")
            self.retry_after = _number(head, b"retry-after:")
        if len(self.buffer) < self.need:
            return
        body = bytes(self.buffer[self.body_at : self.need])
        del self.buffer[: self.need]
        self.need = 0
        seed, self.seed = self.seed, -1
        self.load.answered(self.status, seed, body, self.since)
        if self.status != 200 and not self.is_open_loop:
            asyncio.get_running_loop().call_later(max(LEAST_BACK_OFF, self.retry_after), self.go_on)
        else:
            self.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        if self.seed >= 0:
            self.load.outcomes["lost"] += 1
        if self in self.load.free:  # a server may close what is idle
            self.load.free.remove(self)
            if not self.is_closing:
                self.load.reconnect()
        self.is_closing = True
        if not self.closed.done():
            self.closed.set_result(None)


async def run(port: int, load: Load, clients: int, rate: float) -> dict[str, Any]:
    """Connect the clients, then load; `rate` requests a second, 0 - a closed loop."""
    loop = asyncio.get_running_loop()
    connected: list[Client] = []
    tasks: set[asyncio.Task] = set()

    async def connect() -> Client:
        _, client = await loop.create_connection(lambda: Client(load, rate > 0), "127.0.0.1", port)
        connected.append(client)
        return client

    async def replace() -> None:
        (await connect()).go_on()

    def reconnect() -> None:
        tasks.add(task := loop.create_task(replace()))
        task.add_done_callback(tasks.discard)

    load.reconnect = reconnect
    for _ in range(clients):
        await connect()
    load.begin()
    for client in list(connected):
        client.go_on()
    if rate:
        due = time.perf_counter()
        while due < load.end and not (load.is_counted and load.left <= 0):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            while due <= time.perf_counter() and due < load.end:
                if load.free:
                    load.free.pop().send(due)
                else:
                    load.due.append(due)
                due += 1.0 / rate
        load.outcomes["unsent"] = len(load.due)  # no connection was free for them before the end
        load.due.clear()
        for _ in range(300):  # what is under way may end
            if len(load.free) >= sum(not client.is_closing for client in connected):
                break
            await asyncio.sleep(0.1)
        for client in connected:
            client.finish()
    await asyncio.wait_for(asyncio.gather(*(client.closed for client in connected)), 3600)
    return load.report()


def _number(head: bytes, name: bytes) -> int:
    start = head.find(name)
    return int(head[start + len(name) :].split(b"\r\n", 1)[0]) if start >= 0 else 0


def _quantile(values: list[float], share: float) -> float | None:
    """In milliseconds; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3 if ordered else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--table", type=Path, required=True, help="pickle of {seed: bytes}, made by tools/benchmark.py")
    parser.add_argument("--clients", type=int, default=8, help="connections (default: 8)")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: a closed loop (default: 0)")
    parser.add_argument("--seconds", type=float, default=3.0, help="(default: 3)")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds that are not counted (default: 0.5)")
    parser.add_argument("--count", type=int, default=0, help="end after so many requests instead")
    parser.add_argument("--post", action="store_true", help="POST /predict, as LitServe wants it")
    args = parser.parse_args()
    table = pickle.loads(args.table.read_bytes())

    async def loaded() -> dict[str, Any]:
        load = Load(table, args.warm_up, args.seconds, args.count, args.post)
        return await run(args.port, load, args.clients, args.rate)

    json.dump(asyncio.run(loaded()), sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
