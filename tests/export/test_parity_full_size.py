"""The certificate that this project is known by: a trained full-size generator is the same in every runtime."""

import numpy as np
import paddle
import pytest

from dcgan import DCGAN, TrainConfig
from dcgan.data.crop import fit_image
from dcgan.data.synthetic_faces import draw_face
from dcgan.images import to_float
from deploy.manifest import read_manifest
from deploy.runtimes import load_generator
from export.exporter import ExportConfig, export


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """64x64 pixels, 64 base channels, a few steps on synthetic faces."""
    config = TrainConfig(image_size=64, base_channels=64, latent_dim=100, batch_size=8, ema=0.0, device="cpu")
    model = DCGAN(config)
    faces = np.stack([fit_image(draw_face(i), 64).transpose(2, 0, 1) for i in range(4 * 8)])
    for batch in np.split(to_float(faces), 4):
        model.train_batch([paddle.to_tensor(batch)])
    run = tmp_path_factory.mktemp("runs") / "00000-cartoon"
    model.save(run / "checkpoints" / "step-00000004", extra={"config": config.to_json()})
    return run, model.generate(range(5))


def test_every_runtime_draws_the_trained_images_to_a_hundred_thousandth(trained, tmp_path):
    run, images = trained
    export_config = ExportConfig(run, ("paddle", "onnx"), ("generator",), precise_bn=0)
    export(tmp_path / "export", export_config)
    rows = read_manifest(tmp_path / "export").parity["rows"]
    assert {(row["runtime"], row["batch_size"]) for row in rows} == {
        (runtime, size)
        for runtime in ("dygraph", "onnxruntime", "static program", "Paddle Inference", "Paddle Inference, oneDNN")
        for size in (1, 2, 7, 100)
    }
    assert all(row["max"] <= 1e-5 and row["nan"] == row["inf"] == 0 for row in rows)
    # Independent of the certificate: what training generated, and what a user of the folder generates.
    for backend in ("onnxruntime", "paddle"):
        generated = load_generator(tmp_path / "export", backend, "cpu").generate(range(5))
        assert np.abs(generated - images).max() <= 1e-5
        assert images.std() > 0.01
