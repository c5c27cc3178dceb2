import cv2
import numpy as np
import pytest

from dcgan.metrics.ms_ssim import mean_ms_ssim, ms_ssim


def reference_ms_ssim(a, b, weights):
    """One pair of one channel, from the definition, with OpenCV's blur."""

    def terms(x, y):
        def blurred(v):
            return cv2.GaussianBlur(v, (11, 11), 1.5)[5:-5, 5:-5]

        mx, my = blurred(x), blurred(y)
        vx, vy, cov = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
        return (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4), (2 * cov + 9e-4) / (vx + vy + 9e-4)

    x, y, result = a / 255, b / 255, 1.0
    for i, weight in enumerate(weights):
        luminance, contrast = terms(x, y)
        term = (luminance * contrast if i == len(weights) - 1 else contrast).mean()
        result *= max(term, 0) ** weight
        x, y = (cv2.resize(v, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for v in (x, y))
    return result


def test_pairs_are_compared_as_defined(faces):
    a, b = faces[0][:6], faces[1][:6]
    weights = np.array([0.0448, 0.2856, 0.3001])
    weights /= weights.sum()
    expected = [
        np.mean([reference_ms_ssim(p[c].astype(float), q[c].astype(float), weights) for c in range(3)])
        for p, q in zip(a, b)
    ]
    assert ms_ssim(a, b) == pytest.approx(expected, abs=2e-4)


def test_equal_images_are_alike_and_inverted_ones_are_not(faces):
    images = faces[0][:4]
    assert ms_ssim(images, images) == pytest.approx(1, abs=1e-6)
    assert (ms_ssim(images, 255 - images) < 0.1).all()


def test_the_less_a_set_varies_the_more_alike_its_images_are(faces, spoil):
    _, other = faces
    figures = [mean_ms_ssim(spoil["repeat"](other, count)) for count in (128, 16, 4, 1)]
    assert figures == sorted(figures) and figures[-1] == pytest.approx(1, abs=1e-6)
    assert figures[0] < 0.3


@pytest.mark.parametrize("size", [16, 32])
def test_small_images_are_compared_at_the_scales_that_fit_the_window(faces, size):
    images = np.ascontiguousarray(faces[0][:4, :, :size, :size])
    assert ms_ssim(images, images) == pytest.approx(1, abs=1e-6)


def test_too_few_and_too_small_images_are_refused(faces):
    with pytest.raises(ValueError, match="at least 2 images"):
        mean_ms_ssim(faces[0][:1])
    with pytest.raises(ValueError, match="at least 11 pixels"):
        mean_ms_ssim(faces[0][:4, :, :8, :8])
