import json
import shutil

import numpy as np
import paddle
import pytest

from dcgan.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from dcgan.checkpoints.params import read_params, write_params
from dcgan.errors import CheckpointError
from dcgan.networks.discriminator import Discriminator
from dcgan.networks.generator import Generator
from dcgan.training.state import network_arrays
from export.load_weights import load_source


@pytest.fixture
def params(runs):
    return read_params(runs / "00000-noise" / "generator.params")


def weights_of(source, name="generator"):
    return {key: tensor.numpy() for key, tensor in source.networks[name].layer.state_dict().items()}


def assert_same(weights, expected):
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("path", ["", "00000-noise", "00000-noise/checkpoints/step-00000004"])
def test_runs_a_run_and_a_checkpoint_give_the_averaged_generator_in_eval_mode(runs, path):
    source = load_source(runs / path)
    saved = read_checkpoint(runs / "00000-noise" / "checkpoints" / "step-00000004").groups
    assert_same(weights_of(source), saved["generator_ema"])
    assert not np.array_equal(saved["generator"]["conv_1.weight"], saved["generator_ema"]["conv_1.weight"])
    assert source.checkpoint == {"step": 4, "run": "00000-noise", "network": "generator_ema"}
    assert (source.latent_dim, source.image_size) == (8, 16)
    assert not any(part.training for part in source.networks["generator"].layer.sublayers(include_self=True))


def test_a_checkpoint_without_average_gives_the_generator_that_was_trained(runs, tmp_path):
    checkpoint = read_checkpoint(runs / "00000-noise" / "checkpoints" / "step-00000004")
    groups = {name: group for name, group in checkpoint.groups.items() if name != "generator_ema"}
    write_checkpoint(tmp_path / "step-00000004", groups, checkpoint.state)
    source = load_source(tmp_path / "step-00000004")
    assert source.checkpoint["network"] == "generator"
    assert_same(weights_of(source), checkpoint.groups["generator"])


def test_the_newest_run_under_work_is_taken_by_default(runs, work_folder):
    shutil.copytree(runs, work_folder / "work" / "train")
    assert load_source().checkpoint["run"] == "00000-noise"


def test_a_params_file_gives_its_generator_with_the_config_beside_it(runs, params):
    source = load_source(runs / "00000-noise" / "generator.params")
    assert_same(weights_of(source), params)
    assert source.checkpoint == {"step": None, "run": "00000-noise", "network": "generator.params"}
    assert source.config["base_channels"] == 4


def test_a_params_file_without_config_is_sized_by_its_weights(tmp_path, params):
    write_params(tmp_path / "generator.params", params)
    source = load_source(tmp_path / "generator.params")
    assert (source.latent_dim, source.image_size, source.config) == (8, 16, {})


def test_the_config_keeps_no_path_of_the_machine(runs):
    config = load_source(runs).config
    assert config["data"] == "noise.npy" and "out" not in config
    assert "somebody" not in json.dumps(config)


@pytest.mark.parametrize("extra", [None, [], {}, {"config": "none"}])
def test_a_checkpoint_without_config_is_exported_all_the_same(runs, tmp_path, extra):
    checkpoint = read_checkpoint(runs / "00000-noise" / "checkpoints" / "step-00000004")
    write_checkpoint(tmp_path / "step-00000004", checkpoint.groups, {**checkpoint.state, "extra": extra})
    assert load_source(tmp_path / "step-00000004").config == {}


def test_both_networks_are_read_and_logits_are_one_number_a_image(runs):
    source = load_source(runs, ("generator", "discriminator"))
    discriminator = source.networks["discriminator"]
    saved = read_checkpoint(runs / "00000-noise" / "checkpoints" / "step-00000004").groups["discriminator"]
    assert_same(weights_of(source, "discriminator"), saved)
    inputs, outputs = discriminator.signature.input_shape, discriminator.signature.output_shape
    assert discriminator.layer(paddle.zeros([5, *inputs])).shape == [5, *outputs]
    assert source.checkpoint["network"] == "generator_ema, discriminator"


def test_parameter_names_do_not_depend_on_what_was_built_before(runs):
    first, second = (load_source(runs).networks["generator"].layer for _ in range(2))
    assert [p.name for p in first.parameters()] == [p.name for p in second.parameters()]


@pytest.mark.parametrize(
    ("path", "words"),
    [("nowhere", ["nothing to export", "nowhere", "tools/train.py"]), ("empty", ["empty"])],
)
def test_nothing_there_says_where_it_looked(tmp_path, path, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError) as caught:
        load_source(tmp_path / path)
    assert all(word in str(caught.value) for word in words)


def test_a_params_file_holds_no_discriminator(runs):
    with pytest.raises(CheckpointError, match="holds no discriminator"):
        load_source(runs / "00000-noise" / "generator.params", ("generator", "discriminator"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("bn_1.bias"), ["bn_1.bias is missing"]),
        (lambda w: w.update(extra=w["bn_1.bias"]), ["extra is unknown"]),
        (lambda w: w.update({"bn_1.bias": np.zeros(5, np.float32)}), ["bn_1.bias has shape [5], expected [8]"]),
        (lambda w: w.update({"bn_1.bias": np.full(8, np.nan, np.float32)}), ["bn_1.bias holds NaN"]),
        (lambda w: [w.pop(name) for name in list(w) if name.startswith("conv")], ["not hold the weights of a DCGAN"]),
        (
            lambda w: w.update({"conv_2.weight": np.zeros((8, 5, 4, 4), np.float32)}),
            ["not hold the weights of a DCGAN", "(8, 5, 4, 4)"],
        ),
        (
            lambda w: w.update({"conv_3.weight": np.zeros((4, 1, 4, 4), np.float32)}),
            ["conv_3.weight has shape [4, 1, 4, 4], expected [4, 3, 4, 4]"],
        ),
        # far larger than the file would be the network of these: channels beside a kernel of nothing, or of one pixel
        (
            lambda w: w.update({"conv_1.weight": np.zeros((8, 8, 0, 0), np.float32)}),
            ["not hold the weights of a DCGAN", "(8, 8, 0, 0)"],
        ),
        (
            lambda w: w.update({"conv_3.weight": np.zeros((50_000, 3, 1, 1), np.float32)}),
            ["not hold the weights of a DCGAN", "(50000, 3, 1, 1)"],
        ),
    ],
)
def test_weights_that_are_no_dcgan_are_refused_with_every_name(tmp_path, params, change, words):
    change(params)
    write_params(tmp_path / "generator.params", params)
    with pytest.raises(CheckpointError) as caught:
        load_source(tmp_path / "generator.params")
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_discriminator_may_have_a_width_of_its_own(tmp_path):
    groups = {"generator": network_arrays(Generator(8, 4, 16)), "discriminator": network_arrays(Discriminator(8, 16))}
    write_checkpoint(tmp_path / "step-00000001", groups, {})
    source = load_source(tmp_path / "step-00000001", ("generator", "discriminator"))
    assert source.networks["discriminator"].layer.conv_1.weight.shape[0] == 8
