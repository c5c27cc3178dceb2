import logging
import math

import pytest

from dcgan.callbacks.watchdog import Watchdog
from dcgan.errors import TrainingError
from tests.comparisons import record


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({}, "OK", ""),
        ({"sample_std": 0.03}, "COLLAPSED", "differ only 8%"),
        ({"sample_std": 0.1}, "WARN", "differ only 25%"),
        ({"loss_g": math.inf}, "NOT FINITE", "loss_g"),
        ({"gradient_norm_d": math.nan}, "NOT FINITE", "gradient_norm_d"),
        ({"step": 50, "sample_std": 0.0}, "OK", ""),  # still warming up
        ({"sample_std": None}, "OK", ""),  # no grid was written since the start
    ],
)
def test_watchdog_names_the_state_and_its_reason(change, state, words):
    judged = record(**{"step": 500, **change})
    Watchdog(0.4, [])(judged)
    assert judged["state"] == state and words in judged["reason"] and bool(words) == bool(judged["reason"])


def test_watchdog_warns_when_the_discriminator_has_won_for_many_records():
    history = []
    dog = Watchdog(0.4, history)
    for step in range(300, 320):
        judged = record(step, score_real=0.999, score_fake=0.001)
        dog(judged)
        history.append(judged)
    assert [r["state"] for r in history] == ["OK"] * 19 + ["WARN"]


def test_watchdog_speaks_when_the_state_changes_only(caplog):
    caplog.set_level(logging.WARNING)
    history = []
    dog = Watchdog(0.4, history)
    for step, sample_std in ((500, 0.4), (510, 0.01), (520, 0.01), (530, 0.4)):
        judged = record(step, sample_std=sample_std)
        dog(judged)
        history.append(judged)
    assert len(caplog.records) == 2
    assert "step 510 is COLLAPSED" in caplog.text and "step 530 is OK" in caplog.text


def test_watchdog_stops_training_on_numbers_that_are_not_finite():
    judged = record(7, loss_d=math.nan)
    dog = Watchdog(0.4, [])
    dog(judged)
    with pytest.raises(TrainingError, match="step 7: loss_d is not a finite number"):
        dog.act(judged)


def test_gradients_that_are_never_finite_stop_a_run_that_scales_its_loss():
    """One step that overflows is skipped; if all are, nothing is learned any more."""
    history = []
    dog = Watchdog(0.4, history)
    for step in range(300, 320):
        judged = record(step, gradient_norm_g=None)
        dog(judged)
        history.append(judged)
    assert [r["state"] for r in history] == ["OK"] * 19 + ["NOT FINITE"]
