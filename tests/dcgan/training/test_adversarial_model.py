import numpy as np
import paddle
import pytest

from dcgan import DCGAN, TrainConfig
from dcgan.data.loader import BatchLoader
from dcgan.training.losses import OBJECTIVES
from tests.comparisons import equal, everything


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
    model.generator_step(real, fake)
    after = everything(model)

    def weights(state, name):
        return {k: v for k, v in state.items() if k.startswith(name + "/") and "_mean" not in k and "_var" not in k}

    assert equal(weights(before, "generator"), weights(between, "generator"))
    assert not equal(weights(before, "discriminator"), weights(between, "discriminator"))
    assert equal(weights(between, "discriminator"), weights(after, "discriminator"))
    assert not equal(weights(between, "generator"), weights(after, "generator"))


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
    assert len(forwards) == d_steps + g_steps - 1  # the last fake is generated once and used by both


def test_each_discriminator_step_sees_images_of_the_whole_batch(linear, monkeypatch):
    """A loader sorts a batch, so that its halves are halves of the data: light and dark, early and late."""
    model, (sgd_g, sgd_d) = linear()
    model.prepare(sgd_g, sgd_d, d_steps=2)
    seen, original = [], model.discriminator_step
    monkeypatch.setattr(
        model,
        "discriminator_step",
        lambda real, fake: (seen.append(real.numpy().ravel().tolist()), original(real, fake)),
    )
    model.train_batch([np.array([[1], [2], [3], [4]], np.float32)])
    assert seen == [[1, 3], [2, 4]]


def test_training_latents_differ_between_iterations_and_draws_and_come_from_the_seed(model):
    first, second = model._sample_latents(4).numpy(), model._sample_latents(4).numpy()
    model.global_step, model._latent_batches = 1, 0
    third = model._sample_latents(4).numpy()
    model.global_step, model._latent_batches = 0, 0
    assert np.array_equal(first, model._sample_latents(4).numpy())
    assert len({first.tobytes(), second.tobytes(), third.tobytes()}) == 3


def test_instance_noise_repeats_from_the_seed(tiny_config, images):
    import dataclasses

    config = dataclasses.replace(tiny_config, instance_noise=0.5, noise_steps=100)
    one, same, bare = DCGAN(config), DCGAN(config), DCGAN(tiny_config)
    for model in (one, same, bare):
        model.fit(BatchLoader(images, 8), epochs=1, verbose=0)
    assert equal(everything(one), everything(same))
    assert not equal(everything(one), everything(bare))


# ---- mixed precision: no GPU here, so its decisions and the order of its calls ---------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_config):
    import dataclasses

    one, same = DCGAN(tiny_config), DCGAN(tiny_config)
    other = DCGAN(dataclasses.replace(tiny_config, seed=1))
    assert equal(everything(one), everything(same))
    assert not equal(everything(one), everything(other))


def test_config_out_of_range_is_refused_before_anything_is_built():
    with pytest.raises(ValueError, match="image_size must be a power of two"):
        DCGAN(TrainConfig(image_size=48))


def test_what_cannot_teach_is_refused(linear):
    model, (sgd_g, sgd_d) = linear()
    decaying = paddle.optimizer.lr.StepDecay(0.1, 5)
    for arguments, message in (
        ({"losses": "hinge"}, "must be an Objective"),
        ({"d_steps": 0}, "at least 1, received 0 and 1"),
        ({"generator_optimizer": sgd_d, "discriminator_optimizer": sgd_g}, "parameters of the generator and none"),
        ({"generator_optimizer": paddle.optimizer.SGD(decaying, sgd_g._parameter_list)}, "must be a number.*StepDecay"),
    ):
        with pytest.raises(ValueError, match=message):
            model.prepare(**{"generator_optimizer": sgd_g, "discriminator_optimizer": sgd_d, **arguments})
    sgd_g.set_lr(0.5)
    model.prepare(sgd_g, sgd_d)  # what was refused has changed nothing
    assert (model.generator_optimizer, sgd_g.get_lr(), sgd_d.get_lr()) == (sgd_g, 0.5, 0.1)
    groups = [{"params": model.generator.weight}]  # a lone parameter is a group to Paddle
    model.prepare(paddle.optimizer.SGD(0.1, groups), sgd_d)
    with pytest.raises(ValueError, match="whole number of 0 .. 4294967295, received 1.5"):
        linear(seed=1.5)


def test_gradients_of_weights_that_no_optimizer_moves_do_not_pile_up(images, tiny_config):
    norms = []
    for iterations in (1, 3):
        model = DCGAN(tiny_config)
        last = model.discriminator.parameters()[-1:]
        model.prepare(model.generator_optimizer, paddle.optimizer.SGD(0.0, last))
        model.generator_optimizer.set_lr(0.0)
        for _ in range(iterations):
            model.global_step = 0  # the same latents each time
            model.train_batch([images[:8]])
        norms.append(model.gradient_norms()["discriminator"].item())
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_a_second_schedule_begins_at_the_rates_of_the_optimizers(linear):
    model, optimizers = linear()
    for factor in (0.25, 0.5):
        model.prepare(*optimizers, schedule=lambda step, last, factor=factor: factor)
        model.train_batch([np.ones([2, 1], np.float32)])
        assert [optimizer.get_lr() for optimizer in optimizers] == pytest.approx([0.1 * factor] * 2)
