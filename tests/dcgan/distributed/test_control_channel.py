"""Messages between processes, here between threads: one end each, over real sockets."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading

import pytest

from dcgan.distributed import control_channel as module
from dcgan.distributed.control_channel import ControlChannel, connect
from dcgan.errors import TrainingError


def free_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


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
    address, losses = free_address(), [[], [], []]
    channels = in_threads(*(lambda r=r: connect(r, 3, address, "run", losses[r].append) for r in range(3)))
    return channels, losses


def test_process_0_gathers_by_rank_and_broadcasts_to_all(three):
    channels, _ = three
    gathered = in_threads(
        *(lambda r=r, channel=channel: channel.gather({"rank": r}) for r, channel in enumerate(channels))
    )
    assert gathered == [[{"rank": 0}, {"rank": 1}, {"rank": 2}], None, None]
    assert (
        in_threads(*(lambda r=r, channel=channel: channel.broadcast(["from", r]) for r, channel in enumerate(channels)))
        == [["from", 0]] * 3
    )


def test_an_end_that_closes_with_the_others_is_no_loss(three):
    channels, losses = three
    in_threads(*(channel.close for channel in channels))
    for channel in channels:
        for connection in channel._peers.values():
            with contextlib.suppress(OSError):  # the other side was faster
                connection.shutdown(socket.SHUT_RDWR)  # as the system does when a process ends
    for channel in channels:
        for peer, inbox in channel._inboxes.items():
            assert inbox.get(timeout=20) is module._GONE, peer
    assert losses == [[], [], []]


def test_the_death_of_a_process_is_reported_at_once_and_names_it_to_whoever_waits(three):
    channels, _ = three
    told = queue.Queue()
    channels[0]._on_loss = told.put
    channels[2]._peers[0].shutdown(socket.SHUT_RDWR)  # as the system does when a process dies
    assert told.get(timeout=20) == 2
    for _ in range(2):
        with pytest.raises(TrainingError, match="process 2 ended unexpectedly"):
            in_threads_reraising(lambda: channels[0].gather(None), lambda: channels[1].gather(None))


def in_threads_reraising(main, other):
    thread = threading.Thread(target=other)
    thread.start()
    try:
        return main()
    finally:
        thread.join(timeout=20)


def test_connections_of_others_are_closed_and_do_not_keep_the_processes_out():
    address = free_address()
    box = []
    first = threading.Thread(target=lambda: box.append(connect(0, 2, address, "run", print)))
    first.start()
    module.wait_for_server(address)
    for said in (b"", b"GET / HTTP/1.1\r\n", b"another 1\n", b"run 7\n", b"run x\n", b"x" * 200):
        with socket.create_connection(address.split(":")) as other:
            other.sendall(said)
            with contextlib.suppress(OSError):  # closed already
                other.shutdown(socket.SHUT_WR)
            other.settimeout(20)
            with contextlib.suppress(ConnectionResetError):  # more was said than is read
                assert other.recv(1) == b""
    second = connect(1, 2, address, "run", print)
    first.join(timeout=20)
    assert in_threads(lambda: box[0].broadcast("welcome"), lambda: second.broadcast(None)) == ["welcome", "welcome"]
    in_threads(box[0].close, second.close)


def test_processes_that_do_not_come_are_named_while_the_first_waits_and_when_it_gives_up(monkeypatch, caplog):
    monkeypatch.setattr(module, "OPENING_SECONDS", 0.2)
    monkeypatch.setattr(module, "NOTICE_SECONDS", 0.05)
    with pytest.raises(TrainingError, match=r"processes \[1, 2\] did not come within 0.2 s"):
        connect(0, 3, free_address(), "run")
    assert caplog.messages[0].startswith("waiting for processes [1, 2]; their own logs may say why")


def test_a_first_process_that_does_not_listen_or_cannot_is_named_with_its_address(monkeypatch):
    monkeypatch.setattr(module, "OPENING_SECONDS", 0)
    address = free_address()
    with pytest.raises(TrainingError, match=f"process 0 did not answer at {address} within 0 s"):
        connect(1, 2, address, "run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TrainingError, match=f"process 0 cannot listen at {address}: Address already in use"):
            connect(0, 2, address, "run")


def test_a_process_that_waits_for_the_dead_somewhere_else_is_ended(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0)
    ended = queue.Queue()
    monkeypatch.setattr(module.os, "_exit", ended.put)
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = socket.create_connection(server.getsockname())
        ControlChannel({1: server.accept()[0]}, module._end_this_process)
    other.close()
    assert ended.get(timeout=20) == 1
