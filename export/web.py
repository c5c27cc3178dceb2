"""The playground: a folder of files with which a browser generates faces of the exported model, offline.

The page itself is deploy/web (HTML, CSS and JavaScript as they are, and onnxruntime-web packed); here they are
unpacked, checked, joined with a model and, if wanted, folded into one HTML file that opens with a double-click.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

from dcgan.errors import ExportError
from deploy import playground
from deploy.files import PathLike, atomic_write

SINGLE_FILE = "playground.html"
_RUNTIME = "ort.wasm.bundle.min.js"
_IMPORT = re.compile(r'(from )"\./([\w.-]+)"')


def write_page(folder: PathLike) -> list[str]:
    """Write page, runtime and licences into `folder`; return the names of the files.

    Raises ModelError when the packed runtime is not what deploy/web/runtime/runtime.json says.
    """
    files = playground.static_files()
    for name, content in files.items():
        with atomic_write(Path(folder) / name) as stream:
            stream.write(content)
    return list(files)


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
        if Path(name).suffix not in playground.SUFFIXES and name != "reference.npz":
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
