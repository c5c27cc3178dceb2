"""What the engine relies on in paddle.Model beyond its documentation; a red test here means: read hapi again."""

import importlib
import inspect

import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.data.loader import BatchLoader
from dcgan.training.precision import HALF_PRECISION_OPERATORS


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_mixed_precision_covers_the_convolutions_of_both_networks_only_with_our_addition(dtype, level):
    """By the lists that auto_cast itself makes of Paddle's and the custom ones."""
    update = importlib.import_module("paddle.amp.auto_cast")._update_list
    paddles_own, _ = update(None, None, level, dtype)
    assert "conv2d" in paddles_own
    assert "conv2d_transpose" not in paddles_own, "Paddle has it now: HALF_PRECISION_OPERATORS may go"
    white, black = update(set(HALF_PRECISION_OPERATORS), None, level, dtype)
    assert {"conv2d", "conv2d_transpose"} <= white
    assert not {"conv2d", "conv2d_transpose"} & black


def test_this_build_has_the_switches_that_a_plan_sets_on_a_gpu_if_it_is_built_for_cuda():
    """A CPU build has none of them, which is why a plan sets them only on a GPU."""
    has_cuda = paddle.is_compiled_with_cuda()
    assert hasattr(paddle.base.core, "set_cudnn_switch") == hasattr(paddle.base.core, "set_cublas_switch") == has_cuda
    if has_cuda:
        assert "FLAGS_cudnn_deterministic" in paddle.get_flags("FLAGS_cudnn_deterministic")
    else:
        with pytest.raises(ValueError, match="FLAGS_cudnn_deterministic cannot set"):
            paddle.set_flags({"FLAGS_cudnn_deterministic": True})


@pytest.mark.gpu
@pytest.mark.skipif(paddle.device.cuda.device_count() == 0, reason="Paddle sees no GPU")
def test_one_iteration_runs_on_a_gpu_in_mixed_precision(tiny_config, images):
    import dataclasses

    model = DCGAN(dataclasses.replace(tiny_config, device="gpu", amp="O1"))
    model.fit(BatchLoader(images, 8), epochs=1, verbose=0)
    assert np.isfinite(model.generate(0)).all()
