"""The directions of the playground: along them the first layer changes most."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from deploy.runtimes import load_generator
from export import onnx_graph
from export.directions import principal_directions


def test_directions_are_those_along_which_the_first_layer_changes_most(playground):
    content = json.loads((playground / "directions.json").read_text())
    directions, share = np.array(content["directions"]), content["share"]
    layer = load_generator(playground, device="cpu")
    assert directions.shape == (8, layer.signature.input_shape[0])
    assert np.allclose(directions @ directions.T, np.eye(8), atol=1e-6)
    weight = onnx_graph.read_arrays(onnx.load(playground / "generator.onnx"))["conv_1.weight"].astype(np.float64)
    gram = np.einsum("icjk,lcjk->il", weight, weight)  # what the squared change of the output is made of
    values = np.sort(np.linalg.eigvalsh(gram))[::-1]
    for direction, value in zip(directions, values):
        assert direction @ gram @ direction == pytest.approx(value, rel=1e-4)
    assert share == pytest.approx(list(values / values.sum()), abs=1e-4)
    assert all(row[np.abs(row).argmax()] > 0 for row in directions)


def test_a_latent_of_few_numbers_has_as_many_directions(generator):
    few = principal_directions(generator.model, 3)
    assert len(few["directions"]) == len(few["share"]) == 3
    assert few["directions"] == principal_directions(generator.model)["directions"][:3]
