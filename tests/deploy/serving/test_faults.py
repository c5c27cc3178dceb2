"""Signals, resets, slow clients and full disks while clients ask for faces; docs/reliability.md has the counts.

SERVE_FAULT_TIMES=20 repeats each fault so often instead of twice.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import deploy
from deploy.images import to_uint8
from deploy.runtimes import load_generator

TIMES = int(os.environ.get("SERVE_FAULT_TIMES", "2"))
SCRIPT = Path(deploy.__file__).with_name("serve.py")
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER of no seconds: close() resets


class Asker(threading.Thread):
    """A client that asks for faces over one connection, one after the other, until the connection ends."""

    def __init__(self, port: int, chance: random.Random, check):
        super().__init__(daemon=True)
        self.chance, self.check = chance, check
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.answers = 0
        self.problems: list[str] = []
        self.unanswered_since: float | None = None
        self.is_stopping = False

    def run(self) -> None:
        stream = self.connection.makefile("rb")
        try:
            while not self.is_stopping:
                seed = self.chance.randrange(200)
                self.unanswered_since = time.monotonic()
                self.connection.sendall(b"GET /faces/%d.png HTTP/1.1\r\nhost: x\r\n\r\n" % seed)
                head = b"".join(iter(stream.readline, b"\r\n")) if stream.peek(1) else b""
                if not head:
                    return  # closed before the server took it
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                body = stream.read(length)
                self.unanswered_since = None
                self.answers += 1
                if not head.startswith(b"HTTP/1.1 200") or len(body) != length or not self.check(seed, head, body):
                    self.problems.append(f"seed {seed}: {head[:100]}")
                if b"connection: close" in head:
                    return
        except ConnectionError:
            return  # `unanswered_since` says of what
        finally:
            self.connection.close()


def ask_all(port, count, check, number=0):
    """Clients at work, each with at least one answer."""
    askers = [Asker(port, random.Random(1000 * number + i), check) for i in range(count)]
    for asker in askers:
        asker.start()
    while not all(asker.answers or not asker.is_alive() for asker in askers):
        time.sleep(0.01)
    return askers


def stop_all(askers):
    for asker in askers:
        asker.is_stopping = True
    for asker in askers:
        asker.join(60)
        assert not asker.is_alive() and asker.problems == [], asker.problems
        assert asker.unanswered_since is None and asker.answers > 0


@pytest.fixture(scope="module")
def is_right(face_table):
    return lambda seed, head, body: body == face_table[seed]


def test_sigterm_under_load_loses_no_accepted_request(start_server, served_export, is_right):
    for number in range(TIMES):
        server = start_server(served_export.folder)
        askers = ask_all(server.port, 16, is_right, number)
        time.sleep(random.Random(number).uniform(0, 0.2))
        told = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for asker in askers:
            asker.join(60)
            assert not asker.is_alive() and asker.problems == [], (number, asker.problems)
            # what was sent before the signal was answered; what came later may have met a closed connection
            assert asker.unanswered_since is None or asker.unanswered_since > told, number
        assert server.process.wait(40) == 0 and "ERROR" not in server.log, server.log


def test_clients_that_reset_disturb_nobody(start_server, served_export, is_right):
    server = start_server(served_export.folder)
    askers = ask_all(server.port, 2, is_right)
    chance = random.Random(0)
    request = b'POST /v1/faces HTTP/1.1\r\nhost: x\r\ncontent-length: 17\r\n\r\n{"seeds": "0-49"}'
    for _ in range(100 * TIMES):
        with server.connect() as connection:
            connection.sendall(request[: chance.randint(0, len(request))])
            if chance.random() < 0.3:
                time.sleep(chance.uniform(0, 0.02))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    stop_all(askers)
    deadline = time.monotonic() + 60
    while not {"serve_queue_images 0.0", "serve_connections 1.0"} <= set(
        server.get("/metrics").body.decode().split("\n")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.log.count("\n") == 1, server.log


def test_500_slow_clients_do_not_stop_a_fast_one(start_server, served_export, is_right):
    server = start_server(served_export.folder)
    slow = [server.connect() for _ in range(500)]
    try:
        for i, connection in enumerate(slow):
            connection.sendall(b"GET /faces/7.png HTTP/1.1\r\nhost: x\r\n\r\n"[: i % 30])
        askers = ask_all(server.port, 1, is_right)
        for connection in slow[:100]:
            connection.sendall(b"x")  # a byte now and then
        while askers[0].answers < 20:
            assert askers[0].is_alive()
            time.sleep(0.01)
        stop_all(askers)
        text = server.get("/metrics").body.decode()
        assert float(text.partition("\nserve_connections ")[2].split("\n")[0]) > 300, "they are held no more"
    finally:
        for connection in slow:
            connection.close()


def test_more_connections_than_handles_are_closed_with_one_warning(start_server, served_export, face_table):
    server = start_server(served_export.folder)
    number = server.process.pid
    handles = len(os.listdir(f"/proc/{number}/fd")) + 8
    resource.prlimit(number, resource.RLIMIT_NOFILE, (handles, handles))
    idle = [server.connect() for _ in range(60)]
    try:
        for connection in idle[30:]:  # the first ones have the handles and are held
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b"", "it is closed, not left waiting"
    finally:
        for connection in idle:
            connection.close()
    answer = None
    while answer is None:  # until it has seen that the idle ones are gone
        with contextlib.suppress(ConnectionError):
            answer = server.get("/faces/7.png")
    assert answer.body == face_table[7]
    assert [line for line in server.log.splitlines()[1:] if "no handle left" not in line] == []
    assert server.log.count("no handle left") == 1


def test_a_killed_server_is_there_again_on_the_same_port(start_server, served_export, face_table):
    server = start_server(served_export.folder)
    for _ in range(TIMES):
        with server.connect() as connection:
            connection.sendall(b"GET /faces/7.png HTTP/1.1\r\nhost: x\r\n\r\n")
            server.process.kill()
            server.process.wait()
        again = start_server(served_export.folder, "--port", server.port)
        assert again.port == server.port and again.get("/faces/7.png").body == face_table[7]
        server = again


def test_reloads_under_load_answer_each_request_with_one_whole_model(start_server, export, make_generator):
    seen: dict[bytes, set] = {}

    def check(seed, head, body):
        """The image of a seed under an ETag is always the same, and one of the two that there are."""
        etag = head.partition(b"etag: ")[2].split(b"\r\n")[0]
        seen.setdefault(etag, set()).add(body)
        levels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1)
        return any(np.array_equal(levels, levels_of[seed]) for levels_of in expected)

    def exchange():
        export.weights = -export.weights
        (export.folder / "generator.onnx").write_bytes(make_generator(export.weights))
        images = export.expected(range(10)).astype(np.float32)
        np.savez(export.folder / "reference.npz", seeds=np.arange(10, dtype=np.uint32), images=images)
        export.write(parity={"reference": export.reference(images)})

    expected = []
    for _ in range(2):
        exchange()
        expected.append(to_uint8(load_generator(export.folder, "onnxruntime").generate(range(200))))
    server = start_server(export.folder)
    askers = ask_all(server.port, 4, check)
    for number in range(TIMES):
        exchange()
        for signals, text in ((1, "reloaded: "), (2, "reload refused, the model in use goes on: ")):
            if signals == 2:
                content = (export.folder / "generator.onnx").read_bytes()
                (export.folder / "generator.onnx").write_bytes(content[: random.Random(number).randrange(len(content))])
            server.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 60
            while server.log.count(text) <= number:
                assert time.monotonic() < deadline, server.log
                time.sleep(0.02)
    stop_all(askers)
    assert all(len(bodies) == 1 for bodies in seen.values()) and len({etag.split(b"-")[0] for etag in seen}) == 2
    assert server.log.count("\n") == 1 + 2 * TIMES


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_stops_nothing_and_nothing_is_written(served_export, face_table, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / "export"
    shutil.copytree(served_export.folder, folder)
    here = tmp_path / "here"
    here.mkdir()
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(SCRIPT), "--model", str(folder), "--port", str(port)]
        process = subprocess.Popen(command, cwd=here, stdout=full, stderr=full)
    try:
        answers, deadline = [], time.monotonic() + 60
        while len(answers) < 5:
            assert process.poll() is None and time.monotonic() < deadline
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                    connection.sendall(b"GET /faces/7.png HTTP/1.0\r\n\r\n")
                    answer = b"".join(iter(lambda: connection.recv(65536), b""))
            except ConnectionError:
                time.sleep(0.05)
                continue
            if answer.startswith(b"HTTP/1.1 200"):
                answers.append(answer.partition(b"\r\n\r\n")[2])
                (folder / "generator.onnx").write_bytes(b"damaged")
                process.send_signal(signal.SIGHUP)  # its line cannot be written
        assert answers == [face_table[7]] * 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0 and list(here.iterdir()) == []
    finally:
        process.kill()
        process.wait()
