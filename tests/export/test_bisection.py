import numpy as np
import pytest

from export import parity
from export.bisection import first_difference

FP32 = parity.TOLERANCES["fp32", "cpu"]


@pytest.fixture
def found():
    def look(translated):
        trained = translated.trained
        reference = parity.reference_of(trained.layer, parity.inputs_for(trained.signature))
        return first_difference(trained.layer, translated.model, reference, FP32)

    return look


def test_an_unspoiled_model_differs_nowhere(found, generator, discriminator):
    for translated in (generator, discriminator):
        assert found(translated).startswith("layer by layer, the ONNX model in onnxruntime computes what")


@pytest.mark.parametrize("layer", ["conv_1", "conv_2", "conv_3"])
def test_a_spoiled_weight_is_found_in_its_layer(found, generator, spoil, layer):
    spoil(generator.model, f"{layer}.weight", lambda w: w * np.float32(1.01))
    assert f"differs is {layer} (ConvTranspose), by" in found(generator)


def test_a_spoiled_bias_is_found(found, generator, spoil):
    spoil(generator.model, "conv_2.bias", lambda b: b + np.float32(0.01))
    assert "differs is conv_2 (ConvTranspose)" in found(generator)


@pytest.mark.parametrize("name", ["leaky_relu_1", "leaky_relu_2"])
def test_a_wrong_slope_is_found_behind_its_convolution(found, discriminator, name):
    node = next(n for n in discriminator.model.graph.node if n.name == name)
    node.attribute[0].f = 0.3
    assert f"differs is {name} (LeakyRelu)" in found(discriminator)


def test_a_wrong_last_activation_is_found(found, generator):
    generator.model.graph.node[-1].op_type = "Softsign"
    assert "differs is tanh_3 (Softsign)" in found(generator)


def test_a_layer_that_answers_nan_is_found(found, generator, spoil):
    spoil(generator.model, "conv_2.bias", lambda b: b * np.float32(np.nan))
    assert "differs is conv_2" in found(generator)


def test_what_the_certificate_allows_is_no_difference(generator, spoil):
    """A network whose own float32 is far from its float64: runtimes may differ by 8 times that, in every layer."""
    trained = generator.trained
    reference = parity.reference_of(trained.layer, parity.inputs_for(trained.signature))
    spoil(generator.model, "conv_2.bias", lambda b: b + np.float32(1e-4))
    assert "differs is conv_2" in first_difference(trained.layer, generator.model, reference, FP32)
    rough = reference._replace(exact=reference.outputs + 1e-4)
    assert first_difference(trained.layer, generator.model, rough, FP32).startswith("layer by layer")


def test_looking_leaves_no_hook_behind(found, generator):
    found(generator)
    assert not any(part._forward_post_hooks for part in generator.trained.layer.sublayers())
