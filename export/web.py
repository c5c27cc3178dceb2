"""The playground: a folder of files with which a browser generates faces of the exported model, offline.

The page itself is deploy/web (HTML, CSS and JavaScript as they are, and onnxruntime-web packed); here they are
unpacked, checked, joined with a model and, if wanted, folded into one HTML file that opens by double click.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import lzma
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import deploy
from dcgan.errors import ExportError
from deploy.files import PathLike, atomic_write, write_json

from .onnx_graph import read_arrays

PAGE = Path(deploy.__file__).parent / "web"
MODEL_FILE, DIRECTIONS_FILE, SINGLE_FILE = "generator.onnx", "directions.json", "playground.html"
DIRECTIONS = 8
_SUFFIXES = (".html", ".css", ".js")
_RUNTIME = "ort.wasm.bundle.min.js"
_IMPORT = re.compile(r'(from )"\./([\w.-]+)"')


def write_page(folder: PathLike, model: onnx.ModelProto) -> list[str]:
    """Write page, runtime, licences and the directions of `model` into `folder`; return the names of the files.

    Raises ExportError when the packed runtime is not what deploy/web/runtime/runtime.json says.
    """
    files = {**page_files(), **runtime_files()}
    for name, content in files.items():
        with atomic_write(Path(folder) / name) as stream:
            stream.write(content)
    write_json(Path(folder) / DIRECTIONS_FILE, principal_directions(model))
    return [*files, DIRECTIONS_FILE]


def page_files() -> dict[str, bytes]:
    """The page's own HTML, CSS and JavaScript by name."""
    return {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.suffix in _SUFFIXES}


def runtime_version() -> str:
    """The version of onnxruntime-web that the page brings."""
    return _runtime_facts()["version"]


def runtime_files(folder: Path = PAGE / "runtime") -> dict[str, bytes]:
    """onnxruntime-web and its licences by name, unpacked. Raises ExportError for a file that is missing or changed."""
    contents = {}
    for name, facts in _runtime_facts(folder)["files"].items():
        path = folder / facts["packed"]
        try:
            contents[name] = lzma.decompress(path.read_bytes())
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise ExportError(f"{path} cannot be unpacked ({error}). Restore it from the repository.") from error
        digest = hashlib.sha256(contents[name]).hexdigest()
        if digest != facts["sha256"]:
            raise ExportError(
                f"{path} unpacks to SHA-256 {digest[:12]}..., expected {facts['sha256'][:12]}.... "
                "Restore it from the repository."
            )
    return contents


def principal_directions(model: onnx.ModelProto, count: int = DIRECTIONS) -> dict[str, Any]:
    """The unit latents along which the first layer's output changes most, with their shares of its variance.

    The first layer is linear, A z + b, so these are the right singular vectors of A: the closed form of Shen & Zhou
    2021, "Closed-Form Factorization of Latent Semantics in GANs" (SeFa), sec. 3.2, and what the PCA of activations of
    Haerkoenen et al. 2020 (GANSpace) tends to for a normal z. Each sign is such that the largest number is positive.
    """
    arrays = read_arrays(model)
    weight = arrays["conv_1.weight"].astype(np.float64)  # [latent_dim, channels, 4, 4], BatchNorm folded in
    vectors, values, _ = np.linalg.svd(weight.reshape(len(weight), -1), full_matrices=False)
    vectors = vectors[:, :count].T
    signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)])
    share = values**2 / max(float((values**2).sum()), np.finfo(float).tiny)
    return {
        "method": "right singular vectors of the first layer (SeFa, Shen & Zhou 2021)",
        "share": [round(float(value), 6) for value in share[:count]],
        "directions": [[round(float(x), 8) for x in row] for row in vectors * signs[:, None]],
    }


def single_file(folder: PathLike, manifest: dict[str, Any]) -> bytes:
    """Everything in `folder` that the page reads, as one HTML file.

    Modules become an import map of data: URLs, other files gzip in base64 that the page unpacks; `manifest` is the
    JSON of the folder without this file. The worker has no import map: its one import is written into it.
    """
    folder = Path(folder)
    scripts = {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir()) if path.suffix == ".js"}
    runtime, worker = scripts.pop(_RUNTIME), scripts.pop("worker.js")
    known = {_RUNTIME: runtime, **scripts}
    worker = _IMPORT.sub(lambda match: f'{match[1]}"{_data_url(known[match[2]])}"', worker)
    imports = {
        f"playground/{name}": _data_url(_IMPORT.sub(r'\1"playground/\2"', text)) for name, text in scripts.items()
    }
    inlined = {"manifest.json": json.dumps(manifest, ensure_ascii=False).encode(), "worker.js": worker.encode()}
    for name in manifest["files"]:
        if Path(name).suffix not in _SUFFIXES and name != "reference.npz":
            inlined[name] = (folder / name).read_bytes()
    style = (folder / "style.css").read_text("utf-8")
    blocks = [f'<script type="importmap">{json.dumps({"imports": imports})}</script>']
    blocks += [
        f'<script type="application/gzip" data-file="{name}">{_base64(gzip.compress(content, 9, mtime=0))}</script>'
        for name, content in inlined.items()
    ]
    blocks.append('<script type="module">import "playground/main.js";</script>')
    page = (folder / "index.html").read_text("utf-8")
    page = _replaced(page, '<link rel="stylesheet" href="style.css">', f"<style>\n{style}</style>")
    return _replaced(page, '<script type="module" src="main.js"></script>', "\n".join(blocks)).encode()


def _replaced(page: str, old: str, new: str) -> str:
    if page.count(old) != 1:
        raise ExportError(f"index.html must hold {old} once. Restore deploy/web from the repository.")
    return page.replace(old, new)


def _data_url(script: str) -> str:
    return f"data:text/javascript;base64,{_base64(script.encode())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _runtime_facts(folder: Path = PAGE / "runtime") -> dict[str, Any]:
    return json.loads((folder / "runtime.json").read_text("utf-8"))
