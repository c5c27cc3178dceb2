import numpy as np
import paddle
import pytest

from dcgan import DCGAN
from dcgan.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from dcgan.errors import CheckpointError
from dcgan.training.state import optimizer_arrays
from tests.comparisons import equal, everything


@pytest.mark.parametrize("change", ["generator", "discriminator", "generator_optimizer", "discriminator_optimizer"])
def test_a_checkpoint_that_lacks_one_part_is_refused_and_changes_nothing(model, tmp_path, change):
    model.save(tmp_path / "c")
    saved = read_checkpoint(tmp_path / "c")
    broken = {name: dict(group) for name, group in saved.groups.items() if name != change}
    write_checkpoint(tmp_path / "broken", broken, saved.state)
    before = everything(model)
    with pytest.raises(CheckpointError, match=f"it holds no {change}"):
        model.load(tmp_path / "broken")
    assert equal(before, everything(model))


def test_a_checkpoint_of_another_width_is_refused_with_every_shape_named(model, tiny_config, tmp_path):
    import dataclasses

    DCGAN(dataclasses.replace(tiny_config, base_channels=8)).save(tmp_path / "wide")
    with pytest.raises(
        CheckpointError, match=r"conv_1.weight has shape \[8, 16, 4, 4\], expected \[8, 8, 4, 4\].*bn_1"
    ):
        model.load(tmp_path / "wide")


def test_half_precision_weights_are_saved_as_their_float32_masters(linear, monkeypatch, tmp_path):
    model, (sgd_g, sgd_d) = linear()
    model.prepare(sgd_g, sgd_d)
    master = paddle.to_tensor(np.array([[0.123456789]], np.float32))
    sgd_g._master_weights = {model.generator.weight.name: master}
    model.save(tmp_path / "c")
    assert read_checkpoint(tmp_path / "c").groups["generator"]["weight"] == np.float32(0.123456789)
    master.set_value(np.zeros([1, 1], np.float32))
    model.load(tmp_path / "c")
    assert master.item() == np.float32(0.123456789) == model.generator.weight.item()


def test_moments_of_half_precision_weights_are_found_under_their_masters_name():
    layer = paddle.nn.Linear(1, 1, bias_attr=False)
    moment, master = paddle.zeros([1, 1]), paddle.zeros([1, 1])
    adam = paddle.optimizer.Adam(parameters=layer.parameters())
    adam._create_accumulators = lambda *_: None
    adam._accumulators = {"moment1": {master.name: moment}}
    adam._master_weights = {layer.weight.name: master}
    assert optimizer_arrays(adam, layer) == {"weight/moment1": np.zeros([1, 1], np.float32)}


@pytest.mark.parametrize("kind", ["bool", "int64", "float64", "nan"])
def test_numbers_of_another_kind_are_refused_and_change_nothing(model, tmp_path, kind):
    """They resumed without a word: weights of 0 and 1, rounded ones, or NaN."""
    model.save(tmp_path / "step-00000001")
    saved = read_checkpoint(tmp_path / "step-00000001")
    weights = saved.groups["generator"]["conv_1.weight"]
    changed = np.full_like(weights, np.nan) if kind == "nan" else weights.astype(kind)
    saved.groups["generator"]["conv_1.weight"] = changed
    before = everything(model)
    with pytest.raises(CheckpointError, match=r"generator: conv_1\.weight is not of finite float32 numbers"):
        model.load(saved)
    assert equal(everything(model), before)
