"""A training run from its config to its folder: data, model, callbacks, and going on where a run stopped.

`train` is what `tools/train.py` calls. The layout of a run folder is `RunFolder`.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import logging
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import paddle
from filelock import FileLock, Timeout

from deploy.latents import key

from . import checkpoint, dashboard
from .callbacks import (
    CheckpointSaver,
    History,
    LossPlot,
    NoProgressBar,
    ParamsSaver,
    ProgressLine,
    QualityMeter,
    Recorder,
    ReportWriter,
    SampleGrid,
    SignalStop,
    StopAt,
    Watchdog,
    last_healthy,
    spread_of,
)
from .config import TrainConfig, differences
from .data.loader import BatchLoader, batches_per_epoch
from .data.packed import PackedData, is_packed, open_packed
from .data.prepare import cached_packed, fit_picture
from .data.sources import open_source
from .distributed import ALONE, World
from .errors import CheckpointError, CollapseError, TrainingError
from .files import PathLike, atomic_write, write_json
from .images import grid, write_png
from .model import DCGAN
from .networks import network_sizes, parameter_count
from .records import run_folders

log = logging.getLogger(__name__)

MAX_ROLLBACKS = 3  # a recipe that collapses so often will collapse again


class Result(NamedTuple):
    """How a run ended: its folder, iterations done, and the number of the signal that ended it (None: by itself)."""

    folder: Path
    global_step: int
    signal: int | None


class RunFolder:
    """The files of one run. Holding its lock means owning it; the lock dies with the process that holds it."""

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self.samples, self.checkpoints = self.path / "samples", self.path / "checkpoints"
        self.metrics, self.loss_plot = self.path / "metrics.jsonl", self.path / "loss.png"
        self.params, self.real = self.path / "generator.params", self.path / "real.png"
        self.config = self.path / "config.json"
        self.lock = FileLock(str(self.path / ".lock"))

    @classmethod
    def create(cls, root: PathLike, data_name: str) -> RunFolder:
        """A new folder `00000-<data>` under `root`, its number one more than the largest there."""
        root = Path(root)
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "--out must be a folder, this is a file", str(root))
        root.mkdir(parents=True, exist_ok=True)
        label = re.sub(r"[^\w.-]+", "-", data_name).strip("-.") or "data"
        while True:
            number = 1 + max((int(path.name[:5]) for path in run_folders(root)), default=-1)
            try:
                (root / f"{number:05d}-{label}").mkdir()
            except FileExistsError:  # another process was faster
                continue
            return cls(root / f"{number:05d}-{label}")

    def own(self) -> RunFolder:
        """Take the lock and clear away what a killed process left. Raises TrainingError if the run has an owner."""
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise TrainingError(f"{self.path} is being trained by another process; wait for it or stop it") from None
        self.samples.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        checkpoint.remove_leftovers(self.checkpoints)
        for part in (*self.path.glob(".*.part"), *self.samples.glob(".*.part")):
            part.unlink()
        return self


def train(
    config: TrainConfig,
    resume: checkpoint.Checkpoint | None = None,
    argv: list[str] | None = None,
    world: World = ALONE,
) -> Result:
    """Train as `config` says and return how it ended; everything it made is in the run folder.

    Args: resume - a checkpoint to go on from (see `find_checkpoint`).  argv - the command, for the record.
          world - the processes that call this together. They need the same config and see the same pictures; `resume`
          matters in the writer alone, which sends the others what it holds.
    Raises ValueError for settings or data that do not fit, DataError, CheckpointError, TrainingError, OSError. A signal
    does not raise: the run is saved and the result names it.
    """
    config.validate()
    if config.visualdl:
        dashboard.check_installed()
    data = world.by_turns(lambda: packed_data(config))
    loader = BatchLoader(
        data.images,
        config.batch_size * config.d_steps,
        config.seed,
        config.flip,
        rank=world.rank,
        processes=world.size,
    )
    model = DCGAN(config, world)
    if world.size > 1:
        log.info(
            "%d processes with batches of %d: %d pictures per discriminator step",
            world.size,
            config.batch_size,
            world.size * config.batch_size,
        )
        world.check_equal({"the checksum of the training pictures": np.frombuffer(data.digest.encode(), np.uint8)})
    state = world.share(_restore(model, resume, config, data) if resume else {})
    model.follow_writer()
    model.last_step = last_step = final_step(config, len(loader), model)
    folder = _shared_folder(config, resume, world)
    try:
        if model.global_step >= last_step:
            done = model.global_step
            log.info(
                "Nothing left to do: %d iterations are done of %d. More with --epochs or --steps.", done, last_step
            )
            return Result(folder.path, model.global_step, None)
        if world.is_writer:
            _set_aside_damaged(folder, model.global_step)
            _write_records(folder, config, data, argv)
        log.info("Run folder: %s", folder.path)
        loader.seed = model.seed  # not the config's, if the run has gone back after a collapse
        stopper = _train_to_the_end(_Session(model, loader, folder, config, data, last_step), state)
        return Result(folder.path, model.global_step, stopper.received)
    finally:
        folder.lock.release()


class _Session(NamedTuple):
    """What one call of `train` works with."""

    model: DCGAN
    loader: BatchLoader
    folder: RunFolder
    config: TrainConfig
    data: PackedData
    last_step: int


def _train_to_the_end(session: _Session, state: dict[str, Any]) -> SignalStop:
    """Fit; where the run collapses and `on_collapse` is rollback, go back and on with fresh randomness.

    `state` is what the checkpoint that was loaded says beyond the model (see `_fit`), empty at the start of a run.
    """
    model, loader, folder, config, *_ = session
    world = model.world
    while True:
        try:
            return _fit(session, state)
        except CollapseError as error:
            healthy = last_healthy(checkpoint.list_checkpoints(folder.checkpoints))
            healthy = world.share(healthy and str(healthy))
            rollbacks = state.get("rollbacks", 0) + 1
            if config.on_collapse != "rollback" or healthy is None or rollbacks > MAX_ROLLBACKS:
                raise TrainingError(f"{error} {_last_good(folder)}") from None
            log.warning("%s Going back to %s, attempt %d of %d.", error, healthy, rollbacks, MAX_ROLLBACKS)
            state = world.share(_go_back(model, Path(healthy)) if world.is_writer else None)
            state["rollbacks"] = rollbacks
            model.follow_writer()
            model.seed = loader.seed = key(config.seed, rollbacks)
        except TrainingError as error:
            raise TrainingError(f"{error} {_last_good(folder)}") from None
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise TrainingError(f"training stopped: {error.strerror}{where}. {_last_good(folder)}") from error


def _go_back(model: DCGAN, healthy: Path) -> dict[str, Any]:
    """Delete the checkpoints after `healthy`, load that, and return what it says beyond the model."""
    for path in checkpoint.list_checkpoints(healthy.parent):
        if path.name > healthy.name:
            checkpoint.remove_checkpoint(path)
    return model.load(healthy)


def _fit(session: _Session, state: dict[str, Any]) -> SignalStop:
    """Train with everything that watches it. The order of the callbacks matters: measure, record, plot, save."""
    model, loader, folder, config, data, last_step = session
    world = model.world
    history = History(folder.metrics, model.global_step) if world.is_writer else None
    records = history.records if history else []
    watchdog = Watchdog(spread_of(data.images), records, config.on_collapse, world)
    samples = SampleGrid(config.sample_every, last_step, folder.samples, data.images, state.get("spread"))
    meter = QualityMeter(config.evaluate_every, data, state)
    measures: dict[str, Callable[[], Any]] = {"spread": lambda: samples.spread, "meter": lambda: meter.protocol}
    measures.update({name: functools.partial(meter.figures.get, name) for name in meter.FIGURES})

    def extra() -> dict[str, Any]:
        return {
            "config": config.to_json(),
            "data": _identity(data),
            "state": records[-1]["state"] if records else "OK",
            "rollbacks": state.get("rollbacks", 0),
            "processes": world.size,
            **{name: measure() for name, measure in measures.items()},
        }

    stopper = SignalStop(world)
    epochs = model.epoch + math.ceil((model.epoch_step + last_step - model.global_step) / len(loader))
    shown = [history, ProgressLine(epochs, last_step)] if history else []
    reporter = ReportWriter(config.sample_every, folder.path, records)
    written = [LossPlot(config.sample_every, records, folder.loss_plot), ParamsSaver(folder.params), reporter]
    if config.visualdl and world.is_writer:
        board = dashboard.Dashboard(config.sample_every, last_step, folder.path)
        shown.append(board.scalars)
        written.append(board)
    callbacks = [
        NoProgressBar(),
        stopper,
        samples,
        meter,
        Recorder(config.log_every, last_step, [watchdog, *shown, watchdog.act], measures),
        CheckpointSaver(config.checkpoint_every, folder.checkpoints, config.keep, extra),
        *(written if world.is_writer else []),
        StopAt(last_step),
    ]
    try:
        model.fit(loader, epochs=epochs - model.epoch, verbose=0, callbacks=callbacks)
    except TrainingError:
        if world.is_writer:
            reporter.write()  # on_train_end was not reached, and the report says what went wrong
        raise
    finally:
        stopper.restore()
    return stopper


def packed_data(config: TrainConfig) -> PackedData:
    """The training pictures, packed now or found packed under work/data."""
    log.info("Data: %s", config.data or "cartoon")
    packed = cached_packed(
        config.data or "cartoon",
        image_size=config.image_size,
        crop=config.crop,
        workers=config.workers,
    )
    log.info("%d pictures of %d x %d pixels", len(packed), config.image_size, config.image_size)
    return packed


def count_pictures(config: TrainConfig) -> int:
    """How many pictures the data holds, without decoding or writing any: those that cannot be used are not left out."""
    data = config.data or "cartoon"
    if is_packed(data):
        return len(open_packed(data))
    with open_source(data) as source:
        return len(source)


def final_step(config: TrainConfig, epoch_length: int, model: DCGAN | None = None) -> int:
    """The iteration after which the run ends: `steps` if that is set, or the whole epochs, counted from where `model`
    is (its earlier ones may have had another length, see `_keep_place`)."""
    if config.steps or model is None:
        return config.steps or config.epochs * epoch_length
    return model.global_step + (config.epochs - model.epoch) * epoch_length - model.epoch_step


def find_checkpoint(path: PathLike) -> checkpoint.Checkpoint:
    """The checkpoint that `--resume PATH` means: that folder, or the newest whole one of that run or of the newest run.

    Args: path - a checkpoint folder, a run folder, or a folder of numbered runs. Raises CheckpointError.
    """
    path = Path(path)
    if (path / checkpoint.STATE_FILE).is_file():
        return checkpoint.read_checkpoint(path)
    if (path / "checkpoints").is_dir():
        return checkpoint.read_newest(path / "checkpoints")
    for run in reversed(run_folders(path)):
        if checkpoint.list_checkpoints(run / "checkpoints"):
            return checkpoint.read_newest(run / "checkpoints")
        log.warning("%s has saved no checkpoint; looking at the run before it", run)
    raise CheckpointError(
        f"no checkpoint found at {path.absolute()}: expected a checkpoint folder, the folder of a run that has saved "
        "one, or a folder of such runs"
    )


# What a run older than a setting was trained with, where today's default is something else.
_BEFORE = {"diffaugment": "", "init": "normal"}


def saved_config(found: checkpoint.Checkpoint) -> TrainConfig:
    """The config that a checkpoint was trained with, `out` being where its run lies, or the default.

    Raises CheckpointError when it holds none, or one of networks of another size than its own tensors: a stranger's
    small file could otherwise ask for gigabytes.
    """
    try:
        config = TrainConfig.from_mapping({**_BEFORE, **found.state["extra"]["config"]}).validate()
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{found.folder} holds no usable config: {error}") from None
    sizes = network_sizes(found.groups.get("generator", {}))
    if sizes != (config.latent_dim, config.base_channels, config.image_size):
        raise CheckpointError(f"{found.folder} has a config of other networks than its tensors: they are {sizes}")
    run = found.folder.parent.parent
    return dataclasses.replace(config, out=str(run.parent) if (run / "config.json").is_file() else TrainConfig.out)


def describe(config: TrainConfig, picture_count: int, processes: int = 1) -> str:
    """What a run with this config would be, as JSON: settings, parameter counts, iterations. Builds the networks.

    Raises ValueError for what `train` would refuse without looking at the pictures.
    """
    fit_picture(np.zeros([2, 2, 3], np.uint8), config.image_size, config.crop)
    total_batch = config.batch_size * processes
    per_epoch = batches_per_epoch(picture_count, total_batch * config.d_steps)
    model = DCGAN(config)
    facts = {
        "config": config.to_json(),
        "parameters": {
            "generator": parameter_count(model.generator),
            "discriminator": parameter_count(model.discriminator),
        },
        "pictures": picture_count,
        "processes": processes,
        "total_batch_size": total_batch,
        "iterations": final_step(config, per_epoch),
        "device": paddle.get_device(),
    }
    return json.dumps(facts, indent=2, ensure_ascii=False)


def _restore(model: DCGAN, found: checkpoint.Checkpoint, config: TrainConfig, data: PackedData) -> dict[str, Any]:
    """Load the checkpoint if it belongs to this config and data. Raises CheckpointError listing what differs."""
    saved = saved_config(found)
    extra = found.state["extra"]  # a dict: it holds the config
    processes = extra.get("processes", 1)
    if type(processes) is not int or not 1 <= processes <= 10**6:
        raise CheckpointError(f"{found.folder} was trained by a number of processes that is none: {processes!r:.100}")
    problems = differences(saved, config)
    if processes != model.world.size:  # then the same batch in all may be another in each
        problems = [problem for problem in problems if not problem.startswith("batch_size: ")]
    for name in ("spread", "rollbacks", *QualityMeter.FIGURES):
        if type(extra.get(name)) not in (int, float, type(None)):
            raise CheckpointError(f"{found.folder} holds a {name} that is no number: {extra[name]!r:.100}")
    if extra.get("data") != _identity(data) and saved.data == config.data:
        problems.append(f"data: the pictures of {config.data} are not those that it was trained on")
    if problems:
        raise CheckpointError(
            f"{found.folder} was trained with other settings and cannot be continued: {'; '.join(problems)}. "
            "Start a new run, or leave these settings as they were."
        )
    state = model.load(found)
    log.info("Continuing %s from step %d", found.folder.parent.parent, model.global_step)
    if processes != model.world.size:
        _keep_place(model, processes * saved.batch_size, model.world.size * config.batch_size, len(data.images))
        log.info(
            "It was trained by %d processes, %d pictures per discriminator step; now by %d, %d pictures. "
            "The rest of the run is not what it would have been.",
            processes,
            processes * saved.batch_size,
            model.world.size,
            model.world.size * config.batch_size,
        )
    return state


def _keep_place(model: DCGAN, batch_before: int, batch_now: int, picture_count: int) -> None:
    """Stand at the same picture of the epoch, or up to a batch before it, in iterations of another size.

    Args: batch_before, batch_now - pictures per discriminator step of all processes together.
    """
    seen = model.epoch_step * batch_before // batch_now
    per_epoch = batches_per_epoch(picture_count, batch_now * model.d_steps)
    model.epoch, model.epoch_step = (model.epoch + 1, 0) if seen >= per_epoch else (model.epoch, seen)


def _folder_for(config: TrainConfig, found: checkpoint.Checkpoint | None) -> RunFolder:
    """A new folder, or the checkpoint's own run if nothing newer was saved in it: nothing is ever overwritten."""
    if found is None:
        return RunFolder.create(config.out, Path(config.data).stem)
    run = found.folder.parent.parent
    newer = [path for path in checkpoint.list_checkpoints(found.folder.parent) if path.name > found.folder.name]
    if (run / "config.json").is_file() and not any(map(_is_whole, newer)):
        return RunFolder(run)
    folder = RunFolder.create(config.out, Path(config.data).stem)
    log.info("%s has newer checkpoints, which stay: going on in a new run folder", run)
    return folder


def _shared_folder(config: TrainConfig, found: checkpoint.Checkpoint | None, world: World) -> RunFolder:
    """The run's folder, owned by the writer; the others only know where it is."""
    folder = _folder_for(config, found).own() if world.is_writer else None
    path = world.share(folder and str(folder.path))
    return folder or RunFolder(path)


def _set_aside_damaged(folder: RunFolder, step: int) -> None:
    """Rename what is left of checkpoints after `step`: none of them is whole, and new ones will need their names."""
    for path in checkpoint.list_checkpoints(folder.checkpoints):
        if path.name > checkpoint.folder_name(step):
            aside = path.with_name(f"damaged-{path.name}")
            log.warning("Setting aside the damaged checkpoint %s as %s", path, aside.name)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def _is_whole(folder: Path) -> bool:
    try:
        checkpoint.read_checkpoint(folder)
    except CheckpointError:
        return False
    return True


def _write_records(folder: RunFolder, config: TrainConfig, data: PackedData, argv: list[str] | None) -> None:
    """config.json, command.txt (a line more for each start) and real.png."""
    write_json(folder.config, config.to_json())
    command = folder.path / "command.txt"
    before = command.read_text("utf-8") if command.exists() else ""
    with atomic_write(command, "w") as stream:
        stream.write(before + " ".join(argv or ["(library)"]) + "  # " + _versions() + "\n")
    if not folder.real.exists():
        write_png(folder.real, grid(np.asarray(data.images[:100])))


def _versions() -> str:
    found = {"python": sys.version.split()[0], "paddle": paddle.__version__, "numpy": np.__version__}
    found["opencv"] = cv2.__version__
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            found["commit"] = answer.stdout.strip()
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _identity(data: PackedData) -> dict[str, Any]:
    """What makes two packed files the same data for a resumed run."""
    return {"digest": data.digest, "count": len(data.images)}


def _last_good(folder: RunFolder) -> str:
    healthy = last_healthy(checkpoint.list_checkpoints(folder.checkpoints))
    return f"The last good checkpoint is {healthy}." if healthy else "No good checkpoint had been saved yet."


def with_default_data(config: TrainConfig) -> TrainConfig:
    """The config with `data` filled in when it is empty: CelebA if it lies in `work/`, else drawn faces."""
    if config.data:
        return config
    for candidate in (Path("work/img_align_celeba"), Path("work/img_align_celeba.zip")):
        if candidate.exists():
            return dataclasses.replace(config, data=str(candidate))
    return dataclasses.replace(config, data="cartoon")
