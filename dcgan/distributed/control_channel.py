"""How the processes of one run talk beside their tensors: JSON lines over one TCP connection of each to process 0.

Why not Paddle's TCPStore (3.2.2, measured on one machine): a request takes 44 ms, because it is sent in pieces that
wait for each other's acknowledgement, so a barrier takes 88 ms where this one takes 0.1 ms, and gloo needs one before
each exchange; `get` and `wait` have no timeout; and nobody hears that another process has died. Here a process may wait
as long as it must, and both sides know at once when a connection ends. Knows no Paddle.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import TrainingError

log = logging.getLogger(__name__)

OPENING_SECONDS = 600  # for all processes to start: importing Paddle takes a minute on a busy machine
NOTICE_SECONDS = 20  # how long process 0 waits for the others before it says so, and says so again
GRACE_SECONDS = 10  # between a death and the end of a process that does not notice it, in an NCCL kernel for example
# A host without power closes no connection: probed, it counts as dead after 30 s. Not every system has all of these.
_OPTIONS = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
_GONE = object()


class ControlChannel:
    """One end of the star: process 0 holds a connection to each other process, the others one to process 0.

    Args: peers - connected sockets by rank, owned from now on.  on_loss - called by a thread with the rank of a peer
          whose connection ended without `close`.
    All processes must call `gather` and `broadcast` in the same order. Both raise TrainingError when a peer is gone.
    """

    def __init__(self, peers: Mapping[int, socket.socket], on_loss: Callable[[int], None]):
        self._peers, self._on_loss, self._closing = dict(peers), on_loss, False
        self._inboxes: dict[int, queue.SimpleQueue] = {peer: queue.SimpleQueue() for peer in peers}
        for peer, connection in self._peers.items():
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name in _OPTIONS.keys() & vars(socket).keys():
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), _OPTIONS[name])
            threading.Thread(target=self._listen, args=(peer, connection), name=f"channel-{peer}", daemon=True).start()

    def gather(self, value: Any) -> list | None:
        """On process 0 the JSON values of all, by rank; None elsewhere."""
        if 0 in self._peers:
            self._send(0, value)
            return None
        return [value, *(self._receive(peer) for peer in sorted(self._peers))]

    def broadcast(self, value: Any) -> Any:
        """On every process the JSON value of process 0; what others pass is ignored."""
        if 0 in self._peers:
            return self._receive(0)
        for peer in self._peers:
            self._send(peer, value)
        return value

    def close(self) -> None:
        """Wait for the others to come here too: from then on, a connection that ends is no loss."""
        self.broadcast(self.gather(None))
        self._closing = True
        self.broadcast(self.gather(None))  # nobody leaves before all have been told that this is no loss

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
    rank: int, size: int, address: str, run: str, on_loss: Callable[[int], None] | None = None
) -> ControlChannel:
    """Connect all `size` processes to process 0 and return this one's end.

    Args: address - "host:port" where process 0 listens until all have come.  run - a word that all processes of this
          run know, without spaces; who does not say it is sent away.  on_loss - see ControlChannel; by default this
          process ends, after a grace in which it may do so by itself.
    Raises TrainingError naming those who do not come in time, or if process 0 cannot be reached or cannot listen.
    """
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + OPENING_SECONDS
    if rank:
        peers = {0: _dial(host, int(port), deadline)}
        peers[0].sendall(f"{run} {rank}\n".encode())
    else:
        try:
            server = socket.create_server((host, int(port)))
        except OSError as error:
            raise TrainingError(f"process 0 cannot listen at {address}: {error.strerror}") from None
        with server:
            peers = _welcome(server, set(range(1, size)), run, deadline)
    channel = ControlChannel(peers, on_loss or _end_this_process)
    channel.broadcast(None)  # process 0 has met everybody
    return channel


def wait_for_server(address: str) -> None:
    """Wait until somebody listens at "host:port". Raises TrainingError if nobody does in time."""
    host, port = address.rsplit(":", 1)
    _dial(host, int(port), time.monotonic() + OPENING_SECONDS).close()


def _dial(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to process 0, which may not listen yet."""
    while True:
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, port), timeout=10)
            if connection.getsockname() != connection.getpeername():  # the system can connect a free port to itself
                return connection
            connection.close()
        if time.monotonic() > deadline:
            raise TrainingError(f"process 0 did not answer at {host}:{port} within {OPENING_SECONDS} s")
        time.sleep(0.1)


def _welcome(server: socket.socket, missing: set[int], run: str, deadline: float) -> dict[int, socket.socket]:
    """The connections of all `missing` ranks."""
    peers: dict[int, socket.socket] = {}
    while missing:
        server.settimeout(min(max(deadline - time.monotonic(), 0.01), NOTICE_SECONDS))
        try:
            connection, _ = server.accept()
        except socket.timeout:
            if time.monotonic() > deadline:
                raise TrainingError(f"processes {sorted(missing)} did not come within {OPENING_SECONDS} s") from None
            log.warning("waiting for processes %s; their own logs may say why they do not come", sorted(missing))
            continue
        connection.settimeout(5)
        said = b""
        with contextlib.suppress(OSError):
            while not said.endswith(b"\n") and len(said) < 100:
                said += connection.recv(1) or b"\n"  # byte by byte: what follows the line belongs to the channel
        word, _, number = said.decode("latin-1").strip().rpartition(" ")
        if word == run and number.isdigit() and int(number) in missing:
            missing.remove(int(number))
            peers[int(number)] = connection
        else:
            connection.close()
    return peers


def _lost(peer: int) -> TrainingError:
    return TrainingError(f"process {peer} ended unexpectedly; its own log may say why.")


def _end_this_process(peer: int) -> None:
    """Let the main thread end by itself; if it cannot, because it waits for the dead, end the process."""
    time.sleep(GRACE_SECONDS)
    log.error("error: process %d ended unexpectedly while this one waits for it; ending", peer)
    os._exit(1)
