import copy

import numpy as np
import paddle
import pytest

from dcgan.errors import ExportError
from dcgan.networks import Generator
from deploy.latents import latents
from export.batchnorm import FIRST_SEED, calibration_latents, recalibrate


@pytest.fixture
def generator():
    """Statistics far from those of its weights."""
    paddle.seed(3)
    network = Generator(8, 4, 16)
    for layer in (network.bn_1, network.bn_2):
        layer._mean.set_value(np.full(layer._mean.shape, 0.3, np.float32))
        layer._variance.set_value(np.full(layer._variance.shape, 4.0, np.float32))
    return network


def draw(network, z):
    with paddle.no_grad():
        return network(paddle.to_tensor(z)).numpy()


def statistics(network):
    return {name: t.numpy() for name, t in network.state_dict().items() if name.endswith(("_mean", "_variance"))}


def test_the_calibration_latents_are_drawn_as_one_training_batch_of_all_of_them(generator):
    """Independent of the measuring: Paddle's own training mode normalises by the statistics of its batch."""
    z = calibration_latents(60, 8)
    training = copy.deepcopy(generator)
    training.train()
    expected = draw(training, z)
    assert np.abs(draw_eval(generator, z) - expected).max() > 0.01
    recalibrate(generator, 8, batches=6, batch_size=10)
    assert np.abs(draw(generator, z) - expected).max() < 1e-5


def draw_eval(network, z):
    network.eval()
    return draw(network, z)


def test_the_first_layer_gets_the_statistics_of_all_latents_there_are(generator):
    """Its outputs are linear in z, so that its mean and variance are known without drawing a single latent."""
    recalibrate(generator, 8, batches=4, batch_size=8)
    weight = generator.conv_1.weight.numpy().astype(np.float64)  # [8, 8, 4, 4]
    assert np.abs(generator.bn_1._mean.numpy()).max() < 1e-7
    assert np.allclose(generator.bn_1._variance.numpy(), (weight**2).sum(axis=0).mean(axis=(1, 2)), rtol=1e-5)


def test_calibration_latents_are_standardised_when_there_are_enough():
    z = calibration_latents(400, 100).astype(np.float64)
    assert np.abs(z.mean(axis=0)).max() < 1e-6 and np.abs(z.T @ z / 400 - np.eye(100)).max() < 1e-6
    assert np.array_equal(calibration_latents(399, 100), latents(FIRST_SEED + np.arange(399), 100))


def test_the_size_of_the_batches_does_not_matter(generator):
    other = copy.deepcopy(generator)
    recalibrate(generator, 8, batches=3, batch_size=16)
    recalibrate(other, 8, batches=16, batch_size=3)
    for name, value in statistics(generator).items():
        assert np.allclose(value, statistics(other)[name], rtol=1e-5, atol=1e-7)


def test_only_the_statistics_change_and_a_second_time_changes_nothing(generator):
    before = {name: tensor.numpy() for name, tensor in generator.state_dict().items()}
    first = recalibrate(generator, 8, 4, 8)
    once = {name: tensor.numpy() for name, tensor in generator.state_dict().items()}
    second = recalibrate(generator, 8, 4, 8)
    assert {name for name in before if not np.array_equal(before[name], once[name])} == set(statistics(generator))
    assert all(np.array_equal(once[name], value) for name, value in statistics(generator).items())
    assert first.max_change > 0 and second.max_change == second.mean_change == 0
    assert not any(part.training for part in generator.sublayers(include_self=True))


def test_the_report_is_of_the_pictures_of_the_first_hundred_seeds(generator):
    z = latents(range(100), 8)
    before = draw_eval(generator, z)
    report = recalibrate(generator, 8, 4, 8)
    change = np.abs(draw(generator, z) - before)
    assert report.mean_change == pytest.approx(change.mean()) and report.max_change == pytest.approx(change.max())
    assert (report.latents, report.layers) == (32, 2)
    assert "2 layers re-estimated over 32 latents" in report.sentence()


def test_saturated_share_is_counted(generator):
    generator.conv_3.weight.set_value(generator.conv_3.weight * 1000)
    z = latents(range(100), 8)
    report = recalibrate(generator, 8, 4, 8)
    assert (
        report.saturated_after == pytest.approx((np.abs(draw(generator, z)) > 0.99).mean())
        and report.saturated_after > 0
    )


def test_weights_that_are_not_finite_are_named_by_layer(generator):
    generator.conv_2.weight.set_value(np.full(generator.conv_2.weight.shape, np.inf, np.float32))
    with pytest.raises(ExportError, match="before bn_2 are not finite"):
        recalibrate(generator, 8, 2, 4)


def test_no_batch_is_refused(generator):
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate(generator, 8, 0)
