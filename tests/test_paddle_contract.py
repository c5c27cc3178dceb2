"""What the engine relies on in paddle.Model beyond its documentation; a red test here means: read hapi again."""

import inspect

import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.data.loader import BatchLoader


def test_this_is_the_paddle_that_the_engine_was_written_for():
    assert paddle.__version__ == "3.2.2"


def test_the_loop_has_the_methods_and_parameters_that_are_overridden():
    epoch = inspect.signature(paddle.Model._run_one_epoch).parameters
    assert list(epoch) == ["self", "data_loader", "callbacks", "mode", "logs"]
    fit = inspect.signature(paddle.Model.fit).parameters
    assert {"train_data", "epochs", "verbose", "callbacks", "accumulate_grad_batches"} <= set(fit)
    assert list(inspect.signature(paddle.Model.train_batch).parameters) == ["self", "inputs", "labels", "update"]


def test_the_loop_calls_train_batch_once_per_batch_with_one_field(tiny_config, images, monkeypatch):
    model, calls = DCGAN(tiny_config), []
    monkeypatch.setattr(
        model, "scalars", {n: paddle.zeros([]) for n in ("loss_d", "loss_g", "score_real", "score_fake")}
    )
    monkeypatch.setattr(
        model, "train_batch", lambda inputs, labels, update: calls.append((len(inputs), labels, update))
    )
    model.fit(BatchLoader(images, 8), epochs=2, verbose=0)
    assert calls == [(1, [], True)] * 6


def test_each_epoch_has_a_log_dict_of_its_own(tiny_config, images):
    seen = []

    class Keep(paddle.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs)

    DCGAN(tiny_config).fit(BatchLoader(images, 8), epochs=2, verbose=0, callbacks=[Keep()])
    assert len(seen) == 2 and seen[0] is not seen[1]
    assert seen[0]["batch_size"] == 8 and seen[0]["step"] == 2


def test_training_goes_on_after_somebody_stopped_it(tiny_config, images):
    model = DCGAN(tiny_config)
    model.fit(BatchLoader(images, 8), epochs=5, num_iters=2, verbose=0)
    assert model.global_step == 2
    model.fit(BatchLoader(images, 8), epochs=2, verbose=0)
    assert model.global_step == 2 + 1 + 3  # the rest of the epoch, then a whole one


def test_paddles_model_checkpoint_saves_what_load_takes(tiny_config, images, tmp_path):
    model, other = DCGAN(tiny_config), DCGAN(tiny_config)
    model.fit(BatchLoader(images, 8), epochs=1, verbose=0, save_dir=str(tmp_path), save_freq=1)
    other.load(tmp_path / "final")
    assert np.array_equal(other.generate(0), model.generate(0)) and other.global_step == 3


def test_optimizer_slots_can_be_made_before_the_first_step():
    layer = paddle.nn.Linear(2, 2)
    adam = paddle.optimizer.Adam(parameters=layer.parameters())
    adam._create_accumulators(paddle.base.default_main_program().global_block(), layer.parameters())
    assert set(adam._accumulators) == {"moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc"}


def test_batch_norm_statistics_count_as_parameters_without_gradient():
    norm = paddle.nn.BatchNorm2D(3)
    assert sorted(name for name, p in norm.named_parameters() if p.stop_gradient) == ["_mean", "_variance"]


@pytest.mark.gpu
@pytest.mark.skipif(paddle.device.cuda.device_count() == 0, reason="Paddle sees no GPU")
def test_one_iteration_runs_on_a_gpu_in_mixed_precision(tiny_config, images):
    import dataclasses

    model = DCGAN(dataclasses.replace(tiny_config, device="gpu", amp="O1"))
    model.fit(BatchLoader(images, 8), epochs=1, verbose=0)
    assert np.isfinite(model.generate(0)).all()
