import copy

import numpy as np
import pytest
from onnx import helper

from export import onnx_graph
from export.static_graph import Operator
from export.structure import onnx_problems, program_problems


def problems_of(translated, model=None, precision="fp32"):
    return onnx_problems(model or translated.model, translated.operators, translated.trained.layer, precision)


def node(model, name):
    return next(n for n in model.graph.node if n.name == name)


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_what_was_converted_equals_the_network_to_the_bit(translated, name):
    assert problems_of(translated[name]) == []


VARIANTS = [
    (onnx_graph.with_float16, "fp16"),
    (onnx_graph.with_float16_weights, "fp16-weights"),
    (onnx_graph.with_uint8, "fp32"),
]


@pytest.mark.parametrize(("variant", "precision"), VARIANTS)
def test_variants_equal_the_network_too(generator, variant, precision):
    assert problems_of(generator, variant(generator.model, generator.trained.signature), precision) == []


@pytest.mark.parametrize(("variant", "precision"), [*VARIANTS[:2], (lambda model, _: model, "fp32")])
def test_a_model_of_another_precision_than_stated_is_named(generator, variant, precision):
    model = variant(generator.model, generator.trained.signature)
    for other in {"fp32", "fp16", "fp16-weights"} - {precision}:
        assert any("expected float" in problem for problem in problems_of(generator, model, other))


def test_one_weight_of_thousands_that_is_a_hair_off_is_named(generator, spoil):
    """The smallest change there is, in the smallest weight: no image could show it."""

    def change(weight):
        flat = weight.reshape(-1)
        i = np.abs(flat).argmin()
        flat[i] = np.nextafter(flat[i], 1)
        return weight

    (problem,) = problems_of(generator, spoil(generator.model, "conv_2.weight", change))
    assert problem.startswith("conv_2.weight differs in 1 of 512 numbers, by up to ")


def test_a_weight_one_per_cent_off_is_named_also_in_half_precision(generator, spoil):
    model = onnx_graph.with_float16(generator.model, generator.trained.signature)
    spoil(model, "conv_3.weight", lambda w: w * np.float16(1.01))
    assert "conv_3.weight differs in" in problems_of(generator, model, "fp16")[0]


def test_swapped_channels_are_named(generator, spoil):
    spoil(generator.model, "conv_1.bias", lambda b: b[[1, 0, *range(2, len(b))]])
    assert "conv_1.bias differs in 2 of 8 numbers" in problems_of(generator)[0]


def test_a_weight_of_another_shape_or_missing_is_named(generator, spoil):
    spoil(generator.model, "conv_1.bias", lambda b: b[:7])
    generator.model.graph.initializer.remove(
        next(i for i in generator.model.graph.initializer if i.name == "conv_2.bias")
    )
    assert problems_of(generator)[:2] == ["conv_2.bias is missing", "conv_1.bias is float32 [7], expected float32 [8]"]


def test_a_wrong_slope_is_named(discriminator):
    node(discriminator.model, "leaky_relu_2").attribute[0].f = 0.3
    assert problems_of(discriminator) == ["leaky_relu_2: alpha is 0.3, expected 0.2"]


@pytest.mark.parametrize(("name", "value"), [("strides", [1, 2]), ("pads", [1, 1, 1, 0]), ("group", 2)])
def test_a_wrong_attribute_of_a_convolution_is_named(generator, name, value):
    attribute = next(a for a in node(generator.model, "conv_2").attribute if a.name == name)
    attribute.CopyFrom(helper.make_attribute(name, value))
    assert len(problems_of(generator)) == 1 and problems_of(generator)[0].startswith(f"conv_2: {name} is {value}")


def test_another_operator_is_named(generator):
    node(generator.model, "relu_1").op_type = "Sigmoid"
    (problem,) = problems_of(generator)
    assert "'Sigmoid'" in problem and "expected" in problem


def test_an_operator_that_nobody_checks_is_named(generator):
    operators = [*generator.operators, Operator("lerp", "conv_3", {})]
    assert onnx_problems(generator.model, operators, generator.trained.layer) == [
        "the program holds operators that this check does not know: lerp"
    ]


def test_a_program_is_compared_weight_by_weight(generator):
    layer = generator.trained.layer
    weights = {name: tensor.numpy().copy() for name, tensor in layer.state_dict().items()}
    assert program_problems(weights, generator.operators, layer) == []
    weights["bn_2._variance"][3] *= 1.01
    weights["extra"] = weights.pop("bn_1.bias")
    assert [p.split(",")[0] for p in program_problems(weights, generator.operators, layer)] == [
        "bn_1.bias is missing",
        "extra is not of the network",
        "bn_2._variance differs in 1 of 4 numbers",
    ]


def test_a_program_whose_batch_norm_is_in_training_mode_is_named(generator):
    layer = generator.trained.layer
    weights = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    operators = copy.deepcopy(generator.operators)
    next(op for op in operators if op.layer == "bn_1").attributes["is_test"] = False
    assert program_problems(weights, operators, layer) == ["bn_1 is in training mode"]
