import cv2

from dcgan.callbacks.plots import plot_losses
from tests.comparisons import record


def test_loss_plot_is_a_image_even_with_gaps(tmp_path):
    plot_losses([record(1), record(2, loss_d=None), record(3)], tmp_path / "loss.png")
    assert cv2.imread(str(tmp_path / "loss.png")).shape == (600, 900, 3)
