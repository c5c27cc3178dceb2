"""Words between processes, here between threads: one end each, over real sockets."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading

import pytest

from dcgan.distributed import control_channel as module
from dcgan.distributed.control_channel import ControlChannel, connect
from dcgan.errors import TrainingError


class Store:
    """What Paddle's TCP store does for `connect`: `get` waits for `set`."""

    def __init__(self):
        self._value: queue.Queue = queue.Queue()

    def set(self, key, value):
        self._value.put(value)

    def get(self, key):
        value = self._value.get(timeout=20)
        self._value.put(value)
        return value


def in_threads(*works):
    """The results of functions that run at the same time."""
    results = [None] * len(works)

    def keep(i):
        results[i] = works[i]()

    threads = [threading.Thread(target=keep, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    return results


@pytest.fixture
def three():
    """Three ends, and for each the ranks whose loss it was told."""
    store, losses = Store(), [[], [], []]
    hubs = in_threads(*(lambda r=r: connect(r, 3, "127.0.0.1", store, losses[r].append) for r in range(3)))
    return hubs, losses


def test_the_first_gathers_by_rank_and_shares_with_all(three):
    hubs, _ = three
    gathered = in_threads(*(lambda r=r, channel=channel: channel.gather({"rank": r}) for r, channel in enumerate(hubs)))
    assert gathered == [[{"rank": 0}, {"rank": 1}, {"rank": 2}], None, None]
    assert (
        in_threads(*(lambda r=r, channel=channel: channel.broadcast(["from", r]) for r, channel in enumerate(hubs)))
        == [["from", 0]] * 3
    )


def test_an_end_that_closes_with_the_others_is_no_loss(three):
    hubs, losses = three
    in_threads(*(channel.close for channel in hubs))
    for channel in hubs:
        for peer, inbox in channel._inboxes.items():
            assert inbox.get(timeout=20) is module._GONE, peer  # the connection has ended, and nobody was told
    assert losses == [[], [], []]


def test_an_end_that_dies_is_told_at_once_and_named_by_whoever_waits_for_it(three):
    hubs, _ = three
    told = queue.Queue()
    hubs[0]._on_loss = told.put
    hubs[2]._peers[0].shutdown(socket.SHUT_RDWR)  # as the system does when a process dies
    assert told.get(timeout=20) == 2
    for _ in range(2):
        with pytest.raises(TrainingError, match="process 2 has ended before its time"):
            in_threads_reraising(lambda: hubs[0].gather(None), lambda: hubs[1].gather(None))


def in_threads_reraising(main, other):
    thread = threading.Thread(target=other)
    thread.start()
    try:
        return main()
    finally:
        thread.join(timeout=20)


def test_strangers_are_not_let_in_and_do_not_keep_the_others_out():
    store = Store()
    box = []
    first = threading.Thread(target=lambda: box.append(connect(0, 2, "127.0.0.1", store, print)))
    first.start()
    port, secret = json.loads(store.get(""))
    for said in (
        b"",
        b"GET / HTTP/1.1\r\n",
        b"wrong 1\n",
        f"{secret} 7\n".encode(),
        f"{secret} x\n".encode(),
        b"x" * 200,
    ):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(said)
            with contextlib.suppress(OSError):  # turned away already
                stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(20)
            with contextlib.suppress(ConnectionResetError):  # for the one who says more than is read
                assert stranger.recv(1) == b""
    second = connect(1, 2, "127.0.0.1", store, print)
    first.join(timeout=20)
    assert in_threads(lambda: box[0].broadcast("welcome"), lambda: second.broadcast(None)) == ["welcome", "welcome"]
    in_threads(box[0].close, second.close)


def test_processes_that_do_not_come_are_named(monkeypatch):
    monkeypatch.setattr(module, "OPENING_SECONDS", 0.05)
    with pytest.raises(TrainingError, match=r"processes \[1, 2\] did not come within 0.05 s"):
        connect(0, 3, "127.0.0.1", Store())


def test_a_process_that_waits_for_the_dead_somewhere_else_is_ended(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0)
    ended = queue.Queue()
    monkeypatch.setattr(module.os, "_exit", ended.put)
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = socket.create_connection(server.getsockname())
        ControlChannel(0, {1: server.accept()[0]}, module._end_this_process)
    other.close()
    assert ended.get(timeout=20) == 1
