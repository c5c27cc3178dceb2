import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.manifest import Signature
from deploy.seeds import latents
from export import onnx_graph
from export.decompose_conv_transpose import joined, with_split_transposes
from export.onnx_graph import read_arrays, take_apart
from export.structure import onnx_problems


def run(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def one_layer(inputs, filters, height, width, bias=True, **changes):
    """A model of one transposed convolution, its weights whole numbers, so that sums are exact in any order."""
    rng = np.random.default_rng(filters)
    arrays = {"conv.weight": rng.integers(-9, 9, (inputs, filters, 4, 4)).astype(np.float32)}
    if bias:
        arrays["conv.bias"] = rng.integers(-9, 9, filters).astype(np.float32)
    attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 1, **changes}
    node = helper.make_node("ConvTranspose", ["z", *arrays], ["y"], name="conv", **attributes)
    graph = helper.make_graph(
        [node],
        "small",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", inputs, height, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    shape = run(model, np.zeros((1, inputs, height, width), np.float32)).shape[1:]
    return model, Signature("z", (inputs, height, width), "y", shape)


@pytest.mark.parametrize("filters", [1, 3, 15, 16, 40])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (5, 2), (8, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_every_pixel_is_the_same(filters, height, width, bias):
    model, signature = one_layer(3, filters, height, width, bias)
    split = with_split_transposes(model, signature)
    assert "ConvTranspose" not in [node.op_type for node in split.graph.node]
    z = np.random.default_rng(1).integers(-9, 9, (2, 3, height, width)).astype(np.float32)
    assert np.array_equal(run(split, z), run(model, z))


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": [1, 1]},
        {"strides": [2, 1]},
        {"pads": [0, 0, 0, 0]},
        {"pads": [1, 1, 0, 1]},
        {"dilations": [2, 2]},
        {"output_padding": [1, 1]},
        {"output_shape": [7, 7]},
    ],
)
def test_other_geometries_stay_as_they_are(changes):
    model, signature = one_layer(3, 16, 4, 4, **changes)
    assert [node.op_type for node in with_split_transposes(model, signature).graph.node] == ["ConvTranspose"]


def test_the_generator_draws_the_same(generator):
    signature = generator.trained.signature
    split = with_split_transposes(generator.model, signature)
    onnx_graph.check(split, signature)
    assert [n.op_type for n in split.graph.node].count("ConvTranspose") == 1  # the first layer has another geometry
    z = latents(range(9), 8)
    assert np.abs(run(split, z) - run(generator.model, z)).max() < 1e-6


@pytest.mark.parametrize("half", [False, True])
def test_joining_gives_the_graph_that_was_split(generator, half):
    signature = generator.trained.signature
    model = onnx_graph.with_float16(generator.model, signature) if half else generator.model
    before, after = take_apart(model), joined(with_split_transposes(model, signature))
    assert [(n.kind, n.name, n.inputs, n.output) for n in after.nodes] == [
        (n.kind, n.name, n.inputs, n.output) for n in before.nodes
    ]
    assert after.arrays.keys() == before.arrays.keys()
    assert all(np.array_equal(after.arrays[name], array) for name, array in before.arrays.items())


def wider(generator, filters):
    """The generator's model, its second layer with so many filters that it is split the other way."""
    arrays = read_arrays(generator.model)
    rng = np.random.default_rng(0)
    shapes = {"conv_2.weight": (8, filters, 4, 4), "conv_2.bias": (filters,), "conv_3.weight": (filters, 3, 4, 4)}
    for name in shapes:
        arrays[name] = rng.normal(size=shapes[name]).astype(np.float32)
    graph = take_apart(generator.model)._replace(arrays=arrays)
    return onnx_graph.make_model(graph, generator.trained.signature, 17, {})


@pytest.mark.parametrize("filters", [4, 16])
def test_a_changed_attribute_or_number_is_not_joined(generator, filters):
    signature = generator.trained.signature
    for change in ("pads", "weight", "order"):
        split = with_split_transposes(wider(generator, filters), signature)
        nodes = [node for node in split.graph.node if node.name.startswith("conv_2.")]
        if change == "pads":
            next(a for a in nodes[0].attribute if a.name == "pads").ints[0] += 1
        elif change == "order":
            depth = next(node for node in nodes if node.op_type == "Concat")
            depth.input[0], depth.input[1] = depth.input[1], depth.input[0]
        else:
            wrong = next(i for i in split.graph.initializer if i.name.startswith("conv_2.") and "bias" not in i.name)
            wrong.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(wrong)[1:], wrong.name))
        kinds = [node.kind for node in joined(split).nodes]
        assert kinds.count("ConvTranspose") == 2, change  # the first and the third


def test_a_weight_a_hair_off_in_one_of_the_four_parts_is_named(generator, spoil):
    split = with_split_transposes(generator.model, generator.trained.signature)
    assert onnx_problems(split, generator.operators, generator.trained.layer) == []
    spoil(split, "conv_2.all.weight", lambda w: np.where(w == w.max(), np.nextafter(w.max(), 9), w))
    (problem,) = onnx_problems(split, generator.operators, generator.trained.layer)
    assert problem.startswith("conv_2.weight differs in 1 of 512 numbers")


def test_a_biased_part_is_named(generator, spoil):
    split = with_split_transposes(generator.model, generator.trained.signature)
    spoil(split, "conv_2.all.bias", lambda b: b + (np.arange(len(b)) == len(b) - 1))
    assert any("operators are" in p for p in onnx_problems(split, generator.operators, generator.trained.layer))


def test_the_split_model_is_valid_onnx_of_every_opset(generator):
    for opset in (13, 17, 21):
        graph = take_apart(generator.model)
        model = onnx_graph.make_model(graph, generator.trained.signature, opset, {})
        onnx.checker.check_model(with_split_transposes(model, generator.trained.signature), full_check=True)
