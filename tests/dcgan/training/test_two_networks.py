import dataclasses
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.data.loader import BatchLoader
from dcgan.errors import CheckpointError
from dcgan.networks.batch_norm import precise_bn_latents
from tests.comparisons import equal, everything


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


def test_a_seed_is_the_same_image_alone_and_among_others(model, loader):
    model.fit(loader, epochs=1, verbose=0)
    together = model.generate(range(20))
    assert together.shape == (20, 3, 16, 16) and together.dtype == np.float32
    assert np.abs(together).max() <= 1
    np.testing.assert_allclose(model.generate(7)[0], together[7], atol=1e-6)
    np.testing.assert_allclose(model.generate(range(20), batch_size=3), together, atol=1e-6)


def test_processes_that_share_a_grid_unevenly_generate_the_whole_of_it(model, monkeypatch):
    """Ten seeds in three processes: four each, and what is too much is cut off."""
    alone, parts = model.generate(range(10)), []
    for rank in range(3):
        group = types.SimpleNamespace(size=3, rank=rank, all_gather=lambda own: parts.append(own) or own)
        monkeypatch.setattr(model, "process_group", group)
        model.generate_sharded(range(10))
    assert [len(part) for part in parts] == [4, 4, 4]
    np.testing.assert_allclose(np.concatenate(parts)[:10], alone, atol=1e-6)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_generating_leaves_modes_and_gradients_as_they_were(tiny_config, images, ema):
    model = DCGAN(dataclasses.replace(tiny_config, ema=ema))
    model.train_batch([images[:8]])
    networks = (model.generator, model.discriminator, model.network)

    def seen():
        gradients = [p.grad.numpy() for p in model.parameters() if p.grad is not None]
        return [network.training for network in networks], gradients

    modes, gradients = seen()
    assert modes[:2] == [True, True] and gradients
    model.generate(range(3))
    assert seen()[0] == modes and all(map(np.array_equal, seen()[1], gradients))


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


def test_without_averaging_the_generator_itself_generates(tiny_config):
    model = DCGAN(dataclasses.replace(tiny_config, ema=0.0))
    assert model.network is model.generator


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


def test_several_threads_may_sample_at_once(tiny_config, images):
    model, other = DCGAN(tiny_config), DCGAN(tiny_config)
    for each in (model, other):
        each.fit(BatchLoader(images, 8), verbose=0)
    expected = model.generate(range(24))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: other.generate(range(24), 5), range(8)):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sampling_leaves_the_mode_as_it_was(tiny_config):
    model = DCGAN(dataclasses.replace(tiny_config, ema=0.0, precise_bn=True))
    model.generator.train()
    model.generate(0)
    model.predict_batch([np.zeros([2, 8], np.float32)])
    assert model.generator.training


def test_latents_and_seeds_that_do_not_fit_are_refused(tiny_config):
    model = DCGAN(tiny_config)
    for wrong in (np.zeros([4, 4]), np.zeros([0, 8])):
        with pytest.raises(ValueError, match=r"one field of \[N, 8\], received \[\d, \d\]"):
            model.predict_batch([wrong])
    column = np.ones([2, 8, 1, 1])  # as Paddle's transposed convolutions take them, and float64
    assert np.array_equal(model.predict_batch([column])[0], model.predict_batch([column.reshape(2, 8)])[0])
    for seeds, batch_size in (([], 100), ([1], -1)):
        with pytest.raises(ValueError, match="at least one seed and a batch_size of at least 1"):
            model.generate(seeds, batch_size)


def test_a_checkpoint_with_an_average_is_not_loaded_into_a_model_without(tiny_config, tmp_path):
    DCGAN(tiny_config).save(tmp_path / "c")
    with pytest.raises(CheckpointError, match="it holds a generator_ema, which this model was not built with"):
        DCGAN(dataclasses.replace(tiny_config, ema=0.0)).load(tmp_path / "c")


def test_a_seed_is_the_same_bits_whoever_sampled_before(tiny_config, images):
    model = DCGAN(tiny_config)
    model.train_batch([images[:8]])
    first, second = model.generate(range(5)), model.generate(range(5))
    assert np.array_equal(first, second)


def test_an_iteration_that_comes_while_statistics_are_estimated_is_not_forgotten(tiny_config, images, monkeypatch):
    model = DCGAN(tiny_config)
    estimate = model._estimate_statistics
    monkeypatch.setattr(model, "_estimate_statistics", lambda: (estimate(), model.train_batch([images[:8]])))
    model.generate(0)
    assert model._statistics_are_stale
