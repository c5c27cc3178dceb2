"""How a tool is called where this package lies: as a script of the checkout, or as an installed command."""

from __future__ import annotations

from pathlib import Path

_CHECKOUT = (Path(__file__).resolve().parents[1] / "pyproject.toml").is_file()


def command(tool: str) -> str:
    """`python tools/train.py` in a checkout, `dcgan-train` where pip installed it; "infer" is deploy/infer.py."""
    if not _CHECKOUT:
        return f"dcgan-{tool}"
    return "python deploy/infer.py" if tool == "infer" else f"python tools/{tool}.py"
