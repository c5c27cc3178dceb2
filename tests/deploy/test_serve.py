"""The face service as a client meets it: a real process on a free port, the same bytes as deploy/infer.py."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

import deploy
from deploy import serve
from deploy.infer import main as infer
from deploy.manifest import read_manifest, to_json
from deploy.seeds import latents
from deploy.serving import openapi
from deploy.serving import server as server_module

SCRIPT = Path(deploy.__file__).with_name("serve.py")


@pytest.fixture(scope="module")
def by_infer(served_export, tmp_path_factory):
    """by_infer(*flags): the folder in which deploy/infer.py put its files."""

    def run(*flags):
        out = tmp_path_factory.mktemp("infer")
        assert infer(["--model", str(served_export.folder), "--out", str(out), *map(str, flags)]) == 0
        return out

    return run


@pytest.fixture(scope="module")
def tag(server):
    return server.get("/readyz").json["model"]


# ---- images ---------------------------------------------------------------------------------------------------------


def test_a_face_is_the_file_that_infer_writes(server, by_infer):
    for suffix in ("png", "jpg"):
        folder = by_infer("--seeds", "7,4294967295", "--format", suffix, "--no-grid")
        for seed in (7, 4294967295):
            answer = server.get(f"/faces/{seed}.{suffix}")
            assert answer.status == 200 and answer.body == (folder / f"seed-{seed:06}.{suffix}").read_bytes()
    assert answer.headers["content-type"] == "image/jpeg"


def test_a_webp_is_lossless(server, served_export):
    answer = server.get("/faces/7.webp")
    decoded = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1)
    assert answer.headers["content-type"] == "image/webp"
    assert np.array_equal(decoded, served_export.expected_levels(7))


def test_a_face_is_the_same_under_load_beside_all_other_kinds_of_requests(server, face_table):
    def ask(number):
        chance = random.Random(number)
        if number % 10 == 0:
            seeds = chance.sample(range(200), 5)
            archive = zipfile.ZipFile(io.BytesIO(server.post("/v1/faces", {"seeds": seeds}).body))
            return [archive.read(f"seed-{seed:06}.png") == face_table[seed] for seed in seeds]
        if number % 10 == 1:
            z = latents(chance.sample(range(200), 3), 8).tolist()
            return [server.post("/v1/faces", {"latents": z, "format": "npz"}).status == 200]
        seed = chance.randrange(200)
        return [server.get(f"/faces/{seed}.png").body == face_table[seed]]

    with ThreadPoolExecutor(16) as clients:
        same = [each for found in clients.map(ask, range(200)) for each in found]
    assert len(same) == 160 + 20 + 20 * 5 and all(same)


def test_a_grid_and_a_walk_are_the_files_that_infer_writes(server, by_infer, served_export):
    folder = by_infer("--seeds", "3,10-19")
    assert server.get("/grid.png?seeds=3,10-19").body == (folder / "grid.png").read_bytes()
    assert server.get("/grid.png").status == 200
    out = by_infer() / "walk.gif"
    flags = ["--interpolate", "3,14,15", "--frames", "9", "--fps", "20", "--scale", "2", "--out", str(out)]
    assert infer(["--model", str(served_export.folder), *flags]) == 0
    assert server.get("/walk.gif?seeds=3,14,15&frames=9&fps=20").body == out.read_bytes()


def test_many_faces_as_zip_npz_and_json(server, face_table, served_export):
    answer = server.post("/v1/faces", {"seeds": "3,10-19"})
    archive = zipfile.ZipFile(io.BytesIO(answer.body))
    seeds = [3, *range(10, 20)]
    assert archive.namelist() == [f"seed-{seed:06}.png" for seed in seeds]
    assert [archive.read(name) for name in archive.namelist()] == [face_table[seed] for seed in seeds]
    assert server.post("/v1/faces", {"seeds": "3,10-19"}).body == answer.body

    arrays = np.load(io.BytesIO(server.post("/v1/faces", {"seeds": seeds, "format": "npz"}).body))
    assert arrays["seeds"].tolist() == seeds and arrays["seeds"].dtype == np.uint32
    assert np.array_equal(arrays["images"], [served_export.expected_levels(seed) for seed in seeds])

    value = server.post("/v1/faces", {"seeds": seeds, "format": "json"}).json
    assert [entry["seed"] for entry in value["images"]] == seeds
    assert [base64.b64decode(entry["png"]) for entry in value["images"]] == [face_table[seed] for seed in seeds]


def test_latents_make_the_image_of_their_seed(server, served_export):
    z = latents([7, 8], 8).tolist()
    arrays = np.load(io.BytesIO(server.post("/v1/faces", {"latents": z, "format": "npz"}).body))
    assert arrays.files == ["images"]
    assert np.array_equal(arrays["images"], [served_export.expected_levels(seed) for seed in (7, 8)])
    names = zipfile.ZipFile(io.BytesIO(server.post("/v1/faces", {"latents": z}).body)).namelist()
    assert names == ["latent-000000.png", "latent-000001.png"]


def test_scores_are_those_of_the_discriminator(server, served_export):
    value = server.post("/v1/score", {"seeds": "0-39"}).json
    assert [entry["seed"] for entry in value["scores"]] == list(range(40))
    assert np.allclose([entry["score"] for entry in value["scores"]], served_export.score(range(40)), atol=1e-5)


def test_caches_keep_what_names_its_model_and_ask_about_the_rest(server, tag):
    plain, named = server.get("/faces/7.png"), server.get(f"/faces/7.png?model={tag}")
    assert plain.body == named.body and plain.headers["etag"] == named.headers["etag"] == f'"{tag}-7.png"'
    assert plain.headers["cache-control"] == "public, no-cache"
    assert named.headers["cache-control"] == "public, max-age=31536000, immutable"
    for path in ("/faces/7.png", "/grid.png?seeds=0-3", "/walk.gif?frames=4"):
        known = server.get(path).headers["etag"]
        for sent in (known, f'"other", W/{known}', "*"):
            answer = server.get(path, if_none_match=sent)
            assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", known)
    assert server.get("/faces/8.png", if_none_match=plain.headers["etag"]).status == 200
    assert server.get("/faces/7.jpg", if_none_match=plain.headers["etag"]).status == 200
    assert server.get("/faces/7.png?model=0123456789abcdef").status == 404


# ---- about the server -----------------------------------------------------------------------------------------------


def test_the_server_says_what_it_serves_and_how_it_is(server, served_export, tag):
    value = server.get("/v1/model").json
    assert value.pop("serving") == {"model": tag, "backend": "onnxruntime", "device": "cpu", "scores": True}
    assert value == json.loads(json.dumps(to_json(read_manifest(served_export.folder))))
    assert server.get("/livez").json == {"status": "alive"}
    health = server.get("/health").json
    assert (health["errorCode"], health["errorMsg"], len(health["logId"])) == (0, "Healthy", 36)


def test_metrics_count_answers_batches_and_refusals(server):
    def read(name):
        return float(re.search(rf"^{re.escape(name)} (\S+)$", server.get("/metrics").body.decode(), re.M)[1])

    faces, images = read('serve_requests_total{endpoint="face",status="200"}'), read("serve_images_total")
    server.get("/faces/1.png")
    server.post("/v1/faces", {"seeds": "0-9"})
    assert read('serve_requests_total{endpoint="face",status="200"}') == faces + 1
    assert read("serve_images_total") == images + 11
    assert read("serve_queue_images") == 0 and read("serve_ready") == 1 and read("serve_refused_total") == 0
    assert read('serve_request_seconds_count{endpoint="face"}') > faces and read("serve_batch_images_count") >= 2


def test_the_schema_describes_every_route_and_the_pages_need_no_other_site(server):
    from deploy.serving.app import Service, State

    value = server.get("/openapi.json").json
    described = {re.sub(r"\{seed\}\.\w+", "{name}", path) for path in value["paths"]}
    routes = {route.path for route in Service(State(100))._router.routes}
    assert routes - described == {"/", "/docs", "/openapi.json", "/{name}"} and described <= routes
    answer = server.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert b"//" not in answer.body.replace(b"<!doctype", b"") and b"/v1/faces" in answer.body


def test_the_playground_of_the_served_model_is_at_the_root(server, served_export):
    page = server.get("/")
    assert page.headers["content-type"].startswith("text/html") and b'src="main.js"' in page.body
    assert server.get("/main.js").headers["content-type"].startswith("text/javascript")
    manifest = server.get("/manifest.json").json
    assert manifest["models"][0]["files"] == ["generator.onnx"]
    assert server.get("/generator.onnx").body == (served_export.folder / "generator.onnx").read_bytes()
    wasm = server.get("/ort-wasm-simd-threaded.wasm")
    assert wasm.headers["content-type"] == "application/wasm"
    for name, body in (("main.js", server.get("/main.js").body), ("ort-wasm-simd-threaded.wasm", wasm.body)):
        assert manifest["files"][name] == {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
    again = server.request("GET", "/ort-wasm-simd-threaded.wasm", headers={"if-none-match": wasm.headers["etag"]})
    assert again.status == 304 and again.body == b""


@pytest.mark.parametrize(
    "path", ["/reference.npz", "/../serve.py", "/%2e%2e/serve.py", "/..%2fserve.py", "/%00", "/web/"]
)
def test_nothing_but_the_playground_is_served_as_a_file(server, path):
    answer = server.get(path)
    assert answer.status in (400, 404) and answer.headers["content-type"] == "application/problem+json"


def test_an_export_that_no_browser_can_run_has_a_page_with_a_grid():
    assert b'<img src="/grid.png' in openapi.page(100, grid=True) and b"<img" not in openapi.page(100, grid=False)


def test_what_is_asked_for_by_default_fits_any_limits(start_server, served_export):
    few = start_server(served_export.folder, "--max-images", 10, "--max-queue", 10)
    assert few.get("/grid.png").status == 200 and few.get("/walk.gif").status == 200
    two = start_server(served_export.folder, "--max-images", 2, "--max-queue", 2)
    assert two.get("/grid.png").status == 200 and two.get("/walk.gif").status == 200
    many = start_server(served_export.folder, "--max-images", 5000, "--max-queue", 5000)
    answer = many.get("/walk.gif?frames=3000")  # OpenCV holds all frames of a .gif in memory
    assert answer.status == 422 and "2 .. 2000" in answer.json["detail"]


# ---- HTTP -----------------------------------------------------------------------------------------------------------


def test_head_http_1_0_pipelining_and_two_requests_of_one_connection(server, face_table):
    answer = server.request("HEAD", "/faces/7.png")
    assert answer.status == 200 and answer.body == b"" and int(answer.headers["content-length"]) == len(face_table[7])

    old = server.say(b"GET /faces/7.png HTTP/1.0\r\n\r\n")
    assert old.endswith(face_table[7]) and b"connection: close" in old

    wanted = random.Random(1).sample(range(200), 30)
    said = b"".join(b"GET /faces/%d.png HTTP/1.1\r\nhost: x\r\n\r\n" % seed for seed in wanted)
    last = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answers = server.say(said + last)
    assert answers.count(b"HTTP/1.1 200 OK") == 31
    for seed in wanted:  # in the order in which they were asked for
        head, found, answers = answers.partition(face_table[seed])
        assert found and head.count(b"HTTP/1.1 200 OK") == 1


def test_a_pipelined_body_that_comes_late_is_waited_for(server, face_table):
    body = b'{"seeds": "7"}'
    with server.connect() as connection:
        head = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nPOST /v1/faces HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body[:5])
        time.sleep(1)  # longer than a client gets whose request was answered before its end
        connection.sendall(body[5:])
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert said.count(b"HTTP/1.1 200 OK") == 2 and b"PK" in said


def test_a_client_that_leaves_frees_its_place(start_server, served_export):
    server = start_server(served_export.folder, "--max-queue", 100)
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(b"GET /walk.gif?seeds=1,2&frames=100&scale=4 HTTP/1.1\r\nhost: x\r\n\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close() resets
        deadline = time.monotonic() + 30
        while b"serve_queue_images 0.0" not in server.get("/metrics").body:
            assert time.monotonic() < deadline
    assert server.post("/v1/faces", {"seeds": "0-99"}).status == 200
    assert "Traceback" not in server.log and "ERROR" not in server.log


# ---- start, reload, stop --------------------------------------------------------------------------------------------


def start(*flags, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def check_failure(done, *parts) -> None:
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and all(part in done.stderr for part in parts), done.stderr


def test_what_cannot_be_served_ends_in_one_line(export, make_generator, tmp_path):
    check_failure(start("--port", 0, "--model", tmp_path / "none"), "does not exist")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check_failure(start("--port", port, "--model", export.folder), f"cannot listen on 127.0.0.1:{port}")
    export.replace_generator(make_generator(export.weights * 1.01))
    check_failure(start("--port", 0, "--model", export.folder), "differs by", "from its reference images")


def test_a_reload_swaps_to_a_good_export_and_refuses_a_bad_one(start_server, export, make_generator):
    server = start_server(export.folder)
    old = server.get("/faces/7.png")

    def reload(text):
        server.process.send_signal(signal.SIGHUP)
        server.process.wait_for(text, 30)

    whole = (export.folder / "generator.onnx").read_bytes()
    (export.folder / "generator.onnx").write_bytes(whole[:-1] + b"?")
    reload("reload refused, the model in use goes on: ")
    assert server.get("/faces/7.png") == old._replace(
        headers={**old.headers, "date": server.get("/livez").headers["date"]}
    )
    (export.folder / "generator.onnx").write_bytes(make_generator(export.weights))
    weights = -export.weights
    (export.folder / "generator.onnx").write_bytes(make_generator(weights))
    export.weights = weights
    expected = export.expected(range(10)).astype(np.float32)
    np.savez(export.folder / "reference.npz", seeds=np.arange(10, dtype=np.uint32), images=expected)
    export.write(parity={"reference": export.reference(expected)})
    reload("INFO: reloaded: model ")
    new = server.get("/faces/7.png", if_none_match=old.headers["etag"])
    assert new.status == 200 and new.headers["etag"] != old.headers["etag"]
    decoded = cv2.imdecode(np.frombuffer(new.body, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1)
    assert np.array_equal(decoded, export.expected_levels(7))
    log = server.log.splitlines()
    assert len(log) == 3, log


def test_sigterm_answers_what_was_accepted_and_ends_with_0(start_server, served_export, face_table):
    server = start_server(served_export.folder)
    body = json.dumps({"seeds": "0-99"}).encode()
    with server.connect() as half, server.connect() as idle:
        idle.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        said = b""
        while not said.endswith(b"}"):
            said += idle.recv(1000)
        half.sendall(
            b"POST /v1/faces HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        assert half.recv(1000).startswith(b"HTTP/1.1 100")  # it is accepted, and reads
        server.process.send_signal(signal.SIGTERM)
        server.process.wait_for("stopping", 30)
        idle.sendall(b"GET /faces/7.png HTTP/1.1\r\nhost: x\r\n\r\n")  # before it could know
        said = b"".join(iter(lambda: idle.recv(65536), b""))
        assert said.startswith(b"HTTP/1.1 200") and said.endswith(face_table[7])
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        half.sendall(body)
        answer = b"".join(iter(lambda: half.recv(65536), b""))
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and b"connection: close" in head
        assert zipfile.ZipFile(io.BytesIO(content)).read("seed-000007.png") == face_table[7]
    assert server.process.wait(30) == 0


def test_sigint_ends_with_130(start_server, served_export):
    server = start_server(served_export.folder)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 130 and "Traceback" not in server.log


# ---- flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-queue", "5", "--max-images", "10"], "--max-queue must be at least --max-images, received 5 and 10"),
        (["--port", "65536"], "0 .. 65535"),
        (["--max-batch", "0"], "1 .. 4096"),
    ],
)
def test_wrong_usage_is_refused(flags, said, capsys):
    with pytest.raises(SystemExit) as caught:
        serve.parse(flags)
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_flags_reach_the_server(monkeypatch, served_export):
    seen = []
    monkeypatch.setattr(server_module, "serve", lambda options, *_: seen.append(options) or 0)
    flags = "--max-batch 7 --max-wait-ms 250 --max-queue 40 --max-images 30 --max-connections 20 --threads 1".split()
    assert serve.main(["--port", "0", "--model", str(served_export.folder), *flags]) == 0
    (options,) = seen
    assert (options.max_batch, options.max_wait, options.max_queue, options.max_images) == (7, 0.25, 40, 30)
    assert (options.max_connections, options.threads, options.model) == (20, 1, served_export.folder)
