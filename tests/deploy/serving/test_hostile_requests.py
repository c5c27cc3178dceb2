"""Requests from who means no good: one JSON problem each, never a traceback or a path, and the server serves on."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import socket

import pytest
import uvicorn

from deploy.serving.protocol import Limits, Protocol

HUGE = "1" + "0" * 30
POST = "POST", "/v1/faces"
# method, path, body, status
WRONG = [
    *[("GET", f"/faces/{name}", None, 422) for name in (f"{HUGE}.png", "-1.png", "1e3.png", "4294967296.png", ".png")],
    *[("GET", f"/faces/{name}", None, 422) for name in ("7%00.png", "%D9%A7.png", "07x.png", "7.5.png", "+7.png")],
    *[("GET", f"/faces/{name}", None, 404) for name in ("7", "7.bmp", "7.png.gz", "7.PNG", "7.png%2f..", "..%2f7.png")],
    *[
        ("GET", path, None, 404)
        for path in ("/nothing", "/faces", "/faces/", "//faces/7.png", "/%ff%fe", "/v1/", "/.git")
    ],
    *[("GET", path, None, 404) for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%5c..%5cwindows")],
    ("GET", "/faces/7.png?model=' OR 1=1", None, 400),
    ("GET", "/faces/7.png?model=x", None, 404),
    ("GET", "/faces/7.png?size=1", None, 422),
    ("GET", "/grid.png?seeds=0-999999999999", None, 422),
    ("GET", "/grid.png?seeds=0-4294967295", None, 422),
    ("GET", f"/grid.png?seeds={HUGE}", None, 422),
    ("GET", "/grid.png?seeds=9-0", None, 422),
    ("GET", "/grid.png?seeds=1,1", None, 422),
    ("GET", "/grid.png?seeds=", None, 422),
    ("GET", "/grid.png?seeds=1&seeds=2", None, 422),
    ("GET", "/grid.png?seeds=%ff", None, 422),
    ("GET", "/grid.png?" + "&".join(f"a{i}=1" for i in range(1000)), None, 422),
    ("GET", "/walk.gif?seeds=1", None, 422),
    ("GET", "/walk.gif?frames=1000000000", None, 422),
    ("GET", "/walk.gif?scale=0", None, 422),
    ("GET", "/walk.gif?fps=NaN", None, 422),
    ("GET", "/v1/faces", None, 405),
    ("DELETE", "/faces/7.png", None, 405),
    ("POST", "/faces/7.png", "{}", 405),
    ("TRACE", "/faces/7.png", None, 405),
    (*POST, "", 400),
    (*POST, "not JSON", 400),
    (*POST, "[]", 400),
    (*POST, "NaN", 400),
    (*POST, '"' + "x" * 1000, 400),
    (*POST, b"\xff\xfe\x00", 400),
    (*POST, "[" * 60000, 400),
    (*POST, '{"seeds":' * 8000, 400),
    (*POST, '{"seeds": [' + "9" * 60000 + "]}", 400),
    (*POST, '{"latents": [[NaN]]}', 400),
    (*POST, '{"latents": [[Infinity]]}', 400),
    (*POST, "{}", 422),
    (*POST, '{"seeds": [1], "latents": [[1]]}', 422),
    (*POST, '{"seeds": [1], "format": "exe"}', 422),
    (*POST, '{"seeds": [1], "format": ["zip"]}', 422),
    (*POST, '{"seeds": [1], "__class__": 1}', 422),
    (*POST, '{"seeds": []}', 422),
    (*POST, '{"seeds": [1, 1]}', 422),
    (*POST, '{"seeds": [1.0]}', 422),
    (*POST, '{"seeds": [true]}', 422),
    (*POST, '{"seeds": [null]}', 422),
    (*POST, '{"seeds": {"a": 1}}', 422),
    (*POST, '{"seeds": [[[1]]]}', 422),
    (*POST, json.dumps({"seeds": [10**30]}), 422),
    (*POST, '{"seeds": [-1]}', 422),
    (*POST, '{"seeds": "0-999999999"}', 422),
    (*POST, json.dumps({"seeds": "0," * 20000}), 422),
    (*POST, json.dumps({"seeds": list(range(101))}), 422),
    (*POST, '{"latents": [[1, 2]]}', 422),
    (*POST, '{"latents": [1, 2, 3, 4, 5, 6, 7, 8]}', 422),
    (*POST, '{"latents": [[1, 2, 3, 4, 5, 6, 7, 1e400]]}', 422),
    (*POST, '{"latents": [[1, 2, 3, 4, 5, 6, 7, 1e30]]}', 422),
    (*POST, '{"latents": [[1, 2, 3, 4, 5, 6, 7, "8"]]}', 422),
    (*POST, '{"latents": [[1, 2, 3, 4, 5, 6, 7, false]]}', 422),
    (*POST, json.dumps({"latents": [[0.0] * 8] * 101}), 422),
    (*POST, "x" * 200_000, 413),
    ("POST", "/v1/score", '{"seeds": [-1]}', 422),
    ("POST", "/v1/faces", '{"seeds": "1", "seeds": "2"}', 400),
]
RAW = [
    b"\r\n\r\n\r\nnonsense\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /faces/7.png\r\n\r\n",
    b"GET /faces/7.png HTTP/9.9\r\n\r\n",
    b"GET /faces/\xff\xfe.png HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET faces HTTP/1.1\r\nhost: x\r\n\r\n",
    b"CONNECT localhost:22 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nbad header\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/faces HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/faces HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"POST /v1/faces HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 10000 + b"\r\n",
    b"GET /livez HTTP/1.1\r\nhost: " + b"x" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    bytes(1000),
]


def check_problem(status, content_type, body, what):
    assert content_type == "application/problem+json", what
    value = json.loads(body)
    assert value["status"] == status and value["title"] and value["detail"] and value["type"] == "about:blank", what
    assert len(body) < 600, what
    for word in ("Traceback", "File ", ".py", "/tmp", "site-packages", "serving"):
        assert word not in body, what


def test_every_wrong_request_gets_one_problem_of_its_own_status(server):
    for method, path, body, status in WRONG:
        what = f"{method} {path[:60]} {str(body)[:60]}"
        if " " in path:  # no client of good faith would send it
            answer = server.say(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            check_raw(answer, what, status)
            continue
        answer = server.request(method, path, body)
        assert answer.status == status, (what, answer)
        check_problem(status, answer.headers["content-type"], answer.body.decode("ascii"), what)
    assert server.get("/livez").status == 200 and "Traceback" not in server.log


def check_raw(answer, what, *statuses):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.count(b"HTTP/1.1") == 1 and b"HTTP/1.1" not in body, (what, answer)
    status = int(head.split()[1])
    assert status in statuses, (what, answer)
    kind = head.lower().partition(b"content-type: ")[2].partition(b"\r\n")[0]
    check_problem(status, kind.decode(), body.decode("ascii"), what)


@pytest.mark.parametrize("content", RAW, ids=lambda content: ascii(content[:40]))
def test_what_is_no_request_gets_one_problem_and_the_end(server, content):
    check_raw(server.say(content), content[:40], 400, 431)


def test_requests_damaged_at_random_get_an_answer_or_a_problem(server):
    good = (
        b'POST /v1/faces HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 22\r\n\r\n{"seeds": [1, 2, 345]}'
    )
    chance = random.Random(0)
    for _ in range(150):
        content = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        with server.connect() as connection:
            connection.sendall(bytes(content))
            connection.shutdown(socket.SHUT_WR)  # what was announced and does not come is no reason to wait
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert not answer or answer.startswith(b"HTTP/1.1 "), bytes(content)
        if answer and not answer.startswith(b"HTTP/1.1 200"):
            check_raw(answer, bytes(content), 400, 404, 405, 413, 415, 422, 431)
    assert server.get("/livez").status == 200 and "Traceback" not in server.log


def test_a_body_without_end_is_refused_after_a_bounded_number_of_bytes(server):
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    head = b"POST /v1/faces HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    trailers = head + b"2\r\n{}\r\n0\r\n" + b"x: y\r\n" * 20000
    with server.connect() as connection:
        connection.sendall(head)
        with pytest.raises(ConnectionError):
            for _ in range(4000):  # 256 MB, more than sockets hold
                connection.sendall(chunk)
    check_raw(server.say(head + chunk * 5), "five chunks", 413)
    assert b"HTTP/1.1 4" in server.say(trailers)
    announced = b"POST /v1/faces HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n"
    check_raw(server.say(announced), "announced", 413)


@pytest.mark.parametrize("framing", ["content-length: 31", "transfer-encoding: chunked"])
def test_a_body_behind_an_upgrade_is_no_request_of_its_own(server, framing):
    head = f"POST /v1/faces HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n{framing}\r\n\r\n"
    answer = server.say(head.encode() + b"GET / HTTP/1.1\r\nhost: x\r\n\r\n\r\n")
    check_raw(answer, framing, 400)
    assert b"Upgrade" in answer and answer.count(b"HTTP/1.1 ") == 1


def test_an_upgrade_without_a_body_is_answered_in_http_1_1(server):
    answer = server.say(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_packed_body_is_refused_unread(server):
    answer = server.request("POST", "/v1/faces", b"\x1f\x8b", {"content-encoding": "gzip"})
    assert answer.status == 415


# ---- time and numbers of connections, with a clock that the test moves ----------------------------------------------


def with_protocol(scenario, application=None, **limits):
    """Run scenario(open_connection, protocols) against a Protocol in front of a small application."""

    async def echo(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main():
        config = uvicorn.Config(application or echo, ws="none", lifespan="off", log_config=None)
        config.load()
        state = uvicorn.Server(config).server_state
        make = functools.partial(Protocol, config=config, server_state=state, app_state={}, limits=Limits(**limits))
        listener = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        try:
            await asyncio.wait_for(scenario(lambda: asyncio.open_connection("127.0.0.1", port), state.connections), 30)
        finally:
            for connection in list(state.connections):
                connection.transport.abort()
            listener.close()

    asyncio.run(main())


def sweep(protocols, later):
    now = asyncio.get_running_loop().time() + later
    for protocol in list(protocols):
        protocol.sweep(now)


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nhost:", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc"]
)
def test_who_does_not_finish_a_request_in_time_is_told_so_and_closed(sent):
    async def scenario(connect, protocols):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" if b"host" in sent else b"")
        if b"host" in sent:
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(sent)
        await asyncio.sleep(0.05)
        sweep(protocols, 9)
        assert len(protocols) == 1 and not next(iter(protocols)).transport.is_closing()
        sweep(protocols, 11)
        answer = await reader.read()
        if sent:
            check_raw(answer, sent, 408)
        else:
            assert answer == b""  # who never asked is told nothing
        writer.close()

    with_protocol(scenario, goodbye_seconds=0.01)


async def endless(scope, receive, send):
    """An application that answers with 64 MiB."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (64 << 20))]})
    for _ in range(1024):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})


async def ask_and_let_it_wait(connect, protocols):
    """A connection whose answer fills all buffers on its way: its reader and writer."""
    reader, writer = await connect()
    while not protocols:
        await asyncio.sleep(0.01)
    # small, so that the server soon sees what was taken: by itself the kernel holds megabytes
    next(iter(protocols)).transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await until_full(protocols)
    return reader, writer


async def until_full(protocols):
    sent = 0
    while sent == 0 or sent != next(iter(protocols)).joined.written:
        sent = next(iter(protocols)).joined.written
        await asyncio.sleep(0.05)


def test_who_does_not_take_an_answer_is_cut_off():
    async def scenario(connect, protocols):
        _, writer = await ask_and_let_it_wait(connect, protocols)
        sweep(protocols, 0)
        sweep(protocols, 59)
        await asyncio.sleep(0)
        assert protocols
        sweep(protocols, 61)
        while protocols:
            await asyncio.sleep(0.01)
        writer.close()

    with_protocol(scenario, endless)


@pytest.mark.parametrize(("bytes_a_minute", "is_cut_off"), [(1 << 20, False), (16, True)])
def test_who_takes_an_answer_slowly_gets_all_of_it_but_not_who_takes_next_to_nothing(bytes_a_minute, is_cut_off):
    async def scenario(connect, protocols):
        reader, writer = await ask_and_let_it_wait(connect, protocols)
        for minute in range(5):
            sweep(protocols, 61 * minute)
            await asyncio.sleep(0)
            if not protocols:
                break
            await reader.readexactly(bytes_a_minute)
            await until_full(protocols)  # what it took makes room for more
        assert (not protocols) == is_cut_off
        writer.close()

    with_protocol(scenario, endless)


def test_an_empty_line_behind_a_request_does_not_end_its_answer():
    async def scenario(connect, protocols):
        reader, writer = await ask_and_let_it_wait(connect, protocols)
        writer.write(b"\r\n")
        await asyncio.sleep(0.05)
        sweep(protocols, 11)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(32 << 20)
        writer.close()

    with_protocol(scenario, endless)


def test_beyond_the_connections_one_more_is_told_and_closed():
    async def scenario(connect, protocols):
        held = [await connect() for _ in range(3)]
        reader, writer = await connect()
        check_raw(await reader.read(), "one more", 503)
        held[0][1].write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await held[0][0].readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        for _, each in (*held, (reader, writer)):
            each.close()

    with_protocol(scenario, max_connections=3, goodbye_seconds=0.01)


def test_pipelining_without_end_is_refused():
    async def scenario(connect, protocols):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2000)
        answers = await reader.read()
        assert b"HTTP/1.1 429" in answers and answers.count(b"HTTP/1.1") < 200
        writer.close()

    with_protocol(scenario, goodbye_seconds=0.01)
