"""Each option of a `TrainConfig` reaches the training step, and a run that uses them resumes to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.data.loader import BatchLoader
from dcgan.networks.batch_norm import precise_bn_latents
from dcgan.training import adversarial_model
from dcgan.training.augment import Chain, DiffAugment, InstanceNoise
from dcgan.training.state import network_arrays
from tests.comparisons import everything

# Each with whatever makes it count in so short a run.
OPTIONS = {
    "diffaugment": {"diffaugment": "color,translation,cutout"},
    "diffaugment and noise": {"diffaugment": "translation", "instance_noise": 0.3, "noise_steps": 5},
    "two rates": {"lr_d": 1e-3},
    "warm-up and decay": {"lr_warmup": 3, "lr_decay": 0.5},
    "momentum": {"batch_norm_momentum": 0.9},
    "steps": {"d_steps": 1, "g_steps": 2},
    "energy distance": {"energy_weight": 3.0},
    "measured statistics": {"ema": 0.0, "precise_bn": True},
}


@pytest.fixture
def build(tiny_config):
    """build(**settings) -> DCGAN of these settings, to be trained for six iterations."""

    def built(**settings):
        model = DCGAN(dataclasses.replace(tiny_config, **settings))
        model.last_step = 6
        return model

    return built


def changed(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if a[name].tobytes() != b[name].tobytes()]


def trained(model, images, epochs=1):
    model.fit(BatchLoader(images, 8, seed=3), epochs=epochs, verbose=0)
    return model


@pytest.mark.parametrize("option", OPTIONS)
def test_a_resumed_run_with_this_option_ends_in_the_same_bits_and_the_option_counts(build, images, tmp_path, option):
    settings = OPTIONS[option]
    straight = everything(trained(build(**settings), images, epochs=2))
    trained(build(**settings), images).save(tmp_path / "c")
    second = build(**settings)
    second.load(tmp_path / "c")
    assert changed(straight, everything(trained(second, images))) == []
    bare = everything(trained(build(ema=settings.get("ema", 0.9)), images, epochs=2))
    assert any(not np.array_equal(straight[name], bare[name]) for name in straight.keys() & bare.keys())


@pytest.mark.parametrize(
    "setting",
    [{"loss": "lsgan"}, {"init": "normal"}, {"beta1": 0.9}, {"beta2": 0.9}, {"structure_weight": 5.0}],
    ids=str,
)
def test_a_setting_reaches_the_weights(build, images, setting):
    """Two iterations: in the first, Adam's step does not depend on its betas."""
    weights = []
    for settings in ({}, setting):
        model = build(**settings)
        for _ in range(2):
            model.train_batch([images[:8]])
        weights.append(network_arrays(model.generator))
    assert changed(*weights)


@pytest.mark.parametrize("part", ["energy", "texture", "structure"])
def test_a_distance_counts_by_its_weight(build, images, monkeypatch, part):
    losses = []
    for distance in (0.0, 7.0):
        monkeypatch.setattr(adversarial_model, f"{part}_distance", lambda fake, real, d=distance: paddle.to_tensor(d))
        model = build(**{f"{part}_weight": 3.0})
        model.train_batch([images[:8]])
        losses.append(float(model.scalars["loss_g"]))
    assert losses[1] - losses[0] == pytest.approx(21.0, rel=1e-4)


def test_two_rates_belong_to_their_networks(build):
    model = build(lr=1e-4, lr_d=4e-4)
    assert model.generator_optimizer.get_lr() == 1e-4 and model.discriminator_optimizer.get_lr() == 4e-4
    model = build(lr=1e-4)
    assert model.generator_optimizer.get_lr() == model.discriminator_optimizer.get_lr() == 1e-4


def test_decaying_rates_are_those_of_the_step_and_keep_their_ratio(build, images):
    model = build(lr=1e-3, lr_d=2e-3, lr_decay=1.0)
    seen = []

    class Look(paddle.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            both = model.generator_optimizer, model.discriminator_optimizer
            # as the optimizer's kernels read it, not as get_lr() says it is
            seen.append([float(optimizer._global_learning_rate()) for optimizer in both])

    model.fit(BatchLoader(images, 8), epochs=2, verbose=0, callbacks=[Look()])
    expected = [[1e-3 * (6 - step) / 6, 2e-3 * (6 - step) / 6] for step in range(6)]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_with_adam_a_first_step_moves_weights_by_the_learning_rate(build, images):
    model = build(lr=1e-3, lr_d=3e-3, lr_warmup=4)
    before = network_arrays(model.generator)["conv_1.weight"], network_arrays(model.discriminator)["conv_1.weight"]
    model.train_batch([images[:8].astype(np.float32) / 127.5 - 1])
    after = network_arrays(model.generator)["conv_1.weight"], network_arrays(model.discriminator)["conv_1.weight"]
    moves = [np.median(np.abs(b - a)) for a, b in zip(before, after)]
    np.testing.assert_allclose(moves, [0.25e-3, 0.75e-3], rtol=0.01)


def test_momentum_is_the_share_that_both_networks_keep(build, images):
    model = build(batch_norm_momentum=0.5)
    layers = [layer for net in (model.generator, model.discriminator) for layer in net.sublayers()]
    kept = [layer._momentum for layer in layers if isinstance(layer, paddle.nn.BatchNorm2D)]
    assert len(kept) == 3 and set(kept) == {0.5}


def test_augmentation_and_noise_are_chained_in_this_order(build):
    model = build(diffaugment="cutout,color", translation_ratio=0.25, instance_noise=0.1)
    assert model.augment == Chain((DiffAugment(("cutout", "color"), 0.25), InstanceNoise(0.1, 1000)))
    assert build().augment is None and build().schedule is None


def test_real_images_fake_images_and_the_generators_fake_images_are_augmented_with_draws_of_their_own(
    build, monkeypatch
):
    model = build(diffaugment="color")
    seen = []
    model.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    monkeypatch.setattr(model, "_fake_images", lambda count: paddle.zeros([count, 3, 16, 16]))
    model.train_batch([np.zeros([8, 3, 16, 16], np.float32)])
    assert len(seen) == 3
    levels = np.concatenate([batch[:, 0, 0, 0] for batch in seen])  # a grey image shows its brightness
    assert len(np.unique(levels)) == 24


def test_gradient_of_the_generator_goes_through_the_augmentation(build):
    """Cutout leaves no gradient where it cut, and what is left is a gradient at the image."""
    model = build(diffaugment="cutout", energy_weight=0.0)
    fake = paddle.zeros([8, 3, 16, 16])
    fake.stop_gradient = False
    shown = []
    model.discriminator.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    model.generator_step(fake.detach(), fake + 1.0)
    cut = shown[0].numpy() == 0
    assert 0.05 < cut.mean() < 0.3
    assert (fake.grad.numpy()[cut] == 0).all() and (fake.grad.numpy()[~cut] != 0).mean() > 0.9


def test_measured_statistics_of_the_live_generator_are_those_of_its_own_weights(build, images):
    model = trained(build(ema=0.0, precise_bn=True), images)
    own = model.generator.bn_1._mean.numpy()
    model.generate(0)
    z = paddle.to_tensor(precise_bn_latents(8)).unsqueeze([2, 3])
    with paddle.no_grad():
        expected = model.generator.conv_1(z).numpy().astype(np.float64).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(model.generator.bn_1._mean.numpy(), expected, rtol=1e-4, atol=1e-7)
    assert not np.allclose(own, expected, rtol=1e-3)
    bare = trained(build(ema=0.0), images)
    kept = bare.generator.bn_1._mean.numpy()
    bare.generate(0)
    assert np.array_equal(kept, bare.generator.bn_1._mean.numpy())


def test_training_takes_its_threads_back_from_who_took_them(tiny_config, images, monkeypatch):
    """Paddle Inference leaves a process with one thread: other rounding, and other cores idle."""
    model, given = DCGAN(tiny_config), []
    monkeypatch.setattr(paddle.base.core, "set_num_threads", given.append)
    model.fit(BatchLoader(images, 8), verbose=0)
    assert given == [model.compute.threads]
