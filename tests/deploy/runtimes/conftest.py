"""A Paddle program that computes what the tiny ONNX generator does."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from deploy.manifest import ModelEntry, read_manifest


class TinyGenerator(paddle.nn.Layer):
    """The same arithmetic as the tiny ONNX generator."""

    def __init__(self, weights: np.ndarray):
        super().__init__()
        self.conv = paddle.nn.Conv2DTranspose(8, 3, 16, bias_attr=False)
        self.conv.weight.set_value(weights)

    def forward(self, z):
        return paddle.tanh(self.conv(z.unsqueeze([2, 3])))


def save_program(folder, weights, name="z"):
    """Write generator.json and generator.pdiparams and return their contents."""
    layer = TinyGenerator(weights)
    layer.eval()
    paddle.jit.save(layer, str(folder / "generator"), input_spec=[InputSpec([None, 8], "float32", name)])
    return [(folder / f"generator.{suffix}").read_bytes() for suffix in ("json", "pdiparams")]


@pytest.fixture
def program(tmp_path, export):
    """The contents of generator.json and generator.pdiparams: what the tiny ONNX generator computes."""
    return save_program(tmp_path, export.weights)


@pytest.fixture
def both_exports(export):
    """The tiny export with a Paddle program beside the ONNX model."""
    save_program(export.folder, export.weights)
    models = read_manifest(export.folder).models
    export.write(models=(*models, ModelEntry("generator", "paddle", ("generator.json", "generator.pdiparams"))))
    return export
