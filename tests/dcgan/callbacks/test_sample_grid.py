import cv2
import numpy as np
import pytest

from dcgan import DCGAN
from dcgan.callbacks.sample_grid import SampleGrid, sample_std_of
from dcgan.callbacks.stopping import StopAt
from dcgan.data.loader import BatchLoader


def test_samples_are_the_same_seeds_every_time_with_the_tutorials_title(tiny_config, images, tmp_path):
    model = DCGAN(tiny_config)
    samples = SampleGrid(3, 4, tmp_path / "samples", images)
    (tmp_path / "samples").mkdir()
    model.fit(BatchLoader(images, 8), epochs=2, verbose=0, callbacks=[samples])
    written = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert written == [f"step-{n:08d}.png" for n in (0, 3, 4, 6)]
    shown = cv2.imread(str(tmp_path / "samples" / "step-00000006.png"))[:, :, ::-1]
    assert shown.shape == (28 + 10 * 18 + 2, 10 * 18 + 2, 3)
    face = shown[28 + 2 + 18 : 28 + 2 + 18 + 16, 2 + 2 * 18 : 2 + 2 * 18 + 16]  # second row, third column: seed 12
    expected = np.rint((model.generate(12)[0] + 1) * 127.5).transpose(1, 2, 0)
    assert np.abs(face.astype(int) - expected).max() <= 1  # generated in a batch of 100: float error may cross a level
    assert samples.sample_std == pytest.approx(float(model.generate(range(100)).std(axis=0).mean()), rel=1e-4)


def test_samples_are_written_early_and_wherever_training_is_stopped(tiny_config, images, tmp_path):
    samples = SampleGrid(100, 1000, tmp_path / "samples", images)
    model = DCGAN(tiny_config)
    model.fit(BatchLoader(images, 8), epochs=20, verbose=0, callbacks=[samples, StopAt(53)])
    written = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert written == [f"step-{n:08d}.png" for n in (0, 25, 50, 53)]


def test_a_grid_of_a_stop_at_the_end_of_an_epoch_names_its_last_batch(tiny_config, images, tmp_path, monkeypatch):
    from dcgan.callbacks import sample_grid

    titles = []
    monkeypatch.setattr(sample_grid, "with_title", lambda image, title: (titles.append(title), image)[1])
    (tmp_path / "samples").mkdir()
    samples = SampleGrid(100, 1000, tmp_path / "samples", images)
    DCGAN(tiny_config).fit(BatchLoader(images, 8), epochs=9, verbose=0, callbacks=[samples, StopAt(6)])
    assert titles[-1].startswith("Epoch 2 Batch 3 - D loss")


def test_comparison_shows_training_images_beside_the_latest_grid(tiny_config, images, tmp_path):
    (tmp_path / "samples").mkdir()
    samples = SampleGrid(1, 3, tmp_path / "samples", images)
    DCGAN(tiny_config).fit(BatchLoader(images, 8), epochs=1, verbose=0, callbacks=[samples])
    both = cv2.imread(str(tmp_path / "comparison.png"))
    latest = cv2.imread(str(tmp_path / "samples" / "step-00000003.png"))
    assert np.array_equal(both[: latest.shape[0], -latest.shape[1] :], latest)
    assert np.array_equal(both[30 : 30 + 16, 2 : 2 + 16, ::-1], images[0].transpose(1, 2, 0))


def test_sample_std_is_the_deviation_over_images_in_units_of_the_generator(images):
    floats = images.astype(np.float64) / 127.5 - 1
    assert sample_std_of(images) == pytest.approx(floats.std(axis=0).mean(), rel=1e-5)
