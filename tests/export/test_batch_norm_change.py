import numpy as np
import paddle
import pytest

from dcgan.errors import ExportError
from dcgan.networks.generator import Generator
from deploy.seeds import latents
from export.batch_norm_change import reestimate


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


def draw_eval(network, z):
    network.eval()
    return draw(network, z)


def test_a_second_time_changes_nothing(generator):
    assert reestimate(generator, 8, 1).max_change > 0
    second = reestimate(generator, 8, 1)
    assert second.max_change == second.mean_change == 0


def test_the_report_is_of_the_images_of_the_first_hundred_seeds(generator):
    z = latents(range(100), 8)
    before = draw_eval(generator, z)
    report = reestimate(generator, 8, 1)
    change = np.abs(draw(generator, z) - before)
    assert report.mean_change == pytest.approx(change.mean()) and report.max_change == pytest.approx(change.max())
    assert (report.latents, report.layers) == (64, 2)
    assert "2 layers re-estimated over 64 latents" in report.sentence()


def test_saturated_share_is_counted(generator):
    generator.conv_3.weight.set_value(generator.conv_3.weight * 1000)
    z = latents(range(100), 8)
    report = reestimate(generator, 8, 1)
    assert (
        report.saturated_after == pytest.approx((np.abs(draw(generator, z)) > 0.99).mean())
        and report.saturated_after > 0
    )


def test_weights_that_are_not_finite_are_named_by_layer(generator):
    generator.conv_2.weight.set_value(np.full(generator.conv_2.weight.shape, np.inf, np.float32))
    with pytest.raises(ExportError, match="before bn_2 are not finite"):
        reestimate(generator, 8, 1)


def test_no_batch_is_refused(generator):
    with pytest.raises(ValueError, match="at least one batch"):
        reestimate(generator, 8, 0)
