import dataclasses

import numpy as np
import pytest


@pytest.fixture
def packed(work_folder, images):
    """24 images as a packed .npy in the current folder."""
    np.save("faces.npy", images)
    return work_folder / "faces.npy"


@pytest.fixture
def config(tiny_config, packed):
    return dataclasses.replace(
        tiny_config,
        data=str(packed),
        epochs=3,
        log_every=1,
        sample_every=4,
        checkpoint_every=2,
        keep=2,
        evaluate_every=3,
    )
