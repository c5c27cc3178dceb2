"""Images a second over HTTP: deploy/serve.py, the same model behind other servers, and the ceiling of all of them.

The ceiling is the runtime at batch 32 and the encoding of its images in threads beside it, without any server. Servers,
load generator and ceiling share the same cores, in turn within each round; only ratios within a round are compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from deploy import images
from deploy.runtimes import Runtime, load_generator
from tools.benchmarks import serve_load

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = (1, 8, 64, 512)
RATES = (0.5, 0.8, 2.0)  # of the images a second at 64 clients, for the open loop
OPEN_CLIENTS = 256  # connections of an open loop
BATCH = 32
SEEDS = 2000  # that are asked for, each with a known answer
OURS = "deploy/serve.py"
PEERS = {"lock": ("FastAPI, one lock", "serve_one_lock.py"), "litserve": ("LitServe", "serve_litserve.py")}

LEGEND = [
    "of ceiling: the median over the rounds of the ratio within one; wrong: not the bytes that the runtime makes alone",
    "an open loop counts latency from when a request was due, whether or not the server was ready for it",
]
Say = Callable[[str], object]


class Served(NamedTuple):
    """A running server."""

    name: str
    port: int
    is_post: bool


def measure(folder: Path, scratch: Path, threads: int, against: list[str], rounds: int, seconds: float, say: Say):
    """A table of loads: rows of name, clients, rate and the medians over the rounds."""
    table = write_table(folder, scratch / "table.pickle")
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    skipped: dict[str, str] = {}
    ceilings = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(start_ours(folder, scratch, threads))]
        for key in against:
            try:
                servers.append(stack.enter_context(start_peer(key, folder, scratch, threads)))
            except RuntimeError as error:
                skipped[PEERS[key][0]] = str(error)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            ceilings.append(ceiling(folder, threads, seconds))
            for server in servers if number % 2 == 0 else servers[::-1]:
                for clients in CLIENTS:
                    report = load(server, table, "--clients", clients, "--seconds", seconds)
                    report["of_ceiling"] = report["images_per_second"] / ceilings[-1]
                    found.setdefault((server.name, f"{clients} clients"), []).append(report)
            capacity = found[OURS, "64 clients"][-1]["images_per_second"]
            for share in RATES:
                rate = share * capacity
                report = load(servers[0], table, "--clients", OPEN_CLIENTS, "--rate", rate, "--seconds", seconds)
                report["of_ceiling"] = report["images_per_second"] / ceilings[-1]
                found.setdefault((OURS, f"open loop, {share:g} x capacity"), []).append(report)
    rows = [{"name": name, "load": what, **_medians(reports)} for (name, what), reports in found.items()]
    title = f"images over HTTP, {seconds:g} s a load, {threads} threads"
    return {"title": title, "loads": rows, "ceiling": statistics.median(ceilings), "skipped": skipped}


def overload(folder: Path, scratch: Path, threads: int, seconds: float, say: Say, rate: float = 0.0) -> dict[str, Any]:
    """Twice the capacity for a long time: memory and handles at ten moments, and what clients saw."""
    table = write_table(folder, scratch / "table.pickle")
    with start_ours(folder, scratch, threads) as server:
        before = load(server, table, "--clients", 64, "--seconds", 10)
        rate = rate or 2 * before["images_per_second"]
        say(f"{rate:,.0f} requests a second for {seconds:g} s")
        command = _load_command(server, table, "--clients", OPEN_CLIENTS, "--rate", rate, "--seconds", seconds)
        samples = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(10):
                time.sleep(seconds / 10)
                samples.append(_resources(server.port))
            report = json.loads(process.communicate()[0])
        after = load(server, table, "--clients", 64, "--seconds", 10)
    return {
        "title": f"{rate:,.0f} requests a second for {seconds:g} s",
        "overload": report,
        "before": before,
        "after": after,
    } | {"samples": samples}


def answers(folder: Path, scratch: Path, threads: int, count: int) -> dict[str, Any]:
    """So many answers, 64 clients, each compared with what the runtime makes of its seed alone."""
    table = write_table(folder, scratch / "table.pickle")
    with start_ours(folder, scratch, threads) as server:
        report = load(server, table, "--clients", 64, "--count", count, "--warm-up", 0)
    return {"title": f"{count:,} answers compared", "answers": report}


# ---- servers and load -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def start_ours(folder: Path, scratch: Path, threads: int, *flags: str) -> Iterator[Served]:
    """deploy/serve.py with its defaults."""
    command = ["deploy/serve.py", "--model", folder.resolve(), "--threads", threads, *flags]
    with _process(command, scratch / "serve.log") as (process, port):
        yield Served(OURS, _wait(process, port, f"/faces/{0}.png", scratch / "serve.log"), False)


@contextlib.contextmanager
def start_peer(key: str, folder: Path, scratch: Path, threads: int) -> Iterator[Served]:
    """Another server. Raises RuntimeError with the reason if it does not run here."""
    name, script = PEERS[key]
    log = scratch / f"{script}.log"
    command = [f"tools/benchmarks/{script}", "--model", folder.resolve(), "--threads", threads]
    with _process(command, log) as (process, port):
        path = "/health" if key == "litserve" else "/faces/0.png"
        yield Served(name, _wait(process, port, path, log), key == "litserve")


@contextlib.contextmanager
def _process(command: list[Any], log: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, *map(str, command), "--port", str(port)]
    with open(log, "w") as stream:
        process = subprocess.Popen(words, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True)
    try:
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):  # the group: LitServe's workers are its children
            os.killpg(process.pid, 15)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _wait(process: subprocess.Popen, port: int, path: str, log: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).read()
            return port
        time.sleep(0.1)
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    raise RuntimeError(lines[-1] if lines else "it did not answer within 60 s")


def load(server: Served, table: Path, *flags: Any) -> dict[str, Any]:
    """What the load generator reports."""
    done = subprocess.run(_load_command(server, table, *flags), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def _load_command(server: Served, table: Path, *flags: Any) -> list[str]:
    script = [sys.executable, serve_load.__file__, "--port", server.port, "--table", table]
    return [str(word) for word in (*script, *flags, *(["--post"] if server.is_post else []))]


def _resources(port: int) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    names = {"memory_bytes": "process_resident_memory_bytes", "handles": "process_open_fds"}
    return {key: float(re.search(rf"^{name} (\S+)$", text, re.M)[1]) for key, name in names.items()}


# ---- without a server -----------------------------------------------------------------------------------------------


def write_table(folder: Path, path: Path) -> Path:
    """What each seed's answer must be, made by the runtime alone, one image a call."""
    if not path.is_file():
        generator = load_generator(folder, "onnxruntime")
        content = {seed: png(generator, seed, _levels(generator, [seed])[0]) for seed in range(SEEDS)}
        path.write_bytes(pickle.dumps(content))
    return path


def png(generator: Runtime, seed: int, levels: Any) -> bytes:
    """The content of `seed-000007.png`."""
    return images.encode(levels, ".png", f"seed {seed}, model {generator.model_id}")


def _levels(generator: Runtime, seeds: list[int]) -> Any:
    return images.to_uint8(generator.generate(seeds, BATCH))


_CEILING = "import sys; from tools.benchmarks.serve import run_ceiling; print(run_ceiling(*sys.argv[1:]))"


def ceiling(folder: Path, threads: int, seconds: float) -> float:
    """Images a second of `run_ceiling`, in a process of its own."""
    command = [sys.executable, "-c", _CEILING, str(folder.resolve()), str(threads), str(seconds)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def run_ceiling(folder: str, threads: str, seconds: str) -> float:
    """Batches of 32 one after the other, each encoded in threads while the next is computed."""
    generator = load_generator(folder, "onnxruntime", threads=int(threads))
    made, waiting = 0, []
    with ThreadPoolExecutor(max(2, int(threads))) as pool:
        for _ in range(3):
            generator.generate(range(BATCH), BATCH)
        start = time.perf_counter()
        while time.perf_counter() - start < float(seconds):
            seeds = [(made + i) % SEEDS for i in range(BATCH)]
            levels = _levels(generator, seeds)
            for i in range(0, BATCH, 8):
                waiting.append(pool.submit(_encode, generator, seeds[i : i + 8], levels[i : i + 8]))
            while len(waiting) > 16:
                waiting.pop(0).result()
            made += BATCH
        for future in waiting:
            future.result()
        return made / (time.perf_counter() - start)


def _encode(generator: Runtime, seeds: list[int], levels: Any) -> list[bytes]:
    return [png(generator, seed, image) for seed, image in zip(seeds, levels)]


# ---- text -----------------------------------------------------------------------------------------------------------


def _medians(reports: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("images_per_second", "of_ceiling", "p50_ms", "p99_ms", "refused_p50_ms"):
        values = [report[key] for report in reports if report[key] is not None]
        found[key] = statistics.median(values) if values else None
    for key in ("right", "wrong", "lost", "refused", "unsent"):
        found[key] = sum(report[key] for report in reports)
    return found


def text(table: dict[str, Any]) -> list[str]:
    """The lines of a table of this module."""
    if "answers" in table:
        its = table["answers"]
        return [f"{its['right']:,} right, {its['wrong']} wrong, {its['lost']} lost, {its['refused']} refused"]
    if "overload" in table:
        return _overload_lines(table)
    width = max(len(row["name"]) for row in table["loads"]) + 2
    lines = [f"the runtime at batch {BATCH} and encoding, without a server: {table['ceiling']:,.0f} images/s"]
    lines.append(
        f"{'':{width}}{'':26}{'images/s':>9}{'of ceiling':>11}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'refused':>9}{'its p50':>9}{'wrong':>7}{'lost':>6}"
    )
    for row in table["loads"]:
        lines.append(
            f"{row['name']:{width}}{row['load']:26}{row['images_per_second']:9,.0f}{row['of_ceiling']:11.2f}"
            f"{_ms(row['p50_ms'])}{_ms(row['p99_ms'])}{row['refused']:9,}{_ms(row['refused_p50_ms'])}"
            f"{row['wrong']:7}{row['lost']:6}"
        )
    return lines + [f"{name}: left out, {reason}" for name, reason in table["skipped"].items()]


def _overload_lines(table: dict[str, Any]) -> list[str]:
    its, before, samples = table["overload"], table["before"], table["samples"]
    memory = [f"{sample['memory_bytes'] / 1e6:,.0f}" for sample in samples]
    return [
        f"accepted: {its['right']:,} right, {its['wrong']} wrong, {its['lost']} lost, "
        f"p99 {_ms(its['p99_ms']).strip()} ms; of 64 clients before {_ms(before['p99_ms']).strip()} ms, "
        f"after {_ms(table['after']['p99_ms']).strip()} ms",
        f"refused: {its['refused']:,}, half of them within {_ms(its['refused_p50_ms']).strip()} ms; "
        f"{its['unsent']:,} never sent, because all {OPEN_CLIENTS} connections waited",
        f"memory, MB: {' '.join(memory)}; handles: {' '.join(str(int(sample['handles'])) for sample in samples)}",
    ]


def _ms(value: float | None) -> str:
    return f"{'-':>9}" if value is None else f"{value:9.1f}"
