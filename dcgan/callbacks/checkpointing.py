"""When checkpoints and `generator.params` are written, and which checkpoints are kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.files import PathLike

from ..checkpoints.checkpoint import (
    folder_name,
    holds_nothing_else,
    list_checkpoints,
    read_state,
    remove_checkpoint,
    step_of,
)
from ..checkpoints.params import write_params
from ..errors import CheckpointError
from ..metrics.names import with_current_names
from ..training.state import network_arrays
from .periodic import PeriodicSaver

log = logging.getLogger(__name__)


class ParamsSaver(PeriodicSaver):
    """The tutorial's `generator.params` every `every` iterations and at the end: the generator used for images.

    After a CheckpointSaver of the same interval, the BatchNorm statistics that it holds are there already: they cost as
    much as a few iterations, which an epoch of few images has not many more of.
    """

    def __init__(self, every: int, path: PathLike):
        super().__init__(every)
        self._path = Path(path)

    def save(self) -> None:
        write_params(self._path, network_arrays(self.model.inference_generator()))


class CheckpointSaver(PeriodicSaver):
    """A checkpoint every `every` iterations and at the end.

    Kept are the newest `keep`, the newest whose run was healthy, and the best by the run's own measure (the smallest
    `swd` in its `extra`, of those measured as the newest was). Several processes first make sure together that
    they hold the same numbers; then one writes. A folder that is no checkpoint of ours, or holds other files too, is
    neither counted nor deleted.
    """

    def __init__(self, every: int, folder: PathLike, keep: int, extra: Callable[[], Mapping[str, Any]]):
        super().__init__(every)
        if keep < 1:
            raise ValueError(f"keep must be at least 1 checkpoint, received {keep}")
        self._folder, self._keep, self._extra = Path(folder), keep, extra
        self._saved_step = -1
        self._left_alone: set[Path] = set()

    def on_train_begin(self, logs: dict | None = None) -> None:
        step, there = self.model.global_step, list_checkpoints(self._folder)
        if (self._folder / folder_name(step)).is_dir():  # the one that was just loaded
            self._saved_step = step
        later = {path for path in there if step_of(path) > step}
        if later:
            log.warning("%s holds checkpoints after step %d: they are neither counted nor deleted", self._folder, step)
            self._left_alone |= later
        now, extras = self._extra().get("protocol"), map(_extra_of, there)
        others = {str(extra.get("protocol")) for extra in extras if extra.get("swd") and extra.get("protocol") != now}
        if others:
            log.warning(
                "Earlier checkpoints, measured by %s, are not compared with new ones: %s", ", ".join(others), now
            )

    def save(self) -> None:
        """Write a checkpoint of this moment, unless it is there, then delete those that are not to be kept."""
        model = self.model
        is_due = model.process_group.broadcast(self._saved_step != model.global_step)  # rank 0 knows what was there
        if is_due:
            model.check_replicas()
        if not model.process_group.is_rank_zero:
            return
        if is_due:
            path = self._folder / folder_name(model.global_step)
            model.save(path, extra=self._extra())
            self._saved_step = model.global_step
            self._left_alone.discard(path)
        saved = self._own_checkpoints()
        kept = {*saved[-self._keep :], last_healthy(saved), best(saved)}
        for path in saved:
            if path not in kept:
                remove_checkpoint(path)

    def _own_checkpoints(self) -> list[Path]:
        """All checkpoints that --keep is about; the other folders of such a name are each named once."""
        found = list_checkpoints(self._folder)
        own = [path for path in found if path not in self._left_alone and holds_nothing_else(path)]
        for path in set(found) - set(own) - self._left_alone:
            log.warning("%s is left alone: it is no whole checkpoint, or holds other files too", path)
            self._left_alone.add(path)
        return own


def last_healthy(checkpoints: Sequence[Path]) -> Path | None:
    """The newest checkpoint that was saved while the watchdog's state was OK."""
    return next((path for path in reversed(checkpoints) if _extra_of(path).get("state") == "OK"), None)


def best(checkpoints: Sequence[Path]) -> Path | None:
    """The checkpoint with the smallest `swd` to the training images; the earlier of two equals.

    Only those count whose own images were measured, by the same protocol as those of the newest of them. One that was
    saved between two measurements holds the figures of the earlier.
    """
    extras = [(extra, path) for path in checkpoints if _is_measured(extra := _extra_of(path), step_of(path))]
    alike = [(extra["swd"], path) for extra, path in extras if extra.get("protocol") == extras[-1][0].get("protocol")]
    return min(alike)[1] if alike else None


def _is_measured(extra: dict[str, Any], step: int) -> bool:
    """Whether a checkpoint holds figures of its own; older ones do not say of which step theirs are."""
    return type(extra.get("swd")) in (int, float) and extra.get("measured_step", step) == step


def _extra_of(checkpoint: Path) -> dict[str, Any]:
    try:
        extra = read_state(checkpoint).get("extra")
    except (CheckpointError, OSError):
        return {}
    return with_current_names(extra) if isinstance(extra, dict) else {}
