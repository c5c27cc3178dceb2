"""The film, rows of faces and thumbnails show what the run and its export hold."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from dcgan.errors import ProjectError
from dcgan.images import grid, with_title, write_png
from deploy.images import to_uint8
from deploy.runtimes import load_generator
from docs import make_images

SIZE = 16
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def run_folder(tmp_path):
    """A run of four sample grids: at step 100 k every face is of level 60 k, and face 7 is white."""
    run = tmp_path / "00000-faces"
    (run / "samples").mkdir(parents=True)
    for k in range(4):
        faces = np.full([100, 3, SIZE, SIZE], 60 * k, np.uint8)
        faces[7] = 255
        write_png(run / "samples" / f"step-{100 * k:08d}.png", with_title(grid(faces), "title"))
    write_png(run / "real.png", grid(np.full([100, 3, SIZE, SIZE], 30, np.uint8)))
    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An ONNX export of an untrained generator of 16 x 16 images."""
    from dcgan import DCGAN, TrainConfig
    from export.exporter import ExportConfig, export

    folder = tmp_path_factory.mktemp("images")
    config = TrainConfig(image_size=SIZE, base_channels=4, latent_dim=8, device="cpu")
    DCGAN(config).save(folder / "checkpoint", extra={"config": config.to_json()})
    export(folder / "export", ExportConfig(folder / "checkpoint", precise_bn=2))
    return folder / "export"


def cells(frame, columns):
    """The faces of a frame [H, W, 3] that consists of cells and gaps: the middle of each."""
    size = (frame.shape[1] - 2) // columns - 2
    middles = [2 + i * (size + 2) + size // 2 for i in range(columns)]
    return frame[middles][:, middles]


def test_a_row_holds_the_first_faces_of_the_last_grid_or_the_training_images(run_folder, tmp_path, capsys):
    out = tmp_path / "rows" / "row.png"
    assert make_images.main(["faces", str(run_folder), "--out", str(out), "--n", "9"]) == 0
    row = np.asarray(Image.open(out)).astype(int)
    assert row.shape == (SIZE + 4, 9 * (SIZE + 2) + 2, 3) and "row.png: 0 KB" in capsys.readouterr().out
    middles = row[10, [2 + i * (SIZE + 2) + 8 for i in range(9)], 0]
    assert middles.tolist() == [180] * 7 + [255, 180]
    assert make_images.main(["faces", str(run_folder), "--out", str(out), "--real"]) == 0
    assert np.asarray(Image.open(out))[10, 10, 0] == 30


def test_the_film_shows_the_training_then_a_walk_that_ends_where_it_began(run_folder, model, tmp_path):
    out = tmp_path / "film.webp"
    assert make_images.main(["film", str(run_folder), "--model", str(model), "--out", str(out)]) == 0
    film = Image.open(out)
    frames = []
    for i in range(film.n_frames):
        film.seek(i)
        frames.append(np.asarray(film.convert("RGB")).astype(int))
    assert film.info["loop"] == 0 and out.stat().st_size <= 2_000_000
    for k, frame in enumerate(frames[:4]):
        middles = cells(frame, 5)[..., 0]
        assert np.abs(np.delete(middles.ravel(), 7) - 60 * k).max() < 20 and middles[1, 2] > 230
    first, *_, last = make_images.walk(model)
    generator = load_generator(model, device="cpu")
    assert np.abs(to_uint8(generator.generate(range(25))).astype(int) - last).max() <= 1
    assert (
        np.abs(first.astype(int) - last).mean()
        < np.abs(to_uint8(generator.generate(range(100, 125))) - 1.0 * last).mean()
    )
    assert np.abs(cells(frames[-1], 5) - cells(grid(last).transpose(1, 2, 0), 5)).mean() < 12


def test_a_film_of_a_long_training_shows_more_of_its_beginning():
    steps = list(range(0, 22_000, 100))
    chosen = make_images.moments(steps)
    assert 30 <= len(chosen) <= 40 and chosen[:3] == [0, 100, 200] and chosen[-1] == 21_900
    assert len([step for step in chosen if step < 5_000]) > len([step for step in chosen if step > 17_000])
    assert make_images.moments(steps[:39]) == steps[:39]


def test_a_film_that_does_not_fit_and_a_folder_that_is_no_run_are_refused(run_folder, model, tmp_path):
    arguments = ["--model", str(model), "--out", str(tmp_path / "film.webp")]
    with pytest.raises(ProjectError, match="do not fit into 500 bytes"):
        make_images.main(["film", str(run_folder), *arguments, "--most-bytes", "500"])
    with pytest.raises(ProjectError, match="holds no sample grid"):
        make_images.main(["film", str(tmp_path), *arguments])
    assert not (tmp_path / "film.webp").exists()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_thumbnails_are_of_the_report_and_the_playground(run_folder, model, tmp_path):
    pytest.importorskip("playwright", reason="Playwright is not installed: no browser can be driven")
    assert make_images.main(["pages", str(run_folder), "--model", str(model), "--out", str(tmp_path)]) == 0
    names = ("report.jpg", "playground.jpg", "report.zh.jpg", "playground.zh.jpg")
    report, playground, *chinese = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in names)
    assert report.shape == playground.shape == (539, 500, 3)
    assert report.std() > 10 and playground.std() > 10 and np.abs(report - playground).mean() > 5
    for english, other in zip((report, playground), chinese):
        assert 0.5 < np.abs(english - other).mean() < 20  # the same page in other words
