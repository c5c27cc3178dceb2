"""The playground's files: the page of `deploy/web`, and onnxruntime-web, which lies packed beside it.

`export/web.py` writes them beside a model, `serving/app.py` serves them with the model it serves. Only the standard
library is needed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

from deploy.manifest import Manifest, ModelError, describe_content, read_verified, to_json

PAGE = Path(__file__).resolve().parent / "web"
INDEX, MANIFEST, MODEL, DIRECTIONS = "index.html", "manifest.json", "generator.onnx", "directions.json"
SUFFIXES = (".html", ".css", ".js")


def page_files() -> dict[str, bytes]:
    """The page's own HTML, CSS and JavaScript by name."""
    return {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.suffix in SUFFIXES}


def runtime_version() -> str:
    """The version of onnxruntime-web that the page brings."""
    return _runtime_facts(PAGE / "runtime")["version"]


def runtime_files(folder: Path = PAGE / "runtime") -> dict[str, bytes]:
    """onnxruntime-web and its licences by name, unpacked. Raises ModelError for a file that is missing or changed."""
    contents = {}
    for name, facts in _runtime_facts(folder)["files"].items():
        path = folder / facts["packed"]
        try:
            contents[name] = lzma.decompress(path.read_bytes())
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise ModelError(f"{path} cannot be unpacked ({error}). Restore it from the repository.") from error
        digest = hashlib.sha256(contents[name]).hexdigest()
        if digest != facts["sha256"]:
            raise ModelError(
                f"{path} unpacks to SHA-256 {digest[:12]}..., expected {facts['sha256'][:12]}.... "
                "Restore it from the repository."
            )
    return contents


def model_files(folder: Path, manifest: Manifest) -> dict[str, bytes] | None:
    """What a browser needs of the export in `folder`, by the names that the page asks for; None without an ONNX model.

    An export that was made before the directions were part of it gets none. Raises ModelError for a damaged file.
    """
    model = manifest.find("generator", "onnx")
    if model is None:
        return None
    none = json.dumps({"directions": [], "share": []}).encode()
    is_known = DIRECTIONS in manifest.files
    files = {
        MODEL: read_verified(folder, manifest, model.files[0]),
        DIRECTIONS: read_verified(folder, manifest, DIRECTIONS) if is_known else none,
    }
    described = {**static_description(), **describe_content(files)}
    content = to_json(manifest)
    content["models"] = [{"network": "generator", "kind": "onnx", "precision": model.precision, "files": [MODEL]}]
    content["files"] = {name: entry._asdict() for name, entry in described.items()}
    return {**files, MANIFEST: json.dumps(content, ensure_ascii=False).encode()}


@functools.cache
def static_files() -> dict[str, bytes]:
    """Everything but the model. Unpacking takes half a second and is done once."""
    return {**page_files(), **runtime_files()}


@functools.cache
def static_description() -> dict[str, Any]:
    """The `files` of a manifest for `static_files`."""
    return describe_content(static_files())


def _runtime_facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runtime.json").read_text("utf-8"))
