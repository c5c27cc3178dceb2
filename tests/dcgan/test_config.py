"""Settings: every default is valid, every wrong value is named, JSON goes both ways, hostile JSON gives a sentence."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dcgan import config as module
from dcgan.config import CHANGEABLE, TrainConfig, differences, help_text, read_config
from dcgan.networks.sizes import check_image_size
from deploy.seeds import MAX_SEED

FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}
TUTORIAL = {
    "image_size": 64,
    "latent_dim": 100,
    "base_channels": 64,
    "epochs": 5,
    "batch_size": 128,
    "beta1": 0.5,
    "beta2": 0.999,
    "loss": "bce",
}


def test_defaults_are_those_of_the_tutorials_code_but_for_what_makes_better_faces():
    assert {name: getattr(TrainConfig(), name) for name in TUTORIAL} == TUTORIAL
    assert (TrainConfig().lr, TrainConfig().ema, TrainConfig().diffaugment) == (5e-4, 0.999, "translation")
    assert (TrainConfig().init, TrainConfig().energy_weight) == ("bilinear", 50.0)
    assert TrainConfig().validate() == TrainConfig()


def test_every_setting_has_a_group_and_a_help_text():
    groups = {"data", "model", "optimisation", "regularisation", "output"}
    assert {f.metadata["group"] for f in FIELDS.values()} == groups
    assert all(len(f.metadata["help"]) > 8 for f in FIELDS.values())
    assert all(f.default in f.metadata["choices"] for f in FIELDS.values() if f.metadata["choices"])


def test_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3


# ---- ranges ---------------------------------------------------------------------------------------------------------


NUMBERS = sorted(name for name, f in FIELDS.items() if type(f.default) in (int, float) and name != "image_size")


def test_every_number_has_a_range_that_holds_its_default_and_its_ends():
    for name in NUMBERS:
        low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
        assert low <= FIELDS[name].default <= high
        for value in (low, high):
            dataclasses.replace(TrainConfig(), **{name: type(FIELDS[name].default)(value)}).validate()


def test_what_is_no_number_has_no_range_and_no_unit():
    for field in FIELDS.values():
        if type(field.default) not in (int, float):
            assert (field.metadata["low"], field.metadata["high"], field.metadata["unit"]) == (None, None, "")


@pytest.mark.parametrize("name", NUMBERS)
def test_number_beyond_its_range_is_named(name):
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    is_float = isinstance(FIELDS[name].default, float)
    for value in (low - (0.001 if is_float else 1), high * 2 + 1):
        value = float(value) if is_float else value
        with pytest.raises(ValueError, match=f"{name} must be from .* to .*, received"):
            dataclasses.replace(TrainConfig(), **{name: value}).validate()


def test_help_text_says_default_and_unit():
    assert help_text(FIELDS["image_size"]).endswith(" (default: 64 pixels)")
    assert help_text(FIELDS["data"]).endswith(" (default: empty)")
    assert f"image_size: {help_text(FIELDS['image_size'])}" in TrainConfig.__doc__


def test_an_older_name_of_a_setting_is_still_read():
    assert TrainConfig.from_mapping({"batch_norm_reestimate": True}).precise_bn is True


def test_settings_that_are_gone_are_read_where_they_did_nothing_and_refused_elsewhere():
    gone = {"spectral_norm": False, "label_smoothing": 0.0, "r1": 0.0, "r1_every": 7}
    assert TrainConfig.from_mapping(gone) == TrainConfig()
    with pytest.raises(ValueError, match="^r1 is gone, docs/quality.md says why; received 10.0$"):
        TrainConfig.from_mapping({**gone, "r1": 10.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_learning_rate_is_finite(value):
    with pytest.raises(ValueError, match="lr must be from"):
        TrainConfig(lr=value).validate()


@pytest.mark.parametrize("name", ["loss", "amp", "amp_dtype"])
def test_unknown_choice_lists_the_choices(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*{FIELDS[name].metadata['choices'][-1]}.*'wgan'"):
        dataclasses.replace(TrainConfig(), **{name: "wgan"}).validate()


@pytest.mark.parametrize("policy", ["colour", "color,color", "color, cutout", ",", "color,"])
def test_diffaugment_is_a_list_of_its_transforms(policy):
    with pytest.raises(ValueError, match="diffaugment must be some of color,translation,cutout, received '"):
        TrainConfig(diffaugment=policy).validate()
    TrainConfig(diffaugment="cutout,color").validate()


def test_statistics_of_one_generator_in_several_processes_need_its_average():
    with pytest.raises(ValueError, match="precise_bn with sync_bn needs an averaged generator: set ema"):
        TrainConfig(precise_bn=True, sync_bn=True, ema=0.0).validate()


@pytest.mark.parametrize("size", [-64, 0, 1, 8, 48, 63, 65, 512])
def test_image_size_is_a_power_of_two(size):
    with pytest.raises(ValueError, match=f"image_size must be a power of two from 16 to 256, received {size}$"):
        TrainConfig(image_size=size).validate()


def test_config_and_networks_agree_on_sizes_and_seeds():
    def accepts(check, size):
        try:
            check(size)
        except ValueError:
            return False
        return True

    sizes = range(-1, 600)
    by_config = [s for s in sizes if accepts(lambda size: TrainConfig(image_size=size).validate(), s)]
    assert by_config == [s for s in sizes if accepts(check_image_size, s)] == [16, 32, 64, 128, 256]
    assert module.MAX_SEED == MAX_SEED


def test_all_problems_are_told_together():
    with pytest.raises(ValueError) as caught:
        TrainConfig(epochs=0, image_size=48, loss="wgan", lr=-1.0).validate()
    assert all(name in str(caught.value) for name in ("epochs", "image_size", "loss", "lr"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", "5"), ("lr", None), ("batch_size", 1.5), ("image_size", 64.0), ("flip", "yes"), ("data", 3)],
)
def test_value_of_another_type_is_named_by_validate_too(name, value):
    with pytest.raises(ValueError, match=f"{name} must be of type"):
        dataclasses.replace(TrainConfig(), **{name: value}).validate()


# ---- JSON -----------------------------------------------------------------------------------------------------------


def test_config_goes_through_json():
    config = TrainConfig(data="人脸", lr=1e-3, flip=True, epochs=9, seed=MAX_SEED, loss="hinge")
    assert TrainConfig.from_mapping(json.loads(json.dumps(config.to_json()))) == config
    assert set(config.to_json()) == set(FIELDS)


def test_missing_settings_keep_their_defaults():
    assert TrainConfig.from_mapping({"epochs": 2}) == TrainConfig(epochs=2)
    assert TrainConfig.from_mapping({}) == TrainConfig()


def test_whole_number_stands_for_a_float_and_becomes_one():
    config = TrainConfig.from_mapping({"ema": 0, "lr": 1})
    assert (type(config.ema), type(config.lr), config.lr) == (float, float, 1.0)


def test_unknown_setting_names_the_nearest():
    with pytest.raises(ValueError, match="unknown setting 'bach_size', did you mean 'batch_size'?"):
        TrainConfig.from_mapping({"bach_size": 3})
    with pytest.raises(ValueError, match="unknown setting 'zzzzzz'$"):
        TrainConfig.from_mapping({"zzzzzz": 3})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", "5", "int"),
        ("epochs", 5.0, "int"),
        ("epochs", True, "int"),
        ("epochs", None, "int"),
        ("lr", "fast", "float"),
        ("lr", False, "float"),
        ("flip", 1, "bool"),
        ("data", ["a"], "str"),
        ("loss", {"a": 1}, "str"),
    ],
)
def test_value_of_another_type_is_named(name, value, expected):
    with pytest.raises(ValueError, match=f"{name} must be of type {expected}, received"):
        TrainConfig.from_mapping({name: value})


def test_number_too_large_for_a_float_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="lr"):
        TrainConfig.from_mapping({"lr": 10**400}).validate()


def test_all_problems_of_a_mapping_are_told_together():
    with pytest.raises(ValueError) as caught:
        TrainConfig.from_mapping({"epoch": 1, "lr": "fast"})
    assert "epoch'" in str(caught.value) and "lr must" in str(caught.value)


def test_read_config_takes_a_run_folder_or_its_file(tmp_path):
    (tmp_path / "config.json").write_text('{"epochs": 3}', "utf-8")
    assert read_config(tmp_path) == read_config(tmp_path / "config.json") == {"epochs": 3}


def test_missing_config_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config at .*config.json: give a run folder or its config.json"):
        read_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_config(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"3", b"null", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000],
)
def test_file_that_is_no_config_is_refused_by_name(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json"):
        read_config(tmp_path)


# ---- resuming ------------------------------------------------------------------------------------------------------


def test_every_setting_either_may_change_or_stops_a_resume():
    assert set(FIELDS) >= CHANGEABLE
    for name, field in FIELDS.items():
        other = not field.default if isinstance(field.default, bool) else field.default * 2 + type(field.default)(1)
        lines = differences(TrainConfig(), dataclasses.replace(TrainConfig(), **{name: other}))
        assert lines == ([] if name in CHANGEABLE else [f"{name}: saved {field.default!r}, asked {other!r}"])


def test_architecture_data_and_loss_may_not_change():
    fixed = {"image_size", "latent_dim", "base_channels", "batch_size", "loss", "seed", "d_steps", "g_steps", "ema"}
    assert not fixed & CHANGEABLE
