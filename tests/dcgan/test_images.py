"""Numbers become images without being turned, mirrored, colour-swapped or cut. PNG files are read back with PIL."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dcgan.images import encode, grid, to_float, to_uint8, with_title, write_png


@pytest.fixture
def corners():
    """Red top left, green top right, blue bottom left, dark elsewhere: uint8 [3, 6, 10], no symmetry at all."""
    image = np.full((3, 6, 10), 10, np.uint8)
    image[:, 0, 0], image[:, 0, -1], image[:, -1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return image


def test_every_level_survives_the_way_to_float_and_back():
    levels = np.arange(256, dtype=np.uint8)
    assert to_float(levels).dtype == np.float32
    assert np.array_equal(to_uint8(to_float(levels)), levels)


def test_floats_are_exactly_in_range_and_evenly_spaced():
    floats = to_float(np.arange(256, dtype=np.uint8))
    assert (floats[0], floats[255]) == (-1.0, 1.0)
    assert np.abs(floats - (np.arange(256) / 127.5 - 1)).max() < 2e-7


def test_to_uint8_rounds_to_the_nearest_level_and_cuts_what_is_beyond():
    floats = np.array([-9, -1.001, -1, -0.9962, -0.9960, 0.9960, 0.9962, 1, 1.001, 9, -np.inf, np.inf], np.float32)
    assert to_uint8(floats).tolist() == [0, 0, 0, 0, 1, 254, 255, 255, 255, 255, 0, 255]
    drawn = np.random.default_rng(0).uniform(-1, 1, 10_000).astype(np.float32)
    expected = [round((float(x) + 1) * 127.5) for x in drawn]
    assert np.abs(to_uint8(drawn).astype(int) - expected).max() == 0


def test_negative_pixels_are_mapped_not_cut_to_black():
    assert to_uint8(np.array([-0.5, 0.0, 0.5])).tolist() == [64, 128, 191]


def test_shape_is_kept_and_the_input_untouched():
    images = np.full((2, 3, 4, 5), 3.0, np.float32)
    assert to_uint8(images).shape == to_float(to_uint8(images)).shape == (2, 3, 4, 5)
    assert images.min() == 3.0


# ---- grid -----------------------------------------------------------------------------------------------------------


def cells(canvas: np.ndarray, n: int, columns: int, height: int, width: int, gap: int) -> list[np.ndarray]:
    """The images of a grid, cut out one by one."""
    found = []
    for i in range(n):
        y, x = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        found.append(canvas[:, y : y + height, x : x + width])
    return found


@pytest.mark.parametrize(
    ("n", "columns", "rows_and_columns"),
    [(1, None, (1, 1)), (2, None, (1, 2)), (5, None, (2, 3)), (100, None, (10, 10)), (7, 3, (3, 3)), (2, 8, (1, 2))],
)
def test_grid_places_images_row_by_row_unchanged(n, columns, rows_and_columns):
    images = np.random.default_rng(n).integers(0, 255, (n, 3, 4, 6), dtype=np.uint8)
    rows, across = rows_and_columns
    canvas = grid(images, columns, gap=2)
    assert canvas.shape == (3, rows * 6 + 2, across * 8 + 2)
    assert canvas.dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(cells(canvas, n, across, 4, 6, 2), images))


def test_grid_is_white_between_and_beyond_the_images():
    canvas = grid(np.zeros((3, 3, 4, 4), np.uint8), columns=2, gap=1)
    assert (canvas == 0).sum() == 3 * 3 * 16
    assert set(np.unique(canvas)) == {0, 255}
    assert canvas[:, 6:10, 6:10].min() == 255  # the fourth cell


def test_grid_without_gap_and_of_one_channel():
    images = np.arange(2 * 1 * 2 * 2, dtype=np.uint8).reshape(2, 1, 2, 2)
    canvas = grid(images, columns=2, gap=0)
    assert canvas.tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]] * 3


# ---- title ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 182, 662])
@pytest.mark.parametrize("title", ["step 100", "epoch 12 batch 1500 D loss 0.6931 G loss 12.3456 " * 2, ""])
def test_title_stands_above_the_unchanged_image_and_fits(width, title):
    image = np.random.default_rng(1).integers(0, 256, (3, 9, width), dtype=np.uint8)
    titled = with_title(image, title)
    strip = titled[:, :-9]
    assert np.array_equal(titled[:, -9:], image)
    assert titled.shape[2] == width and titled.dtype == np.uint8
    assert strip[:, :, :2].min() == strip[:, :, -2:].min() == 255
    assert (strip.min() == 255) == (not title)


# ---- PNG ------------------------------------------------------------------------------------------------------------


def test_png_is_rgb_with_rows_as_rows(tmp_path, corners):
    write_png(tmp_path / "a.png", corners)
    with Image.open(tmp_path / "a.png") as read:
        assert (read.format, read.mode, read.size) == ("PNG", "RGB", (10, 6))
        assert read.getpixel((0, 0)) == (255, 0, 0)
        assert read.getpixel((9, 0)) == (0, 255, 0)
        assert read.getpixel((0, 5)) == (0, 0, 255)
        assert np.array_equal(np.asarray(read).transpose(2, 0, 1), corners)


def test_encoded_png_takes_any_memory_layout(corners):
    for view in (corners[:, ::-1], corners[:, :, ::2], np.asfortranarray(corners)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(view, ".png")))).transpose(2, 0, 1), view)


def test_failed_write_leaves_the_old_image(tmp_path, corners, monkeypatch):
    write_png(tmp_path / "a.png", corners)
    before = (tmp_path / "a.png").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deploy.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_png(tmp_path / "a.png", 255 - corners)
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
