"""An image file becomes a row: channels first, RGB, row by row as it lies in the file."""

import cv2
import numpy as np

from dcgan.data.decode import DEFAULT_LIMITS
from dcgan.data.image_to_row import image_to_row, rows
from dcgan.data.sources import open_source
from dcgan.images import write_png


def write_images(folder, count=1):
    """Noise with a red, a green and a blue corner, written by OpenCV."""
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (count, 20, 16, 3), dtype=np.uint8)
    images[:, :4, :4], images[:, :4, -4:], images[:, 12:16, :4] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i}.png"), image[..., ::-1])
    return images[:, :16]


def test_rows_stay_rows_and_red_stays_red(tmp_path):
    (image,) = write_images(tmp_path / "in")
    row = image_to_row(open_source(str(tmp_path / "in")), 0, 16, "0,0")
    assert row.dtype == np.uint8 and np.array_equal(row, np.moveaxis(image, 2, 0))
    write_png(tmp_path / "out.png", row)
    assert np.array_equal(cv2.imread(str(tmp_path / "out.png"))[..., ::-1], image)


def test_rows_are_in_order_and_what_cannot_be_read_is_a_sentence_in_its_place(tmp_path):
    images = write_images(tmp_path / "in", 5)
    (tmp_path / "in" / "2.png").write_bytes(b"no image")
    source = open_source(str(tmp_path / "in"))
    (found,) = rows(source, 16, "0,0", DEFAULT_LIMITS, workers=2)
    assert found[2].startswith("not a JPEG, PNG, WebP or BMP")
    assert [found[i] for i in (0, 1, 3, 4)] == [images[i].transpose(2, 0, 1).tobytes() for i in (0, 1, 3, 4)]
