"""How the processes of one run talk beside their tensors: JSON lines over one TCP connection of each to process 0.

Paddle's own ways have limits that a run cannot keep: gloo gives up after 30 s of waiting (3.2.2, not settable), NCCL
waits for ever, and neither says who has died. Here a process may wait as long as it must, and a connection that ends
is known at once on both sides. Knows no Paddle; docs/scale.md tells who says what when.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import TrainingError

log = logging.getLogger(__name__)

OPENING_SECONDS = 600  # for all processes to start: importing Paddle takes a minute on a busy machine
GRACE_SECONDS = 10  # between a death and the end of a process that does not notice it, in an NCCL kernel for example
_DEAD_SILENCE_SECONDS = 30  # until a host without power, which closes no connection, counts as dead
_GONE = object()


class ControlChannel:
    """One end of the star: process 0 holds a connection to each other process, the others one to process 0.

    Args: rank - of this process.  peers - connected sockets by rank, owned from now on.  on_loss - called by a thread
          with the rank of a peer whose connection ended without `close`.
    All processes must call `gather` and `broadcast` in the same order. Both raise TrainingError when a peer is gone.
    """

    def __init__(self, rank: int, peers: Mapping[int, socket.socket], on_loss: Callable[[int], None]):
        self._rank, self._peers, self._on_loss = rank, dict(peers), on_loss
        self._inboxes: dict[int, queue.SimpleQueue] = {peer: queue.SimpleQueue() for peer in peers}
        self._closing = False
        for peer, connection in self._peers.items():
            _notice_dead_hosts(connection)
            threading.Thread(target=self._listen, args=(peer, connection), name=f"channel-{peer}", daemon=True).start()

    def gather(self, value: Any) -> list | None:
        """On process 0 the JSON values of all, by rank; None elsewhere."""
        if self._rank:
            self._send(0, value)
            return None
        return [value, *(self._receive(peer) for peer in sorted(self._peers))]

    def broadcast(self, value: Any) -> Any:
        """On every process the JSON value of process 0; what others pass is ignored."""
        if self._rank:
            return self._receive(0)
        for peer in self._peers:
            self._send(peer, value)
        return value

    def close(self) -> None:
        """Say goodbye once all have come here: from then on, a connection that ends is no loss."""
        self.broadcast(self.gather(None))
        self._closing = True
        self.broadcast(self.gather(None))  # nobody leaves before all have been told that this is no loss
        for connection in self._peers.values():
            with contextlib.suppress(OSError):  # the other side was faster
                connection.shutdown(socket.SHUT_WR)

    def _send(self, peer: int, value: Any) -> None:
        try:
            self._peers[peer].sendall(json.dumps(value).encode() + b"\n")
        except OSError:
            raise _lost(peer) from None

    def _receive(self, peer: int) -> Any:
        message = self._inboxes[peer].get()
        if message is _GONE:
            self._inboxes[peer].put(_GONE)  # whoever asks again gets the same answer
            raise _lost(peer)
        return json.loads(message)

    def _listen(self, peer: int, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:  # a reset is an end like any other
            for line in lines:
                self._inboxes[peer].put(line)
        self._inboxes[peer].put(_GONE)
        if not self._closing:
            self._on_loss(peer)


def connect(
    rank: int, size: int, host: str, store: Any, on_loss: Callable[[int], None] | None = None
) -> ControlChannel:
    """Connect all `size` processes to process 0 and return this one's end.

    Args: host - of process 0, as the others reach it.  store - tells them the port: `set` and a `get` that waits.
          on_loss - see ControlChannel; by default this process ends, after a grace in which it may do so by itself.
    Only processes that know a secret from the store are let in. Raises TrainingError if they do not come in time.
    """
    name = "dcgan/control_channel"
    deadline = time.monotonic() + OPENING_SECONDS
    if rank:
        port, secret = json.loads(bytes(store.get(name)))
        connection = socket.create_connection((host, port), timeout=OPENING_SECONDS)
        connection.settimeout(None)
        connection.sendall(f"{secret} {rank}\n".encode())
        return ControlChannel(rank, {0: connection}, on_loss or _end_this_process)
    secret = secrets.token_hex(16)
    peers: dict[int, socket.socket] = {}
    with socket.create_server((host, 0)) as server:
        store.set(name, json.dumps([server.getsockname()[1], secret]).encode())
        while len(peers) < size - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except socket.timeout:
                missing = [peer for peer in range(1, size) if peer not in peers]
                raise TrainingError(f"processes {missing} did not come within {OPENING_SECONDS} s") from None
            peer = _introduction(connection, secret)
            if peer in range(1, size) and peer not in peers:
                peers[peer] = connection
            else:
                connection.close()
    return ControlChannel(0, peers, on_loss or _end_this_process)


def _introduction(connection: socket.socket, secret: str) -> int | None:
    """The rank that a new connection says, None for a stranger."""
    connection.settimeout(5)
    said = b""
    with contextlib.suppress(OSError):
        while not said.endswith(b"\n") and len(said) < 100:
            part = connection.recv(1)
            if not part:
                break
            said += part
    connection.settimeout(None)
    words = said.split()
    if len(words) == 2 and secrets.compare_digest(words[0], secret.encode()) and words[1].isdigit():
        return int(words[1])
    return None


def _notice_dead_hosts(connection: socket.socket) -> None:
    """Send small messages at once, and probe silent connections: a host that lost its power closes none."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
    options["TCP_USER_TIMEOUT"] = _DEAD_SILENCE_SECONDS * 1000
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has all of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _lost(peer: int) -> TrainingError:
    return TrainingError(f"process {peer} has ended before its time; its own log may say why.")


def _end_this_process(peer: int) -> None:
    """Let the main thread end by itself; if it cannot, because it waits for the dead, end the process."""
    time.sleep(GRACE_SECONDS)
    log.error("error: process %d has ended and this one waits for it; ending", peer)
    os._exit(1)
