import math

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from dcgan import AdversarialModel
from dcgan.data.loader import BatchLoader
from dcgan.images import to_float
from dcgan.training import hapi
from dcgan.training.hapi import read_scalars


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


def test_static_mode_is_refused():
    paddle.enable_static()
    try:
        with pytest.raises(RuntimeError, match="disable_static"):
            AdversarialModel(None, None, InputSpec([None, 1], "float32", "z"), InputSpec([None, 1], "float32", "x"))
    finally:
        paddle.disable_static()


def test_uint8_images_are_scaled_on_the_device_to_the_bits_of_the_loader(images):
    levels = np.resize(np.arange(256, dtype=np.uint8), images.shape)
    spec = InputSpec([None, 3, 16, 16], "float32", "image")
    np.testing.assert_array_equal(hapi.check_images([levels], spec).numpy(), to_float(levels))
    with pytest.raises(ValueError, match=r"must be float32 .*, received int32"):
        hapi.check_images([levels.astype(np.int32)], spec)
    with pytest.raises(ValueError, match=r"must be uint8 .*, received float32"):  # a spec of another dtype is kept
        hapi.check_images([levels.astype(np.float32)], InputSpec([None, 3, 16, 16], "uint8", "image"))


def test_as_many_iterations_as_asked_are_done_from_the_middle_of_an_epoch_too(model, images):
    model.fit(BatchLoader(images, 8), verbose=0, num_iters=2)  # of 3
    model.fit(BatchLoader(images, 8), verbose=0, num_iters=5)
    assert (model.global_step, model.epoch, model.epoch_step) == (7, 2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs and num_iters must be at least 1, received 0 and None"),
        ({"num_iters": 0}, "received 1 and 0"),
        ({"eval_data": [1]}, "not eval_data"),
    ],
)
def test_what_two_networks_cannot_fit_is_refused(model, images, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.fit(BatchLoader(images, 8), verbose=0, **arguments)


def test_a_loader_too_short_to_go_on_with_is_refused_with_what_to_do(model, images):
    model.fit(BatchLoader(images, 8), verbose=0, num_iters=2)
    with pytest.raises(ValueError, match="after iteration 2 of its epoch.*has 2. Go on with the images and batch"):
        model.fit(BatchLoader(images, 12), verbose=0)


def test_a_callback_can_compare_what_it_is_told():
    small, large = (hapi.LazyNumber(paddle.to_tensor(value)) for value in (1.0, 2.0))
    assert small < large and large >= 2 and small == 1.0 and small != large and max(small, large) is large
    assert {small: "seen"}[1.0] == "seen"
