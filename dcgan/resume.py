"""Continue a run where it stopped: the settings of the checkpoint, what may differ, and the run folder to use."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

from .callbacks.quality import QualityCallback
from .checkpoints import checkpoint
from .config import TrainConfig, differences
from .data.loader import batches_per_epoch
from .data.packed import PackedData
from .distributed.process_group import ProcessGroup
from .errors import CheckpointError
from .metrics.names import with_current_names
from .model import DCGAN
from .networks.sizes import network_sizes
from .runs.folder import RunFolder

log = logging.getLogger(__name__)

# What a run older than a setting was trained with, where today's default is something else.
_BEFORE = {
    "diffaugment": "",
    "init": "normal",
    "energy_weight": 0.0,
    "texture_weight": 0.0,
    "translation_ratio": 0.125,
}


def saved_config(found: checkpoint.Checkpoint) -> TrainConfig:
    """The config that a checkpoint was trained with, `out` being where its run lies, or the default.

    Raises CheckpointError when it holds none, or one of networks of another size than its own tensors: an untrusted
    small file could otherwise ask for gigabytes.
    """
    try:
        config = TrainConfig.from_mapping({**_BEFORE, **found.state["extra"]["config"]}).validate()
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{found.folder} holds no usable config: {error}") from None
    sizes = network_sizes(found.groups.get("generator", {}))
    if sizes != (config.latent_dim, config.base_channels, config.image_size):
        raise CheckpointError(f"{found.folder} has a config of other networks than its tensors: they are {sizes}")
    run = _run_of(found)
    out = str(run.path.parent) if run else TrainConfig.out
    return dataclasses.replace(config, out=out, amp=_saved_precision(found, config.amp))


def _saved_precision(found: checkpoint.Checkpoint, amp: str) -> str:
    """The precision of a run that was saved with "auto", as it was until 2026-11-30: today "auto" may be another."""
    compute = found.state["extra"].get("compute")
    saved = compute.get("amp") if isinstance(compute, dict) else None
    return saved if amp == "auto" and saved in ("O0", "O1", "O2") else amp


def restore(model: DCGAN, found: checkpoint.Checkpoint, config: TrainConfig, data: PackedData) -> dict[str, Any]:
    """Load the checkpoint if it belongs to this config and data. Raises CheckpointError listing what differs."""
    saved = saved_config(found)
    extra = with_current_names(found.state["extra"])  # a dict: it holds the config
    processes = extra.get("processes", 1)
    if type(processes) is not int or not 1 <= processes <= 10**6:
        raise CheckpointError(f"{found.folder} has an invalid number of processes: {processes!r:.100}")
    problems = differences(saved, dataclasses.replace(config, data=saved.data))  # a name: below, the images decide
    if processes != model.process_group.size:  # then the same batch in all may be another in each
        problems = [problem for problem in problems if not problem.startswith("batch_size: ")]
    if type(extra.get("rollbacks", 0)) is not int:
        raise CheckpointError(
            f"{found.folder} has an invalid rollbacks: expected a number, got {extra['rollbacks']!r:.99}"
        )
    for name in ("sample_std", *QualityCallback.FIGURES):
        if type(extra.get(name)) not in (int, float, type(None)):
            raise CheckpointError(f"{found.folder} has an invalid {name}: expected a number, got {extra[name]!r:.99}")
    if extra.get("data") != data.identity:
        problems.append(
            f"data: the images of {config.data} are not those that it was trained on (files were added, changed or "
            "removed; or they are CMYK or of 16 bits, which versions before 2 of the packed format decoded otherwise)"
        )
    if problems:
        raise CheckpointError(
            f"{found.folder} was trained with other settings and cannot be continued: {'; '.join(problems)}. "
            "Start a new run, or leave these settings as they were."
        )
    state = with_current_names(model.load(found))
    log.info("Continuing %s from step %d", found.folder.parent.parent, model.global_step)
    if processes != model.process_group.size:
        _keep_place(model, processes * saved.batch_size, model.process_group.size * config.batch_size, len(data.images))
        log.info(
            "It was trained by %d processes, %d images per discriminator step; now by %d, %d images. "
            "The rest of the run is not what it would have been.",
            processes,
            processes * saved.batch_size,
            model.process_group.size,
            model.process_group.size * config.batch_size,
        )
    return state


def place_of(found: checkpoint.Checkpoint) -> Path:
    """What names the run that a checkpoint goes on with: its folder, or the checkpoint that lies in none."""
    run = _run_of(found)
    return run.path if run else found.folder


def _run_of(found: checkpoint.Checkpoint) -> RunFolder | None:
    """The run that a checkpoint lies in, None for one that lies in none."""
    run = RunFolder(found.folder.parent.parent)
    return run if run.config.is_file() else None


def _keep_place(model: DCGAN, batch_before: int, batch_now: int, image_count: int) -> None:
    """Stand at the same image of the epoch, or up to a batch before it, in iterations of another size.

    Args: batch_before, batch_now - images per discriminator step of all processes together.
    """
    seen = model.epoch_step * batch_before // batch_now
    per_epoch = batches_per_epoch(image_count, batch_now * model.d_steps)
    model.epoch, model.epoch_step = (model.epoch + 1, 0) if seen >= per_epoch else (model.epoch, seen)


def _folder_for(config: TrainConfig, found: checkpoint.Checkpoint | None) -> RunFolder:
    """A new folder, or the checkpoint's own run if nothing newer was saved in it: nothing is ever overwritten.
    Either is locked."""
    if found is None:
        return RunFolder.create(config.out, Path(config.data).stem).own()
    run, reason = _run_of(found), f"{found.folder} is not in a run folder with a config.json"
    if run:
        run.own()  # before the look for newer checkpoints: whoever trains it saves them
        step = found.state["global_step"]
        newer = [path for path in checkpoint.list_checkpoints(found.folder.parent) if checkpoint.step_of(path) > step]
        if not any(map(_is_whole, newer)):
            return run
        run.lock.release()
        reason = f"{run.path} has newer checkpoints, which are kept"
    folder = RunFolder.create(config.out, Path(config.data).stem).own()
    log.info("%s: continuing in a new run folder", reason)
    return folder


def shared_folder(config: TrainConfig, found: checkpoint.Checkpoint | None, process_group: ProcessGroup) -> RunFolder:
    """The run's folder, owned by rank 0; the others only know where it is."""
    folder = _folder_for(config, found) if process_group.is_rank_zero else None
    path = process_group.broadcast(folder and str(folder.path))
    return folder or RunFolder(path)


def set_aside_damaged(folder: RunFolder, step: int) -> None:
    """Rename what is left of checkpoints after `step`: none of them is whole, and new ones will need their names."""
    for path in checkpoint.list_checkpoints(folder.checkpoints):
        if checkpoint.step_of(path) > step:
            set_aside(path, "damaged")


def set_aside(path: Path, why: str) -> None:
    """Rename a checkpoint folder whose name a new one will need, to `why`-step-00000100, and say so."""
    number, aside = 1, path.with_name(f"{why}-{path.name}")
    while os.path.lexists(aside):  # of an earlier time
        number += 1
        aside = path.with_name(f"{why}-{path.name}-{number}")
    log.warning("Setting aside the %s checkpoint %s as %s", why, path, aside.name)
    path.rename(aside)


def _is_whole(folder: Path) -> bool:
    try:
        checkpoint.read_checkpoint(folder)
    except CheckpointError:
        return False
    return True
