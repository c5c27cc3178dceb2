"""Paddle's own operators in float64 are the reference throughout."""

import copy
import gc

import numpy as np
import paddle
import pytest
from paddle import nn

from dcgan import DCGAN, TrainConfig
from dcgan.networks.batch_norm import precise_bn, precise_bn_latents, running_statistics
from dcgan.networks.discriminator import Discriminator
from dcgan.networks.generator import Generator
from dcgan.networks.kernels import PADDLE_KERNELS
from dcgan.networks.modes import eval_kernels, frozen
from dcgan.networks.onednn import OneDnnKernels, OneDnnUnavailableError, has_bfloat16, primitives
from tests.tiny import TINY

try:
    HAS_BFLOAT16 = has_bfloat16()
except OneDnnUnavailableError as error:
    pytest.skip(f"no oneDNN here: {error}", allow_module_level=True)

ACTIVATIONS = {"relu": nn.functional.relu, "leaky_relu": lambda x: nn.functional.leaky_relu(x, 0.2)}
# transposed, batch, channels in, side, channels out, kernel, stride, padding
SHAPES = [
    (False, 3, 3, 16, 8, 4, 2, 1),
    (False, 1, 5, 7, 3, 3, 1, 1),
    (False, 4, 16, 4, 1, 4, 1, 0),
    (False, 7, 33, 9, 17, 5, 2, 2),
    (False, 2, 64, 8, 32, 4, 2, 1),
    (True, 3, 10, 1, 16, 4, 1, 0),
    (True, 2, 8, 8, 3, 4, 2, 1),
    (True, 5, 17, 5, 9, 4, 2, 1),
    (True, 2, 64, 4, 32, 4, 2, 1),
    (True, 1, 3, 6, 5, 3, 1, 1),
    (False, 3, 6, 5, 4, 4, 2, 0),
    (True, 3, 6, 1, 4, 5, 1, 0),
    (False, 2, 4, 9, 6, 4, 2, 1),
]


@pytest.fixture(autouse=True)
def seeded():
    paddle.seed(0)


def make_layer(transposed, channels, filters, kernel, stride, padding, has_norm, has_bias=False):
    kind = nn.Conv2DTranspose if transposed else nn.Conv2D
    conv = kind(channels, filters, kernel, stride, padding, bias_attr=None if has_bias else False)
    if has_bias:
        conv.bias.set_value(paddle.rand([filters]) - 0.5)
    if not has_norm:
        return conv, None
    norm = nn.BatchNorm2D(filters, momentum=0.8)
    norm.weight.set_value(paddle.rand([filters]) + 0.5)
    norm.bias.set_value(paddle.rand([filters]) - 0.5)
    return conv, norm


def in_float64(layer):
    return copy.deepcopy(layer).to(dtype="float64") if layer is not None else None


def gradients(output, x, conv, norm, weight_of_output):
    """By name: the output, and the gradients of <output, weight_of_output>, and BatchNorm's running statistics."""
    (output * weight_of_output.astype(output.dtype)).sum().backward()
    found = {"output": output, "x": x.grad, "weight": conv.weight.grad}
    if conv.bias is not None:
        found["bias"] = conv.bias.grad
    if norm is not None:
        found.update(scale=norm.weight.grad, shift=norm.bias.grad, mean=norm._mean, variance=norm._variance)
    return {name: tensor.astype("float64").numpy() for name, tensor in found.items()}


def both_ways(kernels, shape, has_norm, activation, has_bias=False):
    """The same layer by `kernels` and by Paddle in float64, on values that no rounding carries over a kink at zero."""
    transposed, n, channels, side, filters, kernel, stride, padding = shape
    conv, norm = make_layer(transposed, channels, filters, kernel, stride, padding, has_norm, has_bias)
    reference_conv, reference_norm = in_float64(conv), in_float64(norm)
    for _ in range(20):
        x = paddle.randn([n, channels, side, side])
        plain = copy.deepcopy(reference_conv)(x.astype("float64"))
        plain = copy.deepcopy(reference_norm)(plain) if has_norm else plain
        if float(plain.abs().min()) > 2e-6:
            break
    reference_x = x.astype("float64")
    x.stop_gradient = reference_x.stop_gradient = False
    weight_of_output = paddle.randn(plain.shape)

    output = kernels.leave(kernels.layer(kernels.enter(x), conv, norm, activation))
    reference = reference_conv(reference_x)
    reference = reference_norm(reference) if has_norm else reference
    reference = ACTIVATIONS.get(activation, paddle.tanh if activation else lambda y: y)(reference)
    return (
        gradients(output, x, conv, norm, weight_of_output),
        gradients(reference, reference_x, reference_conv, reference_norm, weight_of_output),
    )


def relative_error(value, reference):
    return np.sqrt(((value - reference) ** 2).mean() / max((reference**2).mean(), 1e-30))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", None])
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_layer_and_all_its_gradients_are_those_of_paddle_in_float64(shape, has_norm, activation):
    if has_norm and shape == (False, 4, 16, 4, 1, 4, 1, 0):
        shape = (False, 40, 16, 4, 1, 4, 1, 0)  # the variance of four numbers divides by almost nothing
    ours, reference = both_ways(OneDnnKernels(), shape, has_norm, activation)
    for name, value in reference.items():
        assert ours[name].shape == value.shape
        assert relative_error(ours[name], value) < 1e-5, name


@pytest.mark.parametrize("has_avx512", [False, True])
@pytest.mark.parametrize("shape", [(False, 5, 33, 8, 17, 4, 2, 1), (True, 5, 17, 4, 3, 4, 2, 1)], ids=str)
def test_weights_of_the_smallest_images_have_the_same_gradient_on_every_processor(monkeypatch, shape, has_avx512):
    monkeypatch.setattr(primitives, "has_avx512", lambda: has_avx512)
    monkeypatch.setattr(primitives, "convolution", primitives.Convolution)  # what other tests made is not this
    ours, reference = both_ways(OneDnnKernels(), shape, True, "leaky_relu")
    assert relative_error(ours["weight"], reference["weight"]) < 1e-5


@pytest.mark.parametrize("activation", ["leaky_relu", None])
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_a_bias_and_its_gradient_are_those_of_paddle_in_float64(shape, activation):
    ours, reference = both_ways(OneDnnKernels(), shape, False, activation, has_bias=True)
    assert "bias" in reference
    for name, value in reference.items():
        assert relative_error(ours[name], value) < 1e-5, name


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor computes no bfloat16")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_bfloat16_a_smooth_layer_is_right_to_three_significant_bits_less_than_its_eight(shape):
    has_norm = shape[1] * (1 if shape[3] == 4 and not shape[0] else 2) > 8
    ours, reference = both_ways(OneDnnKernels("bfloat16"), shape, has_norm, "tanh")
    for name, value in reference.items():
        assert relative_error(ours[name], value) < 2**-5, name


def network_gradients(generator, discriminator, z, real):
    softplus = nn.functional.softplus
    (softplus(-discriminator(generator(z))) + softplus(-discriminator(real))).mean().backward()
    parameters = [p for network in (generator, discriminator) for p in network.parameters() if not p.stop_gradient]
    return np.concatenate([p.grad.astype("float64").numpy().ravel() for p in parameters])


@pytest.mark.parametrize(("image_size", "batch_size"), [(16, 1), (16, 7), (32, 8), (64, 5)])
def test_both_networks_are_as_near_to_float64_as_paddles_float32(image_size, batch_size):
    """In deep networks roundings do cross kinks, each time changing a gradient by a thousandth: Paddle's too. So the
    median over some draws is compared, and with the reference, not with each other."""
    errors = {"onednn": [], "paddle": []}
    for _ in range(5):
        generator, discriminator = Generator(20, 8, image_size), Discriminator(8, image_size)
        z, real = paddle.randn([max(batch_size, 2), 20]), paddle.rand([max(batch_size, 2), 3, image_size, image_size])
        pairs = {name: copy.deepcopy((generator, discriminator)) for name in ("float64", "onednn", "paddle")}
        for network in pairs["onednn"]:
            network.kernels = OneDnnKernels()
        exact = network_gradients(
            *(network.to(dtype="float64") for network in pairs["float64"]), z.astype("float64"), real.astype("float64")
        )
        for name, found in errors.items():
            found.append(relative_error(network_gradients(*pairs[name], z, real), exact))
    assert np.median(errors["onednn"]) < max(3 * np.median(errors["paddle"]), 1e-5)


def test_a_stack_of_smooth_layers_agrees_to_float32_rounding():
    kernels = OneDnnKernels()
    layers = [make_layer(False, 6, 12, 4, 2, 1, True), make_layer(False, 12, 24, 4, 2, 1, True)]
    layers += [make_layer(True, 24, 12, 4, 2, 1, True), make_layer(True, 12, 3, 4, 2, 1, False)]
    references = [(in_float64(conv), in_float64(norm)) for conv, norm in layers]
    x = paddle.randn([6, 6, 32, 32])
    y, reference = kernels.enter(x), x.astype("float64")
    for (conv, norm), (reference_conv, reference_norm) in zip(layers, references):
        y = kernels.layer(y, conv, norm, "tanh")
        reference = reference_conv(reference)
        reference = paddle.tanh(reference_norm(reference) if reference_norm else reference)
    (kernels.leave(y) ** 3).sum().backward()
    (reference**3).sum().backward()
    for (conv, _), (reference_conv, _) in zip(layers, references):
        assert relative_error(conv.weight.grad.numpy(), reference_conv.weight.grad.numpy()) < 1e-5


def test_a_frozen_network_passes_gradients_on_and_keeps_none():
    discriminator = Discriminator(8, 16)
    discriminator.kernels = OneDnnKernels()
    reference = copy.deepcopy(discriminator)
    reference.kernels = PADDLE_KERNELS
    images = [paddle.ones([4, 3, 16, 16]) * paddle.linspace(-1, 1, 16) for _ in range(2)]
    for network, image in zip((discriminator, reference), images):
        image.stop_gradient = False
        with frozen(network):
            network(image).sum().backward()
        assert all(p.grad is None for p in network.parameters())
    np.testing.assert_allclose(images[0].grad.numpy(), images[1].grad.numpy(), rtol=1e-3, atol=1e-6)


@pytest.fixture
def trained_generator():
    """In eval mode, with statistics of its own and images that fill [-1, 1]."""
    generator = Generator(10, 8, 32)
    with paddle.no_grad():
        generator.conv_4.weight.scale_(100.0)
        for _ in range(5):
            generator(paddle.randn([8, 10]))
    generator.eval()
    return generator


def test_images_of_eval_mode_do_not_depend_on_the_kernels_that_trained(trained_generator):
    with paddle.no_grad():
        z = paddle.randn([3, 10])
        before = trained_generator(z).numpy()
        trained_generator.kernels = OneDnnKernels()
        np.testing.assert_array_equal(trained_generator(z).numpy(), before)


@pytest.mark.parametrize("count", [1, 7])
def test_images_of_eval_mode_by_onednn_are_as_near_to_float64_as_paddles_own(trained_generator, count):
    z = paddle.randn([count, 10])
    statistics = [trained_generator.bn_1._mean.numpy(), trained_generator.bn_2._variance.numpy()]
    with paddle.no_grad():
        own = trained_generator(z).numpy()
        with eval_kernels(trained_generator, OneDnnKernels()):
            fast = trained_generator(z).numpy()
        exact = in_float64(trained_generator)(z.astype("float64")).numpy()
    assert abs(fast - exact).max() <= max(4 * abs(own - exact).max(), 1e-6)
    assert abs(exact).max() > 0.5 and trained_generator.eval_kernels is PADDLE_KERNELS
    np.testing.assert_array_equal(trained_generator.bn_1._mean.numpy(), statistics[0])
    np.testing.assert_array_equal(trained_generator.bn_2._variance.numpy(), statistics[1])


def test_precise_bn_by_onednn_finds_the_statistics_of_paddles_operators(trained_generator):
    found = []
    for kernels in (PADDLE_KERNELS, OneDnnKernels()):
        with eval_kernels(trained_generator, kernels):
            precise_bn(trained_generator, precise_bn_latents(10, 128))
        found.append({name: t.numpy() for name, t in running_statistics(trained_generator).items()})
        trained_generator.bn_2._mean.set_value(paddle.zeros([16]))  # it is found again, not left
    assert len(found[0]) == 6
    for name in found[0]:
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-5, atol=1e-8)


def test_a_gradient_through_eval_mode_by_onednn_is_refused_not_wrong(trained_generator):
    with eval_kernels(trained_generator, OneDnnKernels()):
        images = trained_generator(paddle.randn([2, 10]))
        with pytest.raises(OSError, match="no gradient through BatchNorm in eval mode"):  # as Paddle hands it on
            images.sum().backward()


def test_a_model_samples_by_onednn_the_images_of_paddles_operators_and_exports_none_of_it(tmp_path):
    config = TrainConfig(**TINY)
    model = DCGAN(config)
    assert isinstance(model.sampling_kernels, OneDnnKernels)
    fast = model.generate(range(9))
    model.sampling_kernels = PADDLE_KERNELS
    model._statistics_are_stale = True
    own = model.generate(range(9))
    np.testing.assert_allclose(fast, own, atol=1e-6)
    model.sampling_kernels = OneDnnKernels()
    model.save(tmp_path / "exported", training=False)
    loaded = paddle.jit.load(str(tmp_path / "exported"))
    z = model._latents_of(range(9))
    np.testing.assert_allclose(loaded(paddle.to_tensor(z)).numpy(), own, atol=1e-6)


def test_views_that_are_not_contiguous_are_read_as_they_are():
    images = paddle.randn([2, 16, 16, 3])
    kernels = OneDnnKernels()
    np.testing.assert_array_equal(kernels.enter(images.transpose([0, 3, 1, 2])).numpy(), images.numpy())


@pytest.mark.parametrize("seed", [0, 1])
def test_ten_iterations_take_the_course_they_take_by_paddles_operators(seed):
    losses = {}
    for kernels in ("paddle", "onednn"):
        settings = {"image_size": 16, "base_channels": 8, "batch_size": 16, "lr": 2e-4}
        model = DCGAN(TrainConfig(**settings, seed=seed, cpu_kernels=kernels))
        rng = np.random.default_rng(seed)
        losses[kernels] = []
        for _ in range(10):
            model.train_batch([rng.uniform(-1, 1, (16, 3, 16, 16)).astype("float32")])
            losses[kernels] += [float(model.scalars["loss_d"]), float(model.scalars["loss_g"])]
    np.testing.assert_allclose(losses["onednn"], losses["paddle"], rtol=0.02)


def test_a_checkpoint_goes_from_one_kind_of_kernels_to_the_other(tmp_path):
    settings = {"image_size": 16, "base_channels": 8}
    trained = DCGAN(TrainConfig(**settings, cpu_kernels="onednn"))
    trained.train_batch([np.zeros((4, 3, 16, 16), "float32")])
    trained.save(tmp_path / "step")
    restored = DCGAN(TrainConfig(**settings, cpu_kernels="paddle", seed=5))
    restored.load(tmp_path / "step")
    assert restored.sampling_kernels is PADDLE_KERNELS and trained.sampling_kernels is not PADDLE_KERNELS
    np.testing.assert_allclose(restored.generate([1, 2]), trained.generate([1, 2]), atol=1e-6)


def test_a_forward_pass_that_a_hook_ended_leaves_no_images_behind():
    """Paddle never frees the context of such a pass. It held the input of a layer: some MB for each sample grid."""

    def contexts_with_images() -> list:
        gc.collect()
        return [c for c in gc.get_objects() if type(c).__name__ == "_Layer_backward" and hasattr(c, "x")]

    generator = Generator(4, 4, 16)
    before = contexts_with_images()  # held by other tests
    with eval_kernels(generator, OneDnnKernels()):
        precise_bn(generator, precise_bn_latents(4, 32), batch_size=8)
    assert len(contexts_with_images()) <= len(before)
