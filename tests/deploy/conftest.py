"""A tiny export folder whose images numpy can compute: one transposed convolution and a tanh."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import socket
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import deploy
from deploy import images
from deploy.manifest import Manifest, ModelEntry, describe_files, read_manifest, write_manifest
from deploy.runtimes import load_generator
from deploy.seeds import bits, latents

LATENT_DIM, SIZE = 8, 16


class TinyExport:
    """`folder` with manifest.json, generator.onnx, discriminator.onnx and reference.npz; `weights` of the generator."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)
        random = bits(np.arange(LATENT_DIM), 3 * SIZE * SIZE).astype(np.float64) / 2**32 - 0.5
        self.weights = random.reshape(LATENT_DIM, 3, SIZE, SIZE).astype(np.float32)
        (folder / "generator.onnx").write_bytes(generator_bytes(self.weights))
        (folder / "discriminator.onnx").write_bytes(discriminator_bytes())
        images = self.expected(range(10)).astype(np.float32)
        np.savez(folder / "reference.npz", seeds=np.arange(10, dtype=np.uint32), images=images)
        models = (
            ModelEntry("generator", "onnx", ("generator.onnx",), opset=17, ir_version=8),
            ModelEntry("discriminator", "onnx", ("discriminator.onnx",), opset=17, ir_version=8),
        )
        self.write(models=models, parity={"reference": self.reference(images)})

    @staticmethod
    def reference(images: np.ndarray) -> dict:
        levels = np.rint((images + 1) * 127.5).astype(np.uint8)
        digest = hashlib.sha256(levels.tobytes()).hexdigest()
        return {"file": "reference.npz", "seeds": list(range(10)), "sha256_uint8": digest}

    def write(self, models=None, **changes) -> None:
        """Write the manifest again for the files as they are now."""
        old = read_manifest(self.folder).__dict__ if (self.folder / "manifest.json").exists() else {}
        models = models or old["models"]
        names = [name for model in models for name in model.files] + ["reference.npz"]
        fields = {"latent_dim": LATENT_DIM, "image_size": SIZE, **old, **changes}
        fields.update(models=models, files=describe_files(self.folder, names))
        write_manifest(self.folder, Manifest(**fields))

    def replace_generator(self, content: bytes) -> None:
        """Another generator.onnx, with a manifest that vouches for it."""
        (self.folder / "generator.onnx").write_bytes(content)
        self.write()

    def expected(self, seeds) -> np.ndarray:
        """The images in float64, without any runtime: a 1x1 input of a transposed convolution scales its kernel."""
        z = latents(list(seeds), LATENT_DIM).astype(np.float64)
        return np.tanh(np.einsum("ni,ichw->nchw", z, self.weights.astype(np.float64)))

    def expected_levels(self, seed: int) -> np.ndarray:
        return np.rint((self.expected([seed])[0] + 1) * 127.5).astype(np.uint8)

    def score(self, seeds) -> np.ndarray:
        logits = self.expected(seeds).mean(axis=(1, 2, 3)) * 5
        return 1 / (1 + np.exp(-logits))


def generator_bytes(weights, name="z", out="image", batch="batch", tail=(3, SIZE, SIZE), external=False) -> bytes:
    nodes = [
        helper.make_node("Unsqueeze", [name, "axes"], ["x"]),
        helper.make_node("ConvTranspose", ["x", "w"], ["y"]),
        helper.make_node("Tanh", ["y"], [out]),
    ]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([2, 3]), "axes")]
    if external:
        constants[0].ClearField("raw_data")
        constants[0].data_location = TensorProto.EXTERNAL
        for key, value in (("location", "secret.bin"), ("length", str(weights.nbytes))):
            entry = constants[0].external_data.add()
            entry.key, entry.value = key, value
    return _model(nodes, constants, (name, [batch, weights.shape[0]]), (out, [batch, *tail]))


def discriminator_bytes() -> bytes:
    """logit = 5 x mean of the image."""
    weights = np.full((1, 3, SIZE, SIZE), 5 / (3 * SIZE * SIZE), np.float32)
    nodes = [helper.make_node("Conv", ["image", "w"], ["x"]), helper.make_node("Squeeze", ["x", "axes"], ["logit"])]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([2, 3]), "axes")]
    return _model(nodes, constants, ("image", ["batch", 3, SIZE, SIZE]), ("logit", ["batch", 1]))


def _model(nodes, constants, source, target) -> bytes:
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (source, target)]
    graph = helper.make_graph(nodes, "tiny", *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model) if not constants[0].external_data else None
    return model.SerializeToString()


@pytest.fixture
def export(tmp_path) -> TinyExport:
    return TinyExport(tmp_path / "export")


@pytest.fixture
def make_generator():
    """`generator_bytes`: an ONNX generator with chosen names and shapes."""
    return generator_bytes


# ---- a server -------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """Of one HTTP request; header names are lower case."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class RunningServer:
    """A process of deploy/serve.py on a free port of 127.0.0.1, and ways to speak to it."""

    def __init__(self, process):
        self.process = process
        process.wait_for(" is ready after ", 60)
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+) is ready", self.log)[1])

    @property
    def log(self) -> str:
        return Path(self.process.log).read_text()

    def request(self, method, path, body=None, headers=None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path, **headers) -> Answer:
        return self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path, value) -> Answer:
        return self.request("POST", path, json.dumps(value), {"content-type": "application/json"})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def say(self, content: bytes) -> bytes:
        """Send bytes on a connection of their own; returns all that comes back until the server closes it."""
        with self.connect() as connection:
            connection.sendall(content)
            parts = []
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(65536):
                    parts.append(part)
            return b"".join(parts)


@pytest.fixture(scope="session")
def start_server(start_process, tmp_path_factory):
    """start_server(folder, *flags): a RunningServer of the export in `folder`."""
    here = tmp_path_factory.mktemp("server")

    def start(folder, *flags):
        script = Path(deploy.__file__).with_name("serve.py")
        words = [script, "--model", folder, "--port", 0, *flags]
        return RunningServer(start_process([str(word) for word in words], here, PYTHONUNBUFFERED="1"))

    return start


@pytest.fixture(scope="session")
def face_table(served_export):
    """seed -> the content of its .png file, for seeds 0 to 199, without the server."""
    generator = load_generator(served_export.folder, "onnxruntime")
    return {
        seed: images.encode(images.to_uint8(generator.generate([seed]))[0], ".png", f"seed {seed}, model {name}")
        for name in [generator.model_id]
        for seed in range(200)
    }


@pytest.fixture(scope="session")
def served_export(tmp_path_factory) -> TinyExport:
    """What `server` serves. Leave it as it is."""
    return TinyExport(tmp_path_factory.mktemp("served") / "export")


@pytest.fixture(scope="session")
def server(start_server, served_export) -> RunningServer:
    """One server for all tests that leave it running."""
    return start_server(served_export.folder)
