"""JPEG files that end early or were damaged in the middle, which Pillow lets pass, and whole ones that look odd."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dcgan.data.decode import decode_image
from dcgan.errors import DataError
from tests.dcgan.data.encoded import noise, save


def is_close(image, expected, tolerance):
    return np.abs(image.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_jpeg_cut_and_closed_with_an_end_marker_is_refused(mode, share):
    whole = save(noise(), "JPEG", mode)
    with pytest.raises(DataError, match="truncated JPEG"):
        decode_image(whole[: int(len(whole) * share)] + b"\xff\xd9")


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_progressive_jpeg_cut_anywhere_and_closed_is_refused(subsampling):
    whole = save(noise(), "JPEG", progressive=True, subsampling=subsampling)
    start = whole.index(b"\xff\xda")  # before it there is no content
    for cut in range(start, len(whole) - 3, len(whole) // 60):
        with pytest.raises(DataError):
            decode_image(whole[:cut] + b"\xff\xd9")


def photograph(seed):
    """Soft shapes with grain, 178 x 218: what JPEG is made for."""
    random = np.random.default_rng(seed)
    shapes = cv2.resize(random.integers(0, 256, (9, 7, 3), np.uint8), (178, 218), interpolation=cv2.INTER_CUBIC)
    return np.clip(shapes + random.normal(0, 4, shapes.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("change", "at_most"), [("left out", 2), ("zeros", 20)])
def test_jpegs_damaged_in_the_middle_are_refused_where_the_content_no_longer_fits(change, at_most):
    """40 bytes in the middle of 60 files. libjpeg itself warns of 58 and of 43; in the others the codes fall back into
    step and give as many pixels as before."""
    accepted = []
    for i in range(60):
        whole = save(photograph(i), "JPEG", quality=80)
        at = len(whole) // 3 + int(np.random.default_rng(i).integers(len(whole) // 3))
        try:
            decode_image(whole[:at] + (bytes(40) if change == "zeros" else b"") + whole[at + 40 :])
        except DataError:
            continue
        accepted.append(i)
    assert len(accepted) <= at_most, accepted


def test_a_jpeg_with_more_content_than_its_image_needs_is_refused():
    whole = save(photograph(0), "JPEG")
    start = whole.index(b"\xff\xda") + 14
    with pytest.raises(DataError, match="complete before its content ends"):
        decode_image(whole[:-2] + whole[start : start + 100] + whole[-2:])


@pytest.mark.parametrize("quality", [1, 30, 75, 100])
def test_whole_jpegs_are_never_taken_for_damaged_ones(quality):
    flat, half_flat = np.full((218, 178, 3), 200, np.uint8), photograph(0)
    half_flat[100:] = 0
    images = (photograph(1), flat, half_flat, flat[:1, :1], photograph(2)[:9, :17], flat[:, :3])
    for image in images:
        for mode in ("RGB", "L", "CMYK"):
            for options in (
                {},
                {"subsampling": 0},
                {"progressive": True},
                {"optimize": True},
                {"restart_marker_rows": 1},
            ):
                assert decode_image(save(image, "JPEG", mode, quality=quality, **options)).shape == image.shape


def test_bytes_that_some_cameras_put_before_the_end_marker_are_no_damage():
    for padding in (b"\0" * 5000, b"\xff" * 9, b"\0\xff"):
        whole = save(photograph(0), "JPEG")
        assert np.array_equal(decode_image(whole[:-2] + padding + whole[-2:]), decode_image(whole))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_whole_jpeg_of_one_colour_is_not_taken_for_a_cut_one(progressive):
    for grey in (0, 128, 255):
        image = np.full((70, 50, 3), grey, np.uint8)
        assert is_close(decode_image(save(image, "JPEG", progressive=progressive)), image, 1)
