"""A trained tiny DCGAN, its converted models (conversion takes seconds: once), and an independent numpy generator."""

import copy
from typing import NamedTuple

import numpy as np
import onnx
import paddle
import pytest

from dcgan import DCGAN, TrainConfig
from dcgan.checkpoints.params import write_params
from dcgan.training.state import network_arrays
from deploy.files import write_json
from deploy.seeds import bits
from export import onnx_graph
from export.converter import convert
from export.exporter import ExportConfig, export
from export.load_weights import Trained, load_source
from export.static_graph import parameter_names, read_operators, write_static_graph
from tests.tiny import TINY


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder of runs with one run in it, `00000-noise`, of four iterations."""
    root = tmp_path_factory.mktemp("runs")
    config = TrainConfig(data="/home/somebody/noise.npy", **TINY, batch_size=16, ema=0.9)
    model = DCGAN(config)
    noise = (bits(np.arange(4 * 16 * 3), 256).reshape(4, 16, 3, 16, 16) / 2.0**31 - 1).astype(np.float32)
    for batch in noise:
        model.train_batch([paddle.to_tensor(batch)])
    run = root / "00000-noise"
    model.save(run / "checkpoints" / "step-00000004", extra={"config": config.to_json()})
    write_json(run / "config.json", config.to_json())
    write_params(run / "generator.params", network_arrays(model.network))
    return root


@pytest.fixture(scope="session")
def playground(runs, tmp_path_factory):
    """The folder of a web export of that run, `playground.html` included."""
    out = tmp_path_factory.mktemp("web") / "export"
    export(out, ExportConfig(runs, ("web",), precise_bn=2, single_file=True))
    return out


class Translated(NamedTuple):
    """A network with everything that is made of it before parity."""

    trained: Trained
    operators: list
    converted: onnx.ModelProto
    model: onnx.ModelProto


@pytest.fixture(scope="session")
def translated(runs, tmp_path_factory):
    """Both networks by name, converted and cleaned. Tests copy what they change."""
    folder = tmp_path_factory.mktemp("programs")
    result = {}
    for name, trained in load_source(runs, ("generator", "discriminator")).networks.items():
        write_static_graph(trained.layer, trained.signature, folder / name)
        operators = read_operators(folder / name, trained.layer)
        converted = convert(folder / name, 17, operators)
        facts = {"network": name, "output": "image"}
        model = onnx_graph.clean(converted, parameter_names(trained.layer), trained.signature, facts)
        result[name] = Translated(trained, operators, converted, model)
    return result


@pytest.fixture
def generator(translated):
    """The generator, with a model of its own to spoil."""
    return translated["generator"]._replace(model=copy.deepcopy(translated["generator"].model))


@pytest.fixture
def discriminator(translated):
    return translated["discriminator"]._replace(model=copy.deepcopy(translated["discriminator"].model))


@pytest.fixture
def numpy_generator():
    """A DCGAN generator in float64 numpy, written from the definitions: (weights, z) -> images."""

    def conv_transpose(x, weight, stride, padding):
        n, _, height, width = x.shape
        k = weight.shape[2]
        full = np.zeros((n, weight.shape[1], (height - 1) * stride + k, (width - 1) * stride + k))
        for i in range(height):
            for j in range(width):
                patch = np.einsum("nc,cokl->nokl", x[:, :, i, j], weight)
                full[:, :, i * stride : i * stride + k, j * stride : j * stride + k] += patch
        end = -padding or None
        return full[:, :, padding:end, padding:end]

    def generate(weights, z):
        weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        depth = sum(name.startswith("conv_") for name in weights)
        x = np.asarray(z, np.float64)[:, :, None, None]
        for i in range(1, depth + 1):
            x = conv_transpose(x, weights[f"conv_{i}.weight"], *((1, 0) if i == 1 else (2, 1)))
            if i < depth:
                scale, shift, mean, variance = (
                    weights[f"bn_{i}.{part}"][:, None, None] for part in ("weight", "bias", "_mean", "_variance")
                )
                x = np.maximum((x - mean) / np.sqrt(variance + 1e-5) * scale + shift, 0)
        return np.tanh(x)

    return generate


@pytest.fixture
def spoil():
    """spoil(model, name, change): replace one array of an ONNX model by change(array), in place."""

    def replace(model, name, change):
        for initializer in model.graph.initializer:
            if initializer.name == name:
                array = change(onnx.numpy_helper.to_array(initializer).copy())
                initializer.CopyFrom(onnx.numpy_helper.from_array(array, name))
                return model
        raise KeyError(name)

    return replace
