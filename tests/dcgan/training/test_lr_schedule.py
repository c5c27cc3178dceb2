"""The factor on the learning rates, against the definition in exact fractions."""

from fractions import Fraction

import pytest

from dcgan.training.lr_schedule import WarmupAndDecay


def test_rise_then_one_then_fall_to_nothing_at_the_end():
    schedule = WarmupAndDecay(warmup_steps=4, decay=0.5)
    factors = [schedule(step, 20) for step in range(20)]
    rise = [Fraction(n, 4) for n in (1, 2, 3, 4)]
    fall = [Fraction(n, 10) for n in range(10, 0, -1)]
    assert factors == pytest.approx([float(f) for f in [*rise, *[Fraction(1)] * 6, *fall]])
    assert schedule(20, 20) == 0.0 == schedule(25, 20)


def test_either_part_can_be_left_out():
    assert [WarmupAndDecay(0, 1.0)(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [WarmupAndDecay(2, 0.0)(step, None) for step in range(3)] == [0.5, 1.0, 1.0]
    assert WarmupAndDecay(0, 0.0)(7, None) == 1.0


def test_rise_and_fall_that_overlap_multiply():
    assert WarmupAndDecay(4, 1.0)(1, 4) == pytest.approx(0.5 * 0.75)


def test_a_fall_towards_an_unknown_end_is_refused():
    with pytest.raises(ValueError, match="must know the end of training: set model.last_step"):
        WarmupAndDecay(0, 0.5)(0, None)
