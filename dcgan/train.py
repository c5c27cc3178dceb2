"""A training run from its config to its folder: data, model, callbacks, and continuing a stopped run.

`train` is what `tools/train.py` calls. The layout of a run folder is `RunFolder`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import paddle

from deploy.files import atomic_write, write_json
from deploy.seeds import key
from deploy.untrusted import is_file, read_file

from .callbacks import visualdl
from .callbacks.checkpointing import CheckpointSaver, ParamsSaver, last_healthy
from .callbacks.metrics_log import History, Recorder
from .callbacks.plots import LossPlot, ReportWriter
from .callbacks.progress import ProgressLine
from .callbacks.quality import QualityCallback
from .callbacks.sample_grid import SampleGrid, next_sample_step, sample_std_of
from .callbacks.stopping import SignalStop, StopAt
from .callbacks.watchdog import Watchdog
from .checkpoints import checkpoint
from .compute_plan import ComputePlan, plan, speed_note
from .config import TrainConfig
from .data.loader import BatchLoader
from .data.packed import PackedData
from .data.prepare import cached_packed
from .distributed.process_group import SINGLE_PROCESS, ProcessGroup
from .errors import CollapseError, TrainingError
from .images import grid, write_png
from .metrics.names import with_current_names
from .model import DCGAN
from .resume import place_of, restore, set_aside, set_aside_damaged, shared_folder
from .runs.folder import RunFolder
from .runs.report import REPORT_FILE

log = logging.getLogger(__name__)

FEW_ITERATIONS = 1000  # below, not even an easy data set gives clear images
MAX_ROLLBACKS = 3  # a recipe that collapses so often will collapse again


class Result(NamedTuple):
    """How a run ended: its folder, iterations done, and the number of the signal that ended it (None: by itself)."""

    folder: Path
    global_step: int
    signal: int | None


def train(
    config: TrainConfig,
    resume: checkpoint.Checkpoint | None = None,
    argv: list[str] | None = None,
    process_group: ProcessGroup = SINGLE_PROCESS,
    on_first_grid: Callable[[Path], None] | None = None,
) -> Result:
    """Train as `config` says and return how it ended; everything it made is in the run folder.

    Args: resume - a checkpoint to continue from (see `find_checkpoint`).  argv - the command, for the record.
          process_group - the processes that call this together, with the same config and images; only rank 0 needs
          `resume`, and sends the others what it holds.  on_first_grid - called once by rank 0, with the path of the
          report, when the first grid of this session is written.
    Raises ValueError for settings or data that do not fit, DataError, CheckpointError, TrainingError, OSError. A signal
    does not raise: the run is saved and the result names it.
    """
    config.validate()
    if config.visualdl:
        visualdl.check_installed()
    data = process_group.rank_zero_first(lambda: packed_data(config))
    config, compute = _compute_plan(config, process_group)
    loader = BatchLoader(
        data.images,
        config.batch_size * config.d_steps,
        config.seed,
        config.flip,
        rank=process_group.rank,
        processes=process_group.size,
        as_uint8=not compute.is_cpu,  # on a CPU the loader's thread scales while the step computes
    )
    model = DCGAN(config, process_group, compute)
    if process_group.size > 1:
        log.info(
            "%d processes with batches of %d: %d images per discriminator step",
            process_group.size,
            config.batch_size,
            process_group.size * config.batch_size,
        )
        process_group.check_equal(
            {"the checksum of the training images": np.frombuffer(data.digest.encode(), np.uint8)}
        )
    state = process_group.broadcast(restore(model, resume, config, data) if resume else {})
    _warn_of_other_rounding(state.get("compute"), compute)
    model.sync_from_rank_zero()
    model.last_step = last_step = final_step(config, len(loader), model)
    if model.global_step >= last_step:  # of a resumed run
        done = model.global_step
        log.info("Nothing left to do: %d iterations are done of %d. More with --epochs or --steps.", done, last_step)
        return Result(Path(process_group.broadcast(resume and str(place_of(resume)))), done, None)
    folder = shared_folder(config, resume, process_group)
    if Path(config.out) != folder.path.parent:
        log.info("This run goes on in its own folder: --out %s is for new ones", config.out)
        config = dataclasses.replace(config, out=str(folder.path.parent))
    stopper = SignalStop(process_group)
    try:
        if process_group.is_rank_zero:
            set_aside_damaged(folder, model.global_step)
            _write_records(folder, config, data, argv)
        log.info("Run folder: %s", folder.path)
        next_sample = next_sample_step(model.global_step, config.sample_every, last_step)
        log.info("Report: %s (open it in a browser, reload to update)", folder.path / REPORT_FILE)
        log.info("Next image grid: %s", folder.samples / f"{checkpoint.folder_name(next_sample)}.png")
        if last_step < FEW_ITERATIONS:
            log.warning(
                "%d iterations are few: expect blurred images. More with --epochs, --steps or a smaller --batch-size.",
                last_step,
            )
        loader.seed = model.seed  # not the config's, if the run has gone back after a collapse
        session = _Session(model, loader, folder, config, data, last_step, next_sample, on_first_grid)
        _fit_or_go_back(session, state, stopper)
        return Result(folder.path, model.global_step, stopper.received)
    finally:
        stopper.restore()
        folder.lock.release()


def _compute_plan(config: TrainConfig, process_group: ProcessGroup) -> tuple[TrainConfig, ComputePlan]:
    """What this process computes with, and the config with the precision that "auto" came to: it is saved, so that
    a resumed run has the same, and rank 0 has measured it for all."""
    compute = plan(config) if process_group.is_rank_zero else None
    note = speed_note(config, compute) if compute else None
    if config.amp == "auto":
        config = dataclasses.replace(config, amp=process_group.broadcast(compute and compute.amp))
    compute = compute or plan(config)
    log.info("%s", compute.sentence())
    if note:
        log.info("%s", note)
    return config, compute


def _warn_of_other_rounding(before: Any, compute: ComputePlan) -> None:
    """Say so when a run goes on under a plan that rounds differently: it no longer repeats to the bit."""
    now = compute.to_json()
    if isinstance(before, dict) and before != now:
        changes = [f"{name} {before.get(name)!r:.40} -> {now[name]!r}" for name in now if before.get(name) != now[name]]
        log.warning("From here on this run rounds differently than before: %s.", ", ".join(changes))


class _Session(NamedTuple):
    """What one call of `train` works with."""

    model: DCGAN
    loader: BatchLoader
    folder: RunFolder
    config: TrainConfig
    data: PackedData
    last_step: int
    first_sample: int
    on_first_grid: Callable[[Path], None] | None


def _fit_or_go_back(session: _Session, state: dict[str, Any], stopper: SignalStop) -> None:
    """Fit; where the run collapses and `on_collapse` is rollback, go back and on with fresh randomness.

    `state` is what the checkpoint that was loaded says beyond the model (see `_fit`), empty at the start of a run.
    """
    model, loader, folder, config, *_ = session
    process_group = model.process_group
    while True:
        try:
            _fit(session, state, stopper)
            return
        except CollapseError as error:
            healthy = last_healthy(checkpoint.list_checkpoints(folder.checkpoints))
            healthy = process_group.broadcast(healthy and str(healthy))
            rollbacks = state.get("rollbacks", 0) + 1
            if config.on_collapse != "rollback" or healthy is None or rollbacks > MAX_ROLLBACKS:
                raise TrainingError(f"{error} {_last_good(folder)}") from None
            log.warning("%s Going back to %s, attempt %d of %d.", error, healthy, rollbacks, MAX_ROLLBACKS)
            state = process_group.broadcast(_go_back(model, Path(healthy)) if process_group.is_rank_zero else None)
            state["rollbacks"] = rollbacks
            model.sync_from_rank_zero()
            stopper.agree()
            if stopper.received:  # in the iteration that collapsed
                return
            model.seed = loader.seed = key(config.seed, rollbacks)
        except TrainingError as error:
            raise TrainingError(f"{error} {_last_good(folder)}") from None
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise TrainingError(f"training stopped: {error.strerror}{where}. {_last_good(folder)}") from error
        except RuntimeError as error:
            if "There are NAN or INF" not in str(error):
                raise
            # FLAGS_check_nan_inf; the traceback, with --log-level debug, says where
            said = " ".join(str(error).split())
            raise TrainingError(f"training stopped: {said} {_last_good(folder)}") from error


def _go_back(model: DCGAN, healthy: Path) -> dict[str, Any]:
    """Delete the checkpoints after `healthy`, or rename those that hold other files too; load `healthy`, and return
    what it says beyond the model."""
    for path in checkpoint.list_checkpoints(healthy.parent):
        if checkpoint.step_of(path) > checkpoint.step_of(healthy):
            if checkpoint.holds_nothing_else(path):
                checkpoint.remove_checkpoint(path)
            else:
                set_aside(path, "collapsed")
    return with_current_names(model.load(healthy))


def _fit(session: _Session, state: dict[str, Any], stopper: SignalStop) -> None:
    """Train with everything that watches it. The order of the callbacks matters: measure, record, plot, save."""
    model, loader, folder, config, data, last_step, first_sample, on_first_grid = session
    process_group = model.process_group
    history = History(folder.metrics, model.global_step) if process_group.is_rank_zero else None
    records = history.records if history else []
    watchdog = Watchdog(sample_std_of(data.images), records, config.on_collapse, process_group)
    samples = SampleGrid(config.sample_every, last_step, folder.samples, data.images, state.get("sample_std"))
    quality = QualityCallback(config.evaluate_every, data, state)
    measures: dict[str, Callable[[], Any]] = {
        "sample_std": lambda: samples.sample_std,
        "protocol": lambda: quality.protocol,
    }
    measures.update({name: functools.partial(quality.figures.get, name) for name in quality.FIGURES})

    def extra() -> dict[str, Any]:
        return {
            "config": config.to_json(),
            "data": data.identity,
            "state": records[-1].get("state", "OK") if records else "OK",
            "rollbacks": state.get("rollbacks", 0),
            "processes": process_group.size,
            "compute": model.compute.to_json(),
            **{name: measure() for name, measure in measures.items()},
            "measured_step": quality.measured_step,
        }

    epochs = model.epoch + math.ceil((model.epoch_step + last_step - model.global_step) / len(loader))
    shown = [history, ProgressLine(epochs, last_step)] if history else []
    reporter = ReportWriter(config.sample_every, folder.path, records)
    if on_first_grid:
        reporter.call_at(first_sample, on_first_grid)
    written = [
        LossPlot(config.sample_every, records, folder.loss_plot),
        ParamsSaver(config.checkpoint_every, folder.params),
        reporter,
    ]
    if config.visualdl and process_group.is_rank_zero:
        board = visualdl.VisualDLWriter(config.sample_every, last_step, folder.path)
        shown.append(board.scalars)
        written.append(board)
    callbacks = [
        stopper,
        samples,
        quality,
        Recorder(config.log_every, last_step, [watchdog, *shown, watchdog.act], measures),
        CheckpointSaver(config.checkpoint_every, folder.checkpoints, config.keep, extra),
        *(written if process_group.is_rank_zero else []),
        StopAt(last_step),
    ]
    try:
        model.fit(loader, epochs=epochs - model.epoch, verbose=0, callbacks=callbacks)
    except TrainingError:
        if process_group.is_rank_zero:
            reporter.write()  # on_train_end was not reached, and the report says what went wrong
        raise


def packed_data(config: TrainConfig) -> PackedData:
    """The training images, packed now or found packed under work/data."""
    log.info("Data: %s", config.data or "cartoon")
    packed = cached_packed(
        config.data or "cartoon",
        image_size=config.image_size,
        crop=config.crop,
        workers=config.workers,
    )
    log.info("%d images of %d x %d pixels", len(packed), config.image_size, config.image_size)
    return packed


def final_step(config: TrainConfig, epoch_length: int, model: DCGAN | None = None) -> int:
    """The iteration after which the run ends: `steps` if that is set, or the whole epochs, counted from where `model`
    is (its earlier ones may have had another length, see `_keep_place`)."""
    if config.steps or model is None:
        return config.steps or config.epochs * epoch_length
    return model.global_step + (config.epochs - model.epoch) * epoch_length - model.epoch_step


def _write_records(folder: RunFolder, config: TrainConfig, data: PackedData, argv: list[str] | None) -> None:
    """config.json, command.txt (a line more for each start) and real.png."""
    write_json(folder.config, config.to_json())
    command = folder.path / "command.txt"
    command_line = shlex.join(argv).replace("\n", "\\n") if argv else "(library)"
    before = read_file(command, 1 << 20, within=folder.path).decode("utf-8", "replace") if is_file(command) else ""
    with atomic_write(command, "w") as stream:
        stream.write(before + command_line + "  # " + _versions() + "\n")
    if not folder.real.exists():
        write_png(folder.real, grid(np.asarray(data.images[:100])))


def _versions() -> str:
    found = {"python": sys.version.split()[0], "paddle": paddle.__version__, "numpy": np.__version__}
    found["opencv"] = cv2.__version__
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        describe = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        with contextlib.suppress(OSError):  # a container may have the checkout and no git
            answer = subprocess.run(describe, capture_output=True, text=True, check=False)
            if answer.returncode == 0:
                found["commit"] = answer.stdout.strip()
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _last_good(folder: RunFolder) -> str:
    if not folder.path.is_dir():
        return f"{folder.path} is gone; its checkpoints are where it was moved to."
    healthy = last_healthy(checkpoint.list_checkpoints(folder.checkpoints))
    return f"The last good checkpoint is {healthy}." if healthy else "No good checkpoint had been saved yet."
