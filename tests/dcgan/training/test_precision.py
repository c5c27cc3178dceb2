import contextlib
import dataclasses

import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.distributed.process_group import ProcessGroup
from dcgan.training.precision import Precision


class _Scaler:
    """Notes what is asked of it."""

    def __init__(self, log, name):
        self.log, self.name = log, name

    def scale(self, loss):
        self.log.append((self.name, "scale"))
        return loss

    def step(self, optimizer):
        self.log.append((self.name, "step"))
        optimizer.step()

    def update(self):
        self.log.append((self.name, "update"))

    def state_dict(self):
        return {"scale": np.array([8.0], np.float32), "incr_count": 3}

    def load_state_dict(self, state):
        self.log.append((self.name, "load", float(state["scale"][0]), state["incr_count"]))


@pytest.fixture
def scaled(linear, monkeypatch):
    calls = []
    names = iter(["generator", "discriminator"])
    monkeypatch.setattr(paddle.amp, "GradScaler", lambda **_: _Scaler(calls, next(names)))
    model, (sgd_g, sgd_d) = linear()
    model.prepare(sgd_g, sgd_d, precision=Precision("O1", "float16"))
    return model, calls


def test_float16_gives_each_optimizer_a_scaler_of_its_own_used_in_order(scaled):
    model, calls = scaled
    model.train_batch([np.ones([2, 1], np.float32)])
    assert calls == [(n, what) for n in ("discriminator", "generator") for what in ("scale", "step", "update")]


def test_several_processes_average_scaled_gradients_before_the_scaler_looks_at_them(scaled):
    """So an overflow in one process is found by the scalers of all."""
    model, calls = scaled
    model.process_group = ProcessGroup()
    model.process_group.all_reduce_mean = lambda tensors: calls.append(("world", len(tensors)))
    model.train_batch([np.ones([2, 1], np.float32)])
    one = [("scale"), ("average"), ("step"), ("update")]
    assert [what if who != "world" else "average" for who, what in calls] == [*one, *one, "average"]
    assert [what for who, what in calls if who == "world"] == [1, 1, 0]  # at last the statistics: there are none


def test_scalers_are_saved_and_restored(scaled, tmp_path):
    model, calls = scaled
    model.save(tmp_path / "c")
    calls.clear()
    model.load(tmp_path / "c")
    assert calls == [("generator", "load", 8.0, 3), ("discriminator", "load", 8.0, 3)]


def test_bfloat16_needs_no_scaler_and_casts_both_networks_but_not_the_losses(linear, monkeypatch):
    casts = []

    @contextlib.contextmanager
    def auto_cast(**arguments):
        casts.append(arguments)
        yield
        casts.append("exit")

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    model, (sgd_g, sgd_d) = linear()
    model.prepare(sgd_g, sgd_d, precision=Precision("O1", "bfloat16"))
    assert model._scalers == {}
    model.train_batch([np.ones([2, 1], np.float32)])
    assert (
        casts == [{"level": "O1", "dtype": "bfloat16", "custom_white_list": {"conv2d_transpose"}}, "exit"] * 4
    )  # G; D of real, of fake; D in G's step


def test_o2_decorates_both_networks_with_both_optimizers(linear, monkeypatch):
    calls = []
    monkeypatch.setattr(paddle.amp, "decorate", lambda **arguments: calls.append(arguments))
    model, (sgd_g, sgd_d) = linear()
    model.prepare(sgd_g, sgd_d, precision=Precision("O2", "bfloat16"))
    assert calls[0]["models"] == [model.generator, model.discriminator]
    assert calls[0]["optimizers"] == [sgd_g, sgd_d] and calls[0]["level"] == "O2" and calls[0]["master_weight"]


# ---- O2: which weights sample, and which are averaged ---------------------------------------------------------------


@pytest.fixture
def o2(monkeypatch, tiny_config):
    """o2(ema) -> a model prepared for O2, its networks left as they are, and the list of forwards of `network` as
    (inside auto_cast, training)."""
    inside, forwards = [], []

    @contextlib.contextmanager
    def auto_cast(**arguments):
        inside.append(arguments)
        yield
        inside.pop()

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    monkeypatch.setattr(paddle.amp, "decorate", lambda **_: None)

    def build(ema):
        model = DCGAN(dataclasses.replace(tiny_config, ema=ema))
        optimizers = model.generator_optimizer, model.discriminator_optimizer
        model.prepare(*optimizers, precision=Precision("O2", "bfloat16"), precise_bn=True)
        model.network.register_forward_pre_hook(lambda net, _: forwards.append((bool(inside), net.training)))
        return model, forwards

    return build


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_under_o2_half_precision_weights_sample_inside_auto_cast_and_the_float32_average_outside(o2, ema):
    model, forwards = o2(ema)
    model.generate([0, 1])
    statistics = len(forwards) - 1
    model.predict_batch([paddle.randn([2, 8])])
    assert statistics >= 2, "precise_bn has run the generator too"
    assert forwards == [(not ema, False)] * (statistics + 2)


def test_under_o2_the_average_follows_the_float32_masters_not_the_rounded_weights(o2, images):
    model, _ = o2(0.9)
    weight, average = model.generator.conv_1.weight, model.network.conv_1.weight.numpy()
    master = paddle.full(weight.shape, 0.123456789)
    model.generator_optimizer._master_weights = {weight.name: master}
    model._end_iteration()
    np.testing.assert_allclose(model.network.conv_1.weight.numpy(), 0.1 * average + 0.9 * master.numpy(), rtol=1e-6)
    assert model.network.conv_1.weight.dtype == paddle.float32
