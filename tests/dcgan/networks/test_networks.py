"""The networks: the tutorial's names and shapes, every size, their first weights, and what they compute, in numpy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from dcgan.networks.discriminator import Discriminator
from dcgan.networks.generator import Generator
from dcgan.networks.layers import parameter_count
from dcgan.networks.sizes import check_image_size

STATISTICS = ("weight", "bias", "_mean", "_variance")
# The interchange format of generator.params, spelled out.
TUTORIAL_GENERATOR = {
    "conv_1.weight": [100, 512, 4, 4],
    "conv_2.weight": [512, 256, 4, 4],
    "conv_3.weight": [256, 128, 4, 4],
    "conv_4.weight": [128, 64, 4, 4],
    "conv_5.weight": [64, 3, 4, 4],
    **{f"bn_1.{name}": [512] for name in STATISTICS},
    **{f"bn_2.{name}": [256] for name in STATISTICS},
    **{f"bn_3.{name}": [128] for name in STATISTICS},
    **{f"bn_4.{name}": [64] for name in STATISTICS},
}
TUTORIAL_DISCRIMINATOR = {
    "conv_1.weight": [64, 3, 4, 4],
    "conv_2.weight": [128, 64, 4, 4],
    "conv_3.weight": [256, 128, 4, 4],
    "conv_4.weight": [512, 256, 4, 4],
    "conv_5.weight": [1, 512, 4, 4],
    **{f"bn_2.{name}": [128] for name in STATISTICS},
    **{f"bn_3.{name}": [256] for name in STATISTICS},
    **{f"bn_4.{name}": [512] for name in STATISTICS},
}


@pytest.fixture(scope="module")
def full():
    """Generator and discriminator of the tutorial, freshly made."""
    paddle.seed(1)
    return Generator(), Discriminator()


@pytest.fixture
def small():
    """A generator and a discriminator of 16 x 16 images in eval mode, nothing in them 0 or 1."""
    paddle.seed(2)
    networks = Generator(3, 2, 16), Discriminator(2, 16)
    draw = np.random.default_rng(0)
    for network in networks:
        network.eval()
        for name, value in network.state_dict().items():
            low, high = (0.5, 2.0) if name.endswith("_variance") else (-1.0, 1.0)
            value.set_value(draw.uniform(low, high, value.shape).astype(np.float32))
    return networks


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---- names, shapes, counts ------------------------------------------------------------------------------------------


def test_layers_are_the_tutorials_by_name_and_shape(full):
    for network, expected in zip(full, (TUTORIAL_GENERATOR, TUTORIAL_DISCRIMINATOR)):
        assert {name: value.shape for name, value in network.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("which", "statistics", "total"),
    [(0, 2 * (512 + 256 + 128 + 64), 3_578_624), (1, 2 * (128 + 256 + 512), 2_767_360)],
)
def test_number_of_parameters_is_the_tutorials(full, which, statistics, total):
    network = full[which]
    assert sum(int(value.size) for value in network.state_dict().values()) == total
    assert parameter_count(network) == total - statistics


def test_layers_are_kept_in_the_order_of_the_data(full):
    names = [name for name, _ in full[0].named_children()]
    assert names == ["conv_1", "bn_1", "conv_2", "bn_2", "conv_3", "bn_3", "conv_4", "bn_4", "conv_5"]
    names = [name for name, _ in full[1].named_children()]
    assert names == ["conv_1", "conv_2", "bn_2", "conv_3", "bn_3", "conv_4", "bn_4", "conv_5"]


@pytest.mark.parametrize(("size", "layers"), [(16, 3), (32, 4), (64, 5), (128, 6), (256, 7)])
def test_every_size_gives_images_in_range_and_one_logit_each(size, layers):
    generator, discriminator = Generator(7, 2, size), Discriminator(2, size)
    images = generator(paddle.to_tensor(normal(2, 7)))
    logits = discriminator(images)
    assert images.shape == [2, 3, size, size]
    assert logits.shape == [2, 1, 1, 1]
    assert np.abs(images.numpy()).max() <= 1.0
    assert generator.conv_1.weight.shape == [7, 2 << (layers - 2), 4, 4]
    for network in (generator, discriminator):
        assert sum(name.startswith("conv_") for name, _ in network.named_children()) == layers


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_a_parameter(channels):
    image = Generator(5, 2, 16, channels)(paddle.to_tensor(normal(2, 5)))
    assert image.shape == [2, channels, 16, 16]
    assert Discriminator(2, 16, channels)(image).shape == [2, 1, 1, 1]


# ---- first weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_convolutions_begin_as_a_normal_of_width_002(full, which):
    for name, value in full[which].state_dict().items():
        if "conv" not in name:
            continue
        weights = value.numpy().astype(np.float64).reshape(-1) / 0.02
        n = weights.size
        assert abs(weights.mean()) < 5 / np.sqrt(n), name
        assert abs(weights.std() - 1) < 5 / np.sqrt(2 * n), name
        assert abs((np.abs(weights) > 2).mean() - 0.0455) < 5 * np.sqrt(0.0455 / n), name  # neither uniform nor cut off


@pytest.mark.parametrize("which", [0, 1])
def test_batch_norms_begin_around_one_with_nothing_seen(full, which):
    scales = []
    for name, value in full[which].state_dict().items():
        if name.endswith("._mean") or name.endswith(".bias"):
            assert not value.numpy().any(), name
        elif name.endswith("._variance"):
            assert (value.numpy() == 1).all(), name
        elif name.startswith("bn_"):
            scales.append(value.numpy().astype(np.float64))
    scale = (np.concatenate(scales) - 1) / 0.02
    assert abs(scale.mean()) < 5 / np.sqrt(scale.size)
    assert abs(scale.std() - 1) < 5 / np.sqrt(2 * scale.size)


def test_nothing_has_a_bias_but_batch_norm(full):
    for network in full:
        assert not [name for name in network.state_dict() if name.startswith("conv") and name.endswith("bias")]


def test_a_seed_fixes_the_first_weights():
    def weights(seed):
        paddle.seed(seed)
        networks = (Generator(3, 2, 16), Discriminator(2, 16))
        return [p.numpy() for network in networks for p in network.parameters() if not p.stop_gradient]

    assert all(np.array_equal(a, b) for a, b in zip(weights(5), weights(5)))
    assert not any(np.array_equal(a, b) for a, b in zip(weights(5), weights(6)) if a.any())


# ---- what they compute ----------------------------------------------------------------------------------------------


def conv(x: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """Conv2D by definition: float64 [N, O, H', W'] from [N, I, H, W] and [O, I, 4, 4]."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    size = (x.shape[2] - 4) // stride + 1
    out = np.zeros((len(x), len(weight), size, size))
    for i in range(size):
        for j in range(size):
            patch = x[:, :, i * stride : i * stride + 4, j * stride : j * stride + 4]
            out[:, :, i, j] = np.tensordot(patch, weight, ([1, 2, 3], [1, 2, 3]))
    return out


def conv_transpose(x: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """Conv2DTranspose by definition: each input pixel paints a 4x4 stamp; weight is [I, O, 4, 4]."""
    size = (x.shape[2] - 1) * stride + 4
    out = np.zeros((len(x), weight.shape[1], size, size))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            stamp = np.tensordot(x[:, :, i, j], weight, ([1], [0]))
            out[:, :, i * stride : i * stride + 4, j * stride : j * stride + 4] += stamp
    return out[:, :, padding : size - padding, padding : size - padding]


def batch_norm(x: np.ndarray, state: dict, name: str) -> np.ndarray:
    weight, bias, mean, variance = (state[f"{name}.{part}"][:, None, None] for part in STATISTICS)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def state_of(network) -> dict:
    return {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}


def test_generator_computes_what_the_paper_says(small):
    state, z = state_of(small[0]), normal(2, 3)
    x = conv_transpose(z[:, :, None, None].astype(np.float64), state["conv_1.weight"], 1, 0)
    x = np.maximum(batch_norm(x, state, "bn_1"), 0)  # [2, 4, 4, 4]
    x = np.maximum(batch_norm(conv_transpose(x, state["conv_2.weight"], 2, 1), state, "bn_2"), 0)  # [2, 2, 8, 8]
    expected = np.tanh(conv_transpose(x, state["conv_3.weight"], 2, 1))  # [2, 3, 16, 16]
    assert expected.std() > 0.1
    assert np.abs(small[0](paddle.to_tensor(z)).numpy() - expected).max() < 2e-6


def test_discriminator_computes_what_the_paper_says(small):
    state, image = state_of(small[1]), np.tanh(normal(2, 3, 16, 16))
    x = conv(image.astype(np.float64), state["conv_1.weight"], 2, 1)
    x = np.where(x > 0, x, 0.2 * x)  # [2, 2, 8, 8]
    x = batch_norm(conv(x, state["conv_2.weight"], 2, 1), state, "bn_2")
    x = np.where(x > 0, x, 0.2 * x)  # [2, 4, 4, 4]
    expected = conv(x, state["conv_3.weight"], 1, 0)  # [2, 1, 1, 1]
    assert np.abs(expected).min() > 0.05
    assert np.abs(small[1](paddle.to_tensor(image)).numpy() - expected).max() < 1e-5


def test_both_shapes_of_latents_give_the_same_images(small):
    z = normal(4, 3)
    flat, deep = small[0](paddle.to_tensor(z)), small[0](paddle.to_tensor(z[:, :, None, None]))
    assert np.array_equal(flat.numpy(), deep.numpy())


def test_image_does_not_depend_on_its_neighbours_in_eval_mode(small):
    z = normal(5, 3)
    together = small[0](paddle.to_tensor(z)).numpy()
    alone = np.concatenate([small[0](paddle.to_tensor(z[i : i + 1])).numpy() for i in range(5)])
    assert np.abs(together - alone).max() < 1e-6


def test_batch_norm_keeps_four_fifths_of_what_it_has_seen():
    generator = Generator(3, 2, 16)
    z = normal(8, 3)
    generator.train()
    generator(paddle.to_tensor(z))
    x = conv_transpose(z[:, :, None, None].astype(np.float64), generator.conv_1.weight.numpy().astype(np.float64), 1, 0)
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    assert np.allclose(generator.bn_1._mean.numpy(), 0.2 * mean, atol=1e-6)
    unbiased = variance * (x[:, 0].size / (x[:, 0].size - 1))
    found = generator.bn_1._variance.numpy()
    assert np.allclose(found, 0.8 + 0.2 * variance, atol=1e-6) or np.allclose(found, 0.8 + 0.2 * unbiased, atol=1e-6)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-16, -1, 0, 1, 8, 17, 48, 63, 96, 512, 2**40])
@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_other_sizes_are_refused_with_a_sentence(network, size):
    sentence = f"image_size must be a power of two from 16 to 256, received {size}$"
    with pytest.raises(ValueError, match=sentence):
        network(image_size=size)
    with pytest.raises(ValueError, match=sentence):
        check_image_size(size)


@pytest.mark.parametrize(
    "shape", [[2, 4], [2, 2], [3], [2, 3, 1], [2, 3, 2, 2], [2, 3, 1, 2], [2, 1, 1, 3], [2, 3, 1, 1, 1]]
)
def test_latents_of_another_shape_are_refused_with_a_sentence(small, shape):
    with pytest.raises(ValueError) as caught:
        small[0](paddle.zeros(shape))
    assert str(caught.value) == f"latents must be [N, 3] or [N, 3, 1, 1], received {shape}"


def test_layers_that_begin_bilinear_enlarge_mixed_channels_as_paddles_interpolation_does():
    network = Generator(10, 8, 32, init="bilinear")
    for i in range(2, network.depth + 1):
        weight = getattr(network, f"conv_{i}").weight
        x = paddle.randn([2, weight.shape[0], 6, 6])
        mixed = paddle.einsum("nihw,if->nfhw", x, weight.sum([2, 3]) / 4)
        expected = nn.functional.interpolate(mixed, scale_factor=2, mode="bilinear", align_corners=False)
        inner = (Ellipsis, slice(1, -1), slice(1, -1))  # at the edge the layer sees zeros, interpolation the edge again
        found = nn.functional.conv2d_transpose(x, weight, stride=2, padding=1)
        np.testing.assert_allclose(found[inner].numpy(), expected[inner].numpy(), atol=1e-5)


def test_weights_that_begin_bilinear_are_as_large_as_random_ones_and_differ_from_seed_to_seed():
    paddle.seed(0)
    first, second = Generator(10, 32, 32, init="bilinear"), Generator(10, 32, 32, init="bilinear")
    for i in range(2, first.depth):
        weight = getattr(first, f"conv_{i}").weight.numpy()
        assert abs(np.sqrt((weight**2).mean()) - 0.02) < 0.001
        assert not np.array_equal(weight, getattr(second, f"conv_{i}").weight.numpy())


def test_the_first_images_of_a_generator_that_begins_bilinear_have_hardly_a_grid():
    def grid(init):
        """Share of the images' variance that lies in differences between even and odd rows."""
        paddle.seed(1)
        images = Generator(10, 16, 64, init=init)(paddle.randn([16, 10])).numpy()
        images = images[:, :, 8:-8]
        return np.var(images[:, :, ::2].mean(2) - images[:, :, 1::2].mean(2)) / np.var(images)

    assert grid("bilinear") < 0.05 * grid("normal")
