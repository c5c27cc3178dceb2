import numpy as np
import pytest

from dcgan.errors import ExportError
from deploy.seeds import latents
from export.batch_norm_change import precise_bn_change
from tests.comparisons import mapped, mapped_in_eval_mode


def test_a_second_time_changes_nothing(stale_generator):
    assert precise_bn_change(stale_generator, 8, 1).max_change > 0
    second = precise_bn_change(stale_generator, 8, 1)
    assert second.max_change == second.mean_change == 0


def test_the_report_is_of_the_images_of_the_first_hundred_seeds(stale_generator):
    z = latents(range(100), 8)
    before = mapped_in_eval_mode(stale_generator, z)
    report = precise_bn_change(stale_generator, 8, 1)
    change = np.abs(mapped(stale_generator, z) - before)
    assert report.mean_change == pytest.approx(change.mean()) and report.max_change == pytest.approx(change.max())
    assert (report.latents, report.layers) == (64, 2)
    assert "2 layers re-estimated over 64 latents" in report.sentence()


def test_saturated_share_is_counted(stale_generator):
    stale_generator.conv_3.weight.set_value(stale_generator.conv_3.weight * 1000)
    z = latents(range(100), 8)
    report = precise_bn_change(stale_generator, 8, 1)
    assert (
        report.saturated_after == pytest.approx((np.abs(mapped(stale_generator, z)) > 0.99).mean())
        and report.saturated_after > 0
    )


def test_weights_that_are_not_finite_are_named_by_layer(stale_generator):
    stale_generator.conv_2.weight.set_value(np.full(stale_generator.conv_2.weight.shape, np.inf, np.float32))
    with pytest.raises(ExportError, match="before bn_2 are not finite"):
        precise_bn_change(stale_generator, 8, 1)


def test_no_batch_is_refused(stale_generator):
    with pytest.raises(ValueError, match="at least one batch"):
        precise_bn_change(stale_generator, 8, 0)
