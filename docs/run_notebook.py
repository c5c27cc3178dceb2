#!/usr/bin/env python3
"""Run notebooks/dcgan_faces.ipynb from its first cell to its last and keep its outputs in it."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploy.files import atomic_write
from tools.console import add_log_level, run, start_logging

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "dcgan_faces.ipynb"
HOURS = 3600


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--notebook", type=Path, default=NOTEBOOK, help="file that is run and replaced")
    add_log_level(flags)
    return flags


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    start_logging(arguments.log_level)
    notebook = nbformat.read(arguments.notebook, as_version=4)
    place = {"metadata": {"path": str(arguments.notebook.parent)}}
    NotebookClient(notebook, timeout=2 * HOURS, resources=place, record_timing=False, coalesce_streams=True).execute()
    notebook.metadata["outputs_of"] = code_digest(notebook)
    with atomic_write(arguments.notebook, "w") as stream:
        stream.write(nbformat.writes(notebook) + "\n")
    print(f"{arguments.notebook}: {arguments.notebook.stat().st_size // 1000} KB")
    return 0


def code_digest(notebook: Any) -> str:
    """SHA-256 of the code of a notebook: says whether its outputs are those of its code."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


if __name__ == "__main__":
    run(main)
