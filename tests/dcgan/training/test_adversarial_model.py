import math

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from dcgan import DCGAN, AdversarialModel, TrainConfig
from dcgan.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from dcgan.data.loader import BatchLoader
from dcgan.distributed.process_group import ProcessGroup
from dcgan.errors import CheckpointError
from dcgan.networks.batch_norm import precise_bn_latents
from dcgan.networks.modes import evaluating, frozen
from dcgan.training import hapi
from dcgan.training.hapi import read_scalars
from dcgan.training.losses import OBJECTIVES
from dcgan.training.precision import Precision
from dcgan.training.state import network_arrays, optimizer_arrays


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def everything(model):
    """All that a run is made of, as arrays by name."""
    found = {"image": model.generate(0)}  # drawing brings the averaged generator's statistics up to date
    for name, network in model._networks().items():
        found.update({f"{name}/{k}": v for k, v in network_arrays(network).items()})
    for name, optimizer in model._optimizers().items():
        found.update({f"{name}!{k}": v for k, v in optimizer_arrays(optimizer, getattr(model, name)).items()})
    return {**found, "counters": np.array([model.epoch, model.epoch_step, model.global_step])}


@pytest.fixture
def model(tiny_config):
    return DCGAN(tiny_config)


@pytest.fixture
def loader(images):
    return BatchLoader(images, 8, seed=3, flip=True)


@pytest.fixture
def linear():
    """G(z) = g z and D(x) = d x, one number each: every step can be worked out by hand."""

    def build(**arguments):
        g, d = paddle.nn.Linear(1, 1, bias_attr=False), paddle.nn.Linear(1, 1, bias_attr=False)
        g.weight.set_value(np.array([[0.5]], np.float32))
        d.weight.set_value(np.array([[0.25]], np.float32))
        latent, image = InputSpec([None, 1], "float32", "z"), InputSpec([None, 1], "float32", "image")
        made = AdversarialModel(g, d, latent, image, **arguments)
        sgd = [paddle.optimizer.SGD(0.1, parameters=net.parameters()) for net in (g, d)]
        return made, sgd

    return build


def test_one_iteration_of_a_linear_gan_equals_the_arithmetic_by_hand(linear):
    model, (sgd_g, sgd_d) = linear()
    model.prepare(sgd_g, sgd_d, losses=OBJECTIVES["lsgan"])
    real = np.array([[1.0], [2.0]], np.float32)
    z = model._sample_latents(2).numpy().astype(np.float64)
    model.train_batch([real])

    g, d = 0.5, 0.25
    fake = g * z
    d_gradient = ((d * real - 1) * real).mean() + ((d * fake) * fake).mean()  # of ((dx-1)^2 + (dgz)^2) / 2
    new_d = d - 0.1 * d_gradient
    g_gradient = ((new_d * g * z - 1) * new_d * z).mean()  # D has moved before G learns
    assert model.discriminator.weight.item() == pytest.approx(new_d, rel=1e-6)
    assert model.generator.weight.item() == pytest.approx(g - 0.1 * g_gradient, rel=1e-6)


def test_discriminator_step_leaves_the_generator_unchanged_and_the_other_way_round(model, images):
    real = paddle.to_tensor(images[:8].astype(np.float32) / 127.5 - 1)
    model.generator.train()
    fake = model.generator(model._sample_latents(8))
    before = everything(model)
    model.discriminator_step(real, fake.detach())
    between = everything(model)
    model.generator_step(fake)
    after = everything(model)

    def weights(state, name):
        return {k: v for k, v in state.items() if k.startswith(name + "/") and "_mean" not in k and "_var" not in k}

    assert equal(weights(before, "generator"), weights(between, "generator"))
    assert not equal(weights(before, "discriminator"), weights(between, "discriminator"))
    assert equal(weights(between, "discriminator"), weights(after, "discriminator"))
    assert not equal(weights(between, "generator"), weights(after, "generator"))


def test_frozen_network_gets_no_gradient_and_keeps_its_running_statistics_untrainable(model):
    trainable = [p.name for p in model.discriminator.parameters() if not p.stop_gradient]
    with frozen(model.discriminator):
        assert all(p.stop_gradient for p in model.discriminator.parameters())
    assert [p.name for p in model.discriminator.parameters() if not p.stop_gradient] == trainable


@pytest.mark.parametrize(("d_steps", "g_steps"), [(1, 1), (1, 2), (3, 1), (2, 2)])
def test_an_iteration_steps_each_network_as_often_as_asked(linear, monkeypatch, d_steps, g_steps):
    model, (sgd_g, sgd_d) = linear()
    model.prepare(sgd_g, sgd_d, d_steps=d_steps, g_steps=g_steps)
    seen, forwards = [], []
    for name in ("discriminator_step", "generator_step"):
        original = getattr(model, name)
        monkeypatch.setattr(
            model, name, lambda *a, original=original, name=name: (seen.append((name, a[0].shape[0])), original(*a))
        )
    handle = model.generator.register_forward_post_hook(lambda *a: forwards.append(1))
    model.train_batch([np.ones([2 * d_steps, 1], np.float32)])
    handle.remove()
    assert seen == [("discriminator_step", 2)] * d_steps + [("generator_step", 2)] * g_steps
    assert len(forwards) == d_steps + g_steps - 1  # the last fake is drawn once and used by both


def test_training_latents_differ_between_iterations_and_draws_and_come_from_the_seed(model):
    first, second = model._sample_latents(4).numpy(), model._sample_latents(4).numpy()
    model.global_step, model._latent_batches = 1, 0
    third = model._sample_latents(4).numpy()
    model.global_step, model._latent_batches = 0, 0
    assert np.array_equal(first, model._sample_latents(4).numpy())
    assert len({first.tobytes(), second.tobytes(), third.tobytes()}) == 3


def test_two_epochs_straight_equal_one_saved_and_one_resumed_in_another_model(tiny_config, images, tmp_path):
    straight, first, second = (DCGAN(tiny_config) for _ in range(3))
    straight.fit(BatchLoader(images, 8, seed=3, flip=True), epochs=2, verbose=0)
    first.fit(BatchLoader(images, 8, seed=3, flip=True), epochs=1, verbose=0)
    first.save(tmp_path / "checkpoint")
    second.load(tmp_path / "checkpoint")
    second.fit(BatchLoader(images, 8, seed=3, flip=True), epochs=1, verbose=0)
    assert equal(everything(straight), everything(second))
    assert straight.global_step == 6


class _StopAfter(paddle.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, step, logs=None):
        self.model.stop_training = self.model.global_step >= self.step


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_resuming_in_the_middle_of_an_epoch_sees_the_batches_that_were_left(tiny_config, images, tmp_path, stop):
    straight, first, second = (DCGAN(tiny_config) for _ in range(3))
    straight.fit(BatchLoader(images, 8), epochs=2, verbose=0)
    first.fit(BatchLoader(images, 8), epochs=2, verbose=0, callbacks=[_StopAfter(stop)])
    assert first.global_step == stop
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    second.fit(BatchLoader(images, 8), epochs=2 - second.epoch, verbose=0)
    assert equal(everything(straight), everything(second))


@pytest.mark.parametrize("change", ["generator", "discriminator", "generator_optimizer", "discriminator_optimizer"])
def test_a_checkpoint_that_lacks_one_part_is_refused_and_changes_nothing(model, tmp_path, change):
    model.save(tmp_path / "c")
    saved = read_checkpoint(tmp_path / "c")
    broken = {name: dict(group) for name, group in saved.groups.items() if name != change}
    write_checkpoint(tmp_path / "broken", broken, saved.state)
    before = everything(model)
    with pytest.raises(CheckpointError, match=f"it holds no {change}"):
        model.load(tmp_path / "broken")
    assert equal(before, everything(model))


def test_a_checkpoint_of_another_width_is_refused_with_every_shape_named(model, tiny_config, tmp_path):
    import dataclasses

    DCGAN(dataclasses.replace(tiny_config, base_channels=8)).save(tmp_path / "wide")
    with pytest.raises(
        CheckpointError, match=r"conv_1.weight has shape \[8, 16, 4, 4\], expected \[8, 8, 4, 4\].*bn_1"
    ):
        model.load(tmp_path / "wide")


def test_a_seed_is_the_same_image_alone_and_among_others(model, loader):
    model.fit(loader, epochs=1, verbose=0)
    together = model.generate(range(20))
    assert together.shape == (20, 3, 16, 16) and together.dtype == np.float32
    assert np.abs(together).max() <= 1
    np.testing.assert_allclose(model.generate(7)[0], together[7], atol=1e-6)
    np.testing.assert_allclose(model.generate(range(20), batch_size=3), together, atol=1e-6)


def test_drawing_leaves_training_mode_and_gradients_as_they_were(model, loader):
    model.generator.train()
    with evaluating(model.generator):
        assert not model.generator.training
    assert model.generator.training
    before = everything(model)
    model.generate(range(3))
    assert equal(before, everything(model))


def test_average_generator_follows_the_ramped_decay(tiny_config, images):
    model = DCGAN(tiny_config)
    average = network_arrays(model.network)["conv_1.weight"].astype(np.float64)
    for step in range(3):
        model.train_batch([images[:8].astype(np.float32) / 127.5 - 1])
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * network_arrays(model.generator)["conv_1.weight"]
    np.testing.assert_allclose(network_arrays(model.network)["conv_1.weight"], average, atol=1e-7)


def test_statistics_of_the_average_generator_are_those_of_its_own_weights(model, loader):
    """In training mode Paddle normalises by the batch: one batch of the same latents gives the same images."""
    model.fit(loader, epochs=2, verbose=0)
    z = paddle.to_tensor(precise_bn_latents(8))
    network = model.inference_generator()
    assert not network.training
    with paddle.no_grad():
        mine = network(z).numpy()
        network.train()
        np.testing.assert_allclose(mine, network(z).numpy(), atol=1e-5)


def test_instance_noise_repeats_from_the_seed(tiny_config, images):
    import dataclasses

    config = dataclasses.replace(tiny_config, instance_noise=0.5, noise_steps=100)
    one, same, bare = DCGAN(config), DCGAN(config), DCGAN(tiny_config)
    for model in (one, same, bare):
        model.fit(BatchLoader(images, 8), epochs=1, verbose=0)
    assert equal(everything(one), everything(same))
    assert not equal(everything(one), everything(bare))


def test_without_averaging_the_generator_itself_draws(tiny_config):
    import dataclasses

    model = DCGAN(dataclasses.replace(tiny_config, ema=0.0))
    assert model.network is model.generator


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (
            np.zeros([2, 3, 8, 8], np.float32),
            r"image must be float32 \['N', 3, 16, 16\], received float32 \[2, 3, 8, 8\]",
        ),
        (np.zeros([2, 3, 16, 16], np.float64), r"must be float32 .*, received float64 \[2, 3, 16, 16\]"),
        (np.zeros([3, 16, 16], np.float32), r"received float32 \[3, 16, 16\]"),
        (np.zeros([0, 3, 16, 16], np.float32), "multiple of d_steps"),
    ],
)
def test_a_batch_that_does_not_fit_its_spec_is_refused_with_both_shapes(model, batch, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.train_batch([batch])


def test_fit_refuses_accumulation_an_empty_loader_and_missing_optimizers(model, linear):
    with pytest.raises(ValueError, match="accumulate_grad_batches must be 1"):
        model.fit([], accumulate_grad_batches=2)
    with pytest.raises(ValueError, match="the loader is empty"):
        model.fit([])
    bare, _ = linear()
    bare.prepare()
    with pytest.raises(ValueError, match="two optimizers"):
        bare.fit([np.ones([2, 1], np.float32)])


def test_logs_read_the_device_only_when_somebody_looks(model, images, monkeypatch):
    reads = []
    monkeypatch.setattr(
        hapi, "read_scalars", lambda scalars, read=read_scalars: (reads.append(len(scalars)), read(scalars))[1]
    )
    conversions = []
    numpy_of = paddle.Tensor.numpy
    monkeypatch.setattr(paddle.Tensor, "numpy", lambda self: (conversions.append(1), numpy_of(self))[1])
    monkeypatch.setattr(paddle.Tensor, "item", lambda self, *a: pytest.fail("a step read the device"))
    monkeypatch.setattr(paddle.Tensor, "__float__", lambda self: pytest.fail("a step read the device"))
    seen = []

    class Look(paddle.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            if step == 2:
                seen.append(float(logs["loss_d"]))

    model.fit(BatchLoader(images, 8), epochs=1, verbose=0, callbacks=[Look()])
    assert len(seen) == 1 and math.isfinite(seen[0])
    assert reads == [1] and len(conversions) == 1


def test_paddles_own_callbacks_get_each_scalar_under_its_name(model, images, capsys):
    model.fit(BatchLoader(images, 8), epochs=1, log_freq=1, verbose=2)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("loss_d", "loss_g", "score_real", "score_fake"))


def test_summary_counts_both_networks(model, capsys):
    counts = model.summary()
    numbers = sum(p.size for p in model.parameters())
    assert int(counts["total_params"]) == numbers
    printed = capsys.readouterr().out
    assert "Conv2DTranspose" in printed and "Conv2D-" in printed


def test_save_without_training_writes_the_generator_for_inference(model, loader, tmp_path):
    model.fit(loader, epochs=1, verbose=0)
    model.save(tmp_path / "inference" / "generator", training=False)
    loaded = paddle.jit.load(str(tmp_path / "inference" / "generator"))
    z = model._latents_of(range(3))
    np.testing.assert_allclose(loaded(paddle.to_tensor(z)).numpy(), model.generate(range(3)), atol=1e-6)


def test_predict_draws_from_given_latents(model):
    z = model._latents_of(range(3))
    np.testing.assert_allclose(model.predict_batch([z])[0], model.generate(range(3)), atol=1e-6)


def test_static_mode_is_refused():
    paddle.enable_static()
    try:
        with pytest.raises(RuntimeError, match="disable_static"):
            AdversarialModel(None, None, InputSpec([None, 1], "float32", "z"), InputSpec([None, 1], "float32", "x"))
    finally:
        paddle.disable_static()


# ---- mixed precision: no GPU here, so its decisions and the order of its calls ---------------------------------------


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
    import contextlib

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


def test_half_precision_weights_are_saved_as_their_float32_masters(linear, monkeypatch, tmp_path):
    model, (sgd_g, sgd_d) = linear()
    model.prepare(sgd_g, sgd_d)
    master = paddle.to_tensor(np.array([[0.123456789]], np.float32))
    sgd_g._master_weights = {model.generator.weight.name: master}
    model.save(tmp_path / "c")
    assert read_checkpoint(tmp_path / "c").groups["generator"]["weight"] == np.float32(0.123456789)
    master.set_value(np.zeros([1, 1], np.float32))
    model.load(tmp_path / "c")
    assert master.item() == np.float32(0.123456789) == model.generator.weight.item()


def test_moments_of_half_precision_weights_are_found_under_their_masters_name():
    layer = paddle.nn.Linear(1, 1, bias_attr=False)
    moment, master = paddle.zeros([1, 1]), paddle.zeros([1, 1])
    adam = paddle.optimizer.Adam(parameters=layer.parameters())
    adam._create_accumulators = lambda *_: None
    adam._accumulators = {"moment1": {master.name: moment}}
    adam._master_weights = {layer.weight.name: master}
    assert optimizer_arrays(adam, layer) == {"weight/moment1": np.zeros([1, 1], np.float32)}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_config):
    import dataclasses

    one, same = DCGAN(tiny_config), DCGAN(tiny_config)
    other = DCGAN(dataclasses.replace(tiny_config, seed=1))
    assert equal(everything(one), everything(same))
    assert not equal(everything(one), everything(other))


def test_config_out_of_range_is_refused_before_anything_is_built():
    with pytest.raises(ValueError, match="image_size must be a power of two"):
        DCGAN(TrainConfig(image_size=48))
