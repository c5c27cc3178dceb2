"""`index.html` in a folder of runs: a card for each run with its newest sample grid and figures, and a link."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deploy.files import PathLike

from .find_checkpoint import run_folders
from .report import REPORT_FILE, collect, refuse_foreign_page, write_page, write_report

GALLERY_FILE = "index.html"
MAX_RUNS = 60  # the newest; each brings an image of about 50 KB

_PAGE = Path(__file__).with_name("gallery.html")
_FIGURES = ("state", "step", "images_per_second", "swd", "sample_std", "ms_ssim")


def write_gallery(root: PathLike) -> Path:
    """Write the page of all runs under `root`, newest first, atomically, and return its path.

    A run without a report gets one, so that every link leads somewhere. Raises FileExistsError if an `index.html` is
    there and no page of ours.
    """
    path = Path(root) / GALLERY_FILE
    refuse_foreign_page(path)
    folders = run_folders(root)[: -MAX_RUNS - 1 : -1]
    for folder in folders:
        if not (folder / REPORT_FILE).is_file():
            write_report(folder)
    write_page(path, [_card(folder) for folder in folders], _PAGE)
    return path


def _card(folder: Path) -> dict[str, Any]:
    """What the page shows of one run, as JSON values."""
    run = collect(folder, max_frames=2)
    return {
        "name": run["name"],
        "report": f"{quote(os.fsencode(folder.name))}/{REPORT_FILE}",
        "image": run["frames"][-1]["source"] if run["frames"] else None,
        "trained_seconds": run["trained_seconds"],
        "settings": [
            [setting["name"], setting["value"]]
            for setting in run["config"] or []
            if setting["value"] != setting["default"] and setting["name"] != "out"
        ],
        **{name: run["latest"].get(name) for name in _FIGURES},
    }
