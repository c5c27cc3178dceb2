"""What tests compare: every array of a model, every number of a run, a record of training."""

import numpy as np
import paddle

from dcgan.checkpoints.checkpoint import list_checkpoints, read_checkpoint
from dcgan.runs.records import read_records
from dcgan.selftest import TIMES
from dcgan.training.state import network_arrays, optimizer_arrays


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def everything(model):
    """All that a run is made of, as arrays by name."""
    found = {"image": model.generate(0)}  # generating brings the averaged generator's statistics up to date
    for name, network in model._networks().items():
        found.update({f"{name}/{k}": v for k, v in network_arrays(network).items()})
    for name, optimizer in model._optimizers().items():
        found.update({f"{name}!{k}": v for k, v in optimizer_arrays(optimizer, getattr(model, name)).items()})
    return {**found, "counters": np.array([model.epoch, model.epoch_step, model.global_step])}


def mapped(network, z):
    """The images of latents z, in the mode that the network is in."""
    with paddle.no_grad():
        return network(paddle.to_tensor(z)).numpy()


def mapped_in_eval_mode(network, z):
    network.eval()
    return mapped(network, z)


def record(step=1, **changes):
    values = {
        "step": step,
        "epoch": 1,
        "loss_d": 1.0,
        "loss_g": 0.7,
        "score_real": 0.6,
        "score_fake": 0.4,
        "gradient_norm_d": 1.0,
        "gradient_norm_g": 1.0,
        "sample_std": 0.4,
        "images_per_second": 100.0,
        "elapsed_seconds": 1.0,
        "remaining_seconds": 3725.0,
    }
    return {**values, **changes}


def weights(run):
    groups = read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).groups
    return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}


def numbers(run):
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_records(run / "metrics.jsonl")]


def assert_same_run(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not np.array_equal(a[name], b[name])] == []
    assert numbers(one) == numbers(other)
