import re

import numpy as np
import paddle
import pytest

from dcgan.errors import ExportError
from deploy.seeds import latents
from export.static_graph import read_operators, read_weights, write_static_graph


@pytest.fixture
def program(translated, tmp_path):
    def write(name):
        trained = translated[name].trained
        write_static_graph(trained.layer, trained.signature, tmp_path / name)
        return tmp_path / name, trained.layer

    return write


def test_the_program_draws_what_the_network_draws_at_any_batch_size(program):
    prefix, layer = program("generator")
    loaded = paddle.jit.load(str(prefix))
    for count in (1, 3):
        z = paddle.to_tensor(latents(range(count), 8))
        assert np.array_equal(loaded(z).numpy(), layer(z).numpy())


def test_a_home_that_cannot_be_written_is_no_matter(program, tmp_path, monkeypatch):
    """Paddle's own folder there has the process number as its name: of two containers, one deleted the other's."""
    home = tmp_path / "home"
    home.write_text("a file, so that nothing can be made in it")
    monkeypatch.setenv("HOME", str(home))
    prefix, layer = program("generator")
    z = paddle.to_tensor(latents([0], 8))
    assert np.array_equal(paddle.jit.load(str(prefix))(z).numpy(), layer(z).numpy())


def test_a_network_in_training_mode_is_written_in_eval_mode(translated, program):
    layer = translated["generator"].trained.layer
    before = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    layer.train()
    prefix, _ = program("generator")
    assert not layer.training
    assert all(np.array_equal(before[name], tensor.numpy()) for name, tensor in layer.state_dict().items())
    assert [op.attributes["is_test"] for op in read_operators(prefix, layer) if op.kind == "batch_norm"] == [True, True]


def test_a_layer_that_does_not_leave_training_mode_is_named(translated, tmp_path, monkeypatch):
    trained = translated["generator"].trained
    monkeypatch.setattr(trained.layer, "eval", lambda: None)
    trained.layer.bn_2.train()
    try:
        with pytest.raises(ExportError, match="training mode.*bn_2"):
            write_static_graph(trained.layer, trained.signature, tmp_path / "generator")
    finally:
        trained.layer.bn_2.eval()


def test_operators_are_named_after_the_layers_they_belong_to(program):
    prefix, layer = program("discriminator")
    assert [(op.kind, op.layer) for op in read_operators(prefix, layer)] == [
        ("conv2d", "conv_1"),
        ("leaky_relu", "conv_1"),
        ("conv2d", "conv_2"),
        ("batch_norm", "bn_2"),
        ("leaky_relu", "bn_2"),
        ("conv2d", "conv_3"),
        ("squeeze", "conv_3"),
    ]


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_weights_read_back_are_the_networks_under_its_own_names(program, name):
    prefix, layer = program(name)
    weights = read_weights(prefix, layer)
    expected = layer.state_dict()
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(weights[key], expected[key].numpy()) for key in expected)


def test_the_same_network_gives_the_same_bytes(program, tmp_path):
    def written():
        # Paddle numbers the layers that a process has traced so far, in a remark that nothing reads
        return [re.sub(rb'"/\w+/"', b"", path.read_bytes()) for path in sorted(tmp_path.iterdir())]

    program("generator")
    first = written()
    program("generator")
    assert written() == first


def test_a_program_that_paddle_did_not_write_is_reported(translated, tmp_path, monkeypatch):
    trained = translated["generator"].trained
    monkeypatch.setattr(paddle.jit, "save", lambda layer, prefix, input_spec: open(prefix + ".json", "w").close())
    with pytest.raises(ExportError, match="did not write generator.json"):
        write_static_graph(trained.layer, trained.signature, tmp_path / "generator")


@pytest.mark.parametrize("suffix", [".json", ".pdiparams"])
@pytest.mark.parametrize("read", [read_operators, read_weights])
def test_a_program_that_a_full_disk_cut_short_is_reported(program, suffix, read):
    """Paddle's save succeeds all the same."""
    prefix, layer = program("generator")
    path = prefix.with_name(prefix.name + suffix)
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size // 2)
    with pytest.raises(ExportError, match="cannot be read back. Is the disk full"):
        read(prefix, layer)
