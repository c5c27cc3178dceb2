"""The names of figures in records, checkpoints and reports, and what they were called in older ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RENAMED = {
    "spread": "sample_std",
    "distance": "swd",
    "similarity": "ms_ssim",
    "similarity_real": "ms_ssim_real",
    "meter": "protocol",
}


def with_current_names(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The same figures; those that carry an older name under today's."""
    return {_current(name): value for name, value in figures.items()}


def _current(name: str) -> str:
    if name.startswith("distance_"):  # one level of the pyramid: distance_64
        return name.replace("distance_", "swd_", 1)
    return _RENAMED.get(name, name)
