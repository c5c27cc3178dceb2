"""Preparing and loading: measured, and their growth with the number of images."""

import numpy as np

from tools.benchmarks import measure


def test_data_is_prepared_and_loaded_and_growth_is_shown(tmp_path):
    images = tmp_path / "images"
    from tools.benchmarks.data import growth, prepare_cases, write_jpegs

    write_jpegs(images, 3)
    assert len(list(images.glob("*.jpg"))) == 3
    timings, skipped = measure.measure(prepare_cases(images, tmp_path, 16, []), 1, lambda text: None)
    assert skipped == {} and timings[0].case.units == 3 and (tmp_path / "packed.npy").is_file()
    ours = np.ones(400 << 20, np.uint8)  # memory of this process, which is not that of preparing
    (row,) = growth([5], tmp_path, 16)
    assert len(ours) and 1 < row["prepare_peak_mib"] < 400
    assert row["images"] == 5 and row["file_mb"] == 5 * 3 * 16 * 16 / 1e6
