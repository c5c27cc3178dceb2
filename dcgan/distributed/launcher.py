"""What a launcher says in the environment about the processes of a run, whichever launcher it was.

`paddle.distributed.launch` sets all variables that are read here. With `--backend` it hands over to an older launcher,
which leaves out PADDLE_LOCAL_RANK and PADDLE_LOCAL_SIZE; older clusters set PADDLE_TRAINER_ENDPOINTS and little more.
Needs no Paddle.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import ProjectError

BACKENDS = ("auto", "gloo", "nccl")
_ADVICE = "Start the processes with: python -m paddle.distributed.launch"


class Launch(NamedTuple):
    """One process among those of its run: `rank` of `size`, `local_rank` of `local_size` on its machine.

    `endpoints` has one "host:port" for each process, by rank; `backend` is one of BACKENDS.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    endpoints: tuple[str, ...] = ()
    backend: str = "auto"

    @property
    def run_id(self) -> str:
        """The same word in all processes of this run, another one in those of other runs."""
        return hashlib.sha256(",".join(self.endpoints).encode()).hexdigest()[:32]


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read what the launcher says; one process if there was none. Raises ProjectError for what makes no sense."""
    endpoints = tuple(part.strip() for part in environment.get("PADDLE_TRAINER_ENDPOINTS", "").split(",") if part)
    size = _number(environment, ("PADDLE_TRAINERS_NUM",), len(endpoints) or 1, 1)
    if size == 1:
        return Launch()
    if len(endpoints) != size or not all(_is_endpoint(endpoint) for endpoint in endpoints):
        raise ProjectError(
            f"PADDLE_TRAINER_ENDPOINTS must name host:port of {size} processes, received {','.join(endpoints)!r}. "
            f"{_ADVICE}"
        )
    backend = environment.get("PADDLE_DISTRI_BACKEND") or "auto"
    if backend not in BACKENDS:
        raise ProjectError(f"--backend {backend} is not supported: expected gloo (CPUs) or nccl (NVIDIA GPUs)")
    current = environment.get("PADDLE_CURRENT_ENDPOINT")
    if "PADDLE_TRAINER_ID" not in environment and current not in endpoints:
        raise ProjectError(
            f"neither PADDLE_TRAINER_ID nor PADDLE_CURRENT_ENDPOINT says which process this is. {_ADVICE}"
        )
    rank = _number(
        environment, ("PADDLE_TRAINER_ID",), endpoints.index(current) if current in endpoints else 0, 0, size
    )
    hosts = [endpoint.rsplit(":", 1)[0] for endpoint in endpoints]
    neighbours = [other for other in range(size) if hosts[other] == hosts[rank]]
    local_size = _number(environment, ("PADDLE_LOCAL_SIZE",), len(neighbours), 1)
    names = ("PADDLE_LOCAL_RANK", "PADDLE_RANK_IN_NODE")
    local_rank = _number(environment, names, neighbours.index(rank), 0, local_size)
    return Launch(rank, size, local_rank, local_size, endpoints, backend)


def _is_endpoint(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def _number(
    environment: Mapping[str, str], names: tuple[str, ...], default: int, least: int, end: int | None = None
) -> int:
    """The first of these variables that is set, as a number of at least `least` and below `end`."""
    name = next((name for name in names if environment.get(name)), None)
    if name is None:
        return default
    text = environment[name]
    if not text.isdecimal() or int(text) < least or (end is not None and int(text) >= end):
        upper = "" if end is None else f" and at most {end - 1}"
        raise ProjectError(f"{name} must be a whole number, at least {least}{upper}, received {text!r}. {_ADVICE}")
    return int(text)
