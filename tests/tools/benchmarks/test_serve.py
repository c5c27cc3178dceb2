"""The load generator against small servers of which everything is known."""

from __future__ import annotations

import asyncio

import pytest

from tools.benchmarks import serve
from tools.benchmarks.serve_load import Load, run

TABLE = {seed: b"image of %d" % seed for seed in range(50)}


def answer(status: bytes, body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), headers, body)


def load_of(respond, clients=4, rate=0.0, closes_after_first=False, **how):
    """What `run` reports of a server that writes respond(number, seed), an awaitable of bytes or None for a reset.

    `closes_after_first`: with its first answer it closes all connections that it has.
    """
    settings = {"warm_up": 0.0, "seconds": 1.0, "count": 0, "is_post": False, **how}

    async def main():
        numbers = iter(range(10**9))

        writers = []

        async def serve_client(reader, writer):
            writers.append(writer)
            while request := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                seed, number = int(request.split(b"/faces/")[1].split(b".")[0]), next(numbers)
                content = await respond(number, seed)
                if content is None:
                    writer.transport.abort()
                    return
                writer.write(content[:20])  # in two pieces, as a network may have it
                await writer.drain()
                writer.write(content[20:])
                if closes_after_first and number == 0:
                    for each in writers:
                        each.close()
            writer.close()

        server = await asyncio.start_server(serve_client, "127.0.0.1", 0)
        async with server:
            return await run(server.sockets[0].getsockname()[1], Load(TABLE, **settings), clients, rate)

    return asyncio.run(main())


def test_every_answer_is_compared_and_every_kind_counted():
    async def respond(number, seed):
        if number < 40:
            return answer(b"200 OK", TABLE[seed])
        if number < 50:
            return answer(b"200 OK", TABLE[seed] + b"!")
        if number < 55:
            return answer(b"429 Too Many Requests", b"{}", b"Retry-After: 0\r\n")
        return answer(b"500 Internal Server Error", b"{}") if number < 58 else None

    report = load_of(respond, clients=2, count=60)
    assert (report["right"], report["wrong"], report["refused"], report["lost"]) == (40, 10, 5, 5)
    assert report["p99_ms"] is not None and report["refused_p50_ms"] is not None


def test_an_open_loop_counts_what_was_due_while_the_server_stood_still():
    async def respond(number, seed):
        if number == 0:
            await asyncio.sleep(0.5)
        return answer(b"200 OK", TABLE[seed])

    opened = load_of(respond, clients=1, seconds=0.6, rate=100.0)
    # a closed loop would have seen one slow answer of all; here three of four requests were due while it stood still
    assert opened["right"] + opened["unsent"] == 60 and opened["p50_ms"] > 50


def test_idle_connections_that_the_server_closes_are_opened_again():
    async def respond(number, seed):
        return answer(b"200 OK", TABLE[seed])

    report = load_of(respond, clients=5, seconds=1.0, rate=2.0, closes_after_first=True)
    assert (report["right"], report["lost"], report["unsent"]) == (2, 0, 0)


def test_the_tables_say_what_was_found():
    row = {"images_per_second": 500.0, "of_ceiling": 0.9, "p50_ms": 1.5, "p99_ms": 9.25, "refused_p50_ms": None}
    row.update(right=1500, wrong=0, lost=0, refused=0, unsent=0)
    table = {"loads": [{"name": serve.OURS, "load": "8 clients", **serve._medians([row, row])}], "ceiling": 555.0}
    shown = "\n".join(serve.text({**table, "skipped": {"LitServe": "litserve is not installed"}}))
    for part in ("555 images/s", "8 clients", "0.90", "9.2", "LitServe: left out, litserve is not installed"):
        assert part in shown


@pytest.mark.parametrize("script", ["serve_one_lock.py", "serve_load.py"])
def test_the_scripts_say_how_they_are_used(script):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, str(serve.ROOT / "tools/benchmarks" / script), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--port" in done.stdout
