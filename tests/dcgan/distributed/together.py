"""What each of the processes of test_process_group.py does: `python together.py FOLDER`.

One start serves many tests, because a start costs seconds. Each process writes what it saw to FOLDER/seen-<rank>.json.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dcgan.environment import import_paddle

import_paddle()

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from dcgan import train as runs
from dcgan.callbacks.watchdog import Watchdog
from dcgan.config import TrainConfig, read_config
from dcgan.data.loader import BatchLoader
from dcgan.distributed.process_group import SINGLE_PROCESS, ProcessGroup, init_process_group
from dcgan.errors import TrainingError
from dcgan.runs.find_checkpoint import find_checkpoint
from dcgan.training.adversarial_model import AdversarialModel
from deploy.seeds import bits
from tests.tiny import TINY

STEPS = 10


def messages(process_group: ProcessGroup) -> dict:
    order = process_group.rank_zero_first(lambda: process_group.rank)
    return {
        "broadcast": process_group.broadcast({"from": process_group.rank}),
        "max": process_group.all_reduce_max(10 - process_group.rank),
        "order": order,
    }


def tensors(process_group: ProcessGroup) -> dict:
    """Numbers of rank 0 are 1, 2, 3 and 10, those of rank 1 are 3, 4, 5 and 20."""
    vector = paddle.to_tensor(np.arange(3, dtype=np.float32) + 1 + 2 * process_group.rank)
    half = paddle.full([1, 1], 10.0 * (1 + process_group.rank), "float16")
    process_group.all_reduce_mean([vector, half])
    sent = [paddle.full([2], process_group.rank, "float32"), paddle.full([1, 1], 5.0 + process_group.rank, "float32")]
    process_group.broadcast_tensors(sent)
    return {
        "average": vector.numpy().tolist(),
        "average of halves": [str(half.dtype), half.numpy().tolist()],
        "broadcast": [t.numpy().tolist() for t in sent],
        "gathered": process_group.all_gather(np.full([2, 1], process_group.rank, np.float32)).tolist(),
    }


class _Flat(nn.Layer):
    """One hidden layer, no BatchNorm unless asked for: `shape` is that of the output."""

    def __init__(self, inputs: int, shape: list, normalised: bool):
        super().__init__()
        self.hidden, self.last = nn.Linear(inputs, 16), nn.Linear(16, int(np.prod(shape)))
        self.norm = nn.BatchNorm1D(16) if normalised else nn.Identity()
        self.shape = shape

    def forward(self, x):
        x = nn.functional.leaky_relu(self.norm(self.hidden(x.flatten(1))), 0.2)
        return paddle.tanh(self.last(x)).reshape([-1, *self.shape])


def trained(process_group: ProcessGroup, batch_size: int, normalised: bool) -> np.ndarray:
    """All weights after ten steps on images that are the same for every process group."""
    images = (bits(np.arange(STEPS * 64), 3 * 16 * 16) & 255).astype(np.uint8).reshape(-1, 3, 16, 16)
    paddle.seed(process_group.rank)  # other first weights in each process, until they are those of rank 0
    generator, discriminator = _Flat(8, [3, 16, 16], normalised), _Flat(3 * 16 * 16, [1], normalised)
    image_spec = InputSpec([None, 3, 16, 16], "float32", "image")
    model = AdversarialModel(
        generator,
        discriminator,
        InputSpec([None, 8], "float32", "z"),
        image_spec,
        ema_decay=0.9,
        seed=7,
        process_group=process_group,
    )
    model.prepare(*(paddle.optimizer.Adam(2e-4, 0.5, parameters=n.parameters()) for n in (generator, discriminator)))
    model.sync_from_rank_zero()
    for batch in BatchLoader(
        images, batch_size, seed=7, prefetch=0, rank=process_group.rank, processes=process_group.size
    ):
        model.train_batch(batch)
    model.check_replicas()
    return np.concatenate([p.numpy().ravel() for p in model.parameters() if not p.stop_gradient])


def against_one_process(process_group: ProcessGroup) -> dict:
    """Largest differences of weights between two processes of batch 32 and one of batch 64."""
    found = {}
    for normalised in (False, True):
        together, alone = trained(process_group, 32, normalised), trained(SINGLE_PROCESS, 64, normalised)
        found["with BatchNorm" if normalised else "without"] = float(np.abs(together - alone).max())
    return found


def latents(process_group: ProcessGroup) -> list:
    """Sums of the four latents that this process would train with at step 5."""
    model = runs.DCGAN(TrainConfig(**TINY), process_group)
    model.global_step = 5
    return model._sample_latents(4).numpy().sum(axis=1).tolist()


def whole_runs(process_group: ProcessGroup, config: TrainConfig) -> dict:
    """A run without a stop, one with a stop, one that one process began, one that collapses: where they are."""
    straight = runs.train(config, process_group=process_group)
    stopped = runs.train(dataclasses.replace(config, steps=5), process_group=process_group)
    found = find_checkpoint(stopped.folder) if process_group.is_rank_zero else None
    resumed = runs.train(config, found, process_group=process_group)
    found = find_checkpoint("one-process") if process_group.is_rank_zero else None
    taken_over = runs.train(config, found, process_group=process_group)
    verdict = Watchdog._verdict
    judged = []

    def collapse_once(self, record):
        judged.append(record["step"])
        if not process_group.is_rank_zero:
            return "OK", "what the other processes think does not count"
        return ("COLLAPSED", "pretended") if judged.count(6) == 1 and record["step"] == 6 else ("OK", "")

    Watchdog._verdict = collapse_once
    rolled_back = runs.train(dataclasses.replace(config, on_collapse="rollback"), process_group=process_group)
    Watchdog._verdict = verdict
    results = {"straight": straight, "resumed": resumed, "taken over": taken_over, "rolled back": rolled_back}
    return {
        **{name: [str(result.folder), result.global_step] for name, result in results.items()},
        "judged": judged,
    }


def planted_difference(process_group: ProcessGroup, config: TrainConfig) -> str:
    """What a run says in which one weight of one process changes by one part in a million."""
    step = AdversarialModel.generator_step

    def spoil(self, *images):
        step(self, *images)
        if self.global_step == 2 and self.process_group.rank == 1:
            self.discriminator.conv_2.weight.set_value(self.discriminator.conv_2.weight * (1 + 1e-6))

    AdversarialModel.generator_step = spoil
    try:
        runs.train(config, process_group=process_group)
    except TrainingError as error:
        return str(error)
    finally:
        AdversarialModel.generator_step = step
    return "nobody noticed"


def main(folder: str) -> None:
    os.chdir(folder)
    process_group = init_process_group("cpu")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("dcgan").addHandler(handler)
    if process_group.is_rank_zero:
        logging.getLogger("dcgan").setLevel("INFO")
    config = TrainConfig.from_mapping(read_config("config.json"))
    seen = {
        "messages": messages(process_group),
        "tensors": tensors(process_group),
        "against one process": against_one_process(process_group),
        "latents": latents(process_group),
        "runs": whole_runs(process_group, config),
        "planted difference": planted_difference(process_group, config),
        "log": lines,
    }
    Path(f"seen-{process_group.rank}.json").write_text(json.dumps(seen), "utf-8")
    process_group.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
