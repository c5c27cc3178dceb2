"""Presets: valid, the tutorial's own numbers, and settings that follow from the number of images."""

from __future__ import annotations

import dataclasses

import pytest

from dcgan.config import TrainConfig
from dcgan.presets import COMPARISONS, PRESETS, fitted_to

FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_valid_configs(name):
    TrainConfig.from_mapping(PRESETS[name]).validate()


def test_tutorial_preset_is_the_tutorials_text():
    config = TrainConfig.from_mapping(PRESETS["tutorial"])
    assert (config.epochs, config.batch_size, config.d_steps, config.g_steps, config.ema) == (8, 128, 1, 2, 0.0)


def test_the_tutorial_preset_uses_no_option_that_the_tutorial_does_not_have():
    config = TrainConfig.from_mapping(PRESETS["tutorial"])
    assert (config.init, *(getattr(config, name) for name in COMPARISONS)) == ("normal", 0.0, 0.0, 0.0)
    assert (config.flip, config.loss, config.lr, config.lr_d, config.beta1, config.beta2) == (
        *(False, "bce", 2e-4, 0.0),
        *(0.5, 0.999),
    )
    assert (config.lr_warmup, config.lr_decay, config.batch_norm_momentum, config.precise_bn) == (
        *(0, 0.0),
        *(0.8, False),
    )
    options = {name: getattr(config, name) for name, f in FIELDS.items() if f.metadata["group"] == "regularisation"}
    sizes = ("noise_steps", "translation_ratio")  # of what is off
    assert not any(value for name, value in options.items() if name not in sizes)


@pytest.mark.parametrize(
    ("image_count", "epochs", "batch_size"),
    [
        (300, 1067, 16),
        (15_000, 22, 16),
        (64_000, 5, 16),
        (64_001, 5, 128),
        (202_599, 5, 128),
        (20, 10_000, 10),
        (2, 20_000, 2),
        (1, 20_000, 1),
    ],
)
def test_small_data_sets_get_more_epochs_smaller_steps_and_smaller_networks(image_count, epochs, batch_size):
    fitted = fitted_to(image_count)
    small = {"base_channels": 32, "lr": 3.5e-4, "ema": 0.9995} if image_count <= 64_000 else {}
    strong = {"diffaugment": "translation,cutout", "translation_ratio": 0.125} if epochs > 24 else {}
    if image_count <= 64_000 and not strong:
        small.update(lr=5e-4, lr_d=2.5e-4, structure_weight=25.0)
    single = dict.fromkeys(COMPARISONS, 0.0) if batch_size == 1 else {}
    assert fitted == {"epochs": epochs, "batch_size": batch_size, **small, **strong, **single}
    TrainConfig(**fitted).validate()


@pytest.mark.parametrize(("image_count", "batches"), [(13, 1), (10, 2), (100, 8), (5, 2), (16, 16)])
def test_a_batch_size_that_nobody_chose_never_takes_more_images_than_there_are(image_count, batches):
    batch_size = fitted_to(image_count, batches)["batch_size"]
    assert 1 <= batch_size * batches <= image_count
    if image_count >= 4 * batches:
        assert batch_size * batches <= image_count / 2  # half of the files may turn out to be no images


@pytest.mark.parametrize(
    ("image_count", "chosen", "is_strong"),
    [
        (1, {}, True),
        (13_333, {}, True),  # 320,000 images are shown
        (13_334, {}, False),
        (202_599, {}, False),
        (10_000, {"epochs": 24}, False),
        (10_000, {"epochs": 25}, True),
        (10_000, {"epochs": 99, "steps": 15_000}, False),  # of 16
        (10_000, {"steps": 15_001}, True),
        (300, {"steps": 400}, False),
        (300, {"steps": 400, "batch_size": 32}, True),
    ],
)
def test_images_that_are_shown_often_are_augmented_more(image_count, chosen, is_strong):
    config = TrainConfig(**fitted_to(image_count, chosen=chosen))
    strong = ("translation,cutout", 0.125)
    assert ((config.diffaugment, config.translation_ratio) == strong) == is_strong


@pytest.mark.parametrize(
    ("image_count", "chosen", "rates", "weight"),
    [
        (10_000, {"steps": 4000}, (5e-4, 2.5e-4), 25.0),
        (10_000, {"steps": 4000, "lr": 2e-4}, (5e-4, 0.0), 25.0),  # the explicit rate comes on top, for both networks
        (10_000, {}, (3.5e-4, 0.0), 0.0),  # each is shown 32 times
        (202_599, {}, (5e-4, 0.0), 0.0),
    ],
)
def test_few_images_that_are_shown_seldom_are_compared_in_structure(image_count, chosen, rates, weight):
    config = TrainConfig(**fitted_to(image_count, chosen=chosen))
    assert ((config.lr, config.lr_d), config.structure_weight) == (rates, weight)


def test_there_is_no_run_fitted_to_no_images():
    with pytest.raises(ValueError, match="at least one training image, received 0"):
        fitted_to(0)
