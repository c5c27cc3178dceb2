import gc

import cv2
import matplotlib
import pytest

from dcgan.callbacks.plots import plot_losses
from tests.comparisons import record


def test_loss_plot_is_a_image_even_with_gaps(tmp_path):
    plot_losses([record(1), record(2, loss_d=None), record(3)], tmp_path / "loss.png")
    assert cv2.imread(str(tmp_path / "loss.png")).shape == (600, 900, 3)


@pytest.mark.parametrize(("name", "value"), [("text.usetex", True), ("axes.facecolor", "black"), ("font.size", 30)])
def test_what_the_user_set_in_matplotlib_changes_no_plot(tmp_path, monkeypatch, name, value):
    """LaTeX, which a matplotlibrc may ask for, is often not installed: the first plot would end the training."""
    records = [record(step) for step in (1, 2)]
    plot_losses(records, tmp_path / "before.png")
    monkeypatch.setitem(matplotlib.rcParams, name, value)
    plot_losses(records, tmp_path / "after.png")
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "before.png").read_bytes()
    assert matplotlib.rcParams[name] == value


def test_a_plot_leaves_no_figure_behind(tmp_path):
    """Beside the many objects of Paddle, circles are collected so rarely that memory grew with every plot."""

    def figures() -> list:
        return [each for each in gc.get_objects() if type(each).__name__ in ("Figure", "Axes", "RendererAgg")]

    gc.disable()
    try:
        before = figures()  # of other tests; held, so that no new one takes the address of an old one
        plot_losses([record(step) for step in (1, 2)], tmp_path / "loss.png")
        old = {id(each) for each in before}
        assert [each for each in figures() if id(each) not in old] == []
    finally:
        gc.enable()
