import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dcgan.errors import ExportError
from dcgan.images import to_uint8
from deploy.manifest import Signature
from deploy.seeds import latents
from export import onnx_graph
from export.static_graph import parameter_names


def run(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def kinds(model):
    return [node.op_type for node in model.graph.node]


def test_the_graph_holds_the_layers_and_nothing_else(generator, discriminator):
    assert [(n.op_type, n.name) for n in generator.model.graph.node] == [
        ("Unsqueeze", "unsqueeze"),
        ("ConvTranspose", "conv_1"),
        ("Relu", "relu_1"),
        ("ConvTranspose", "conv_2"),
        ("Relu", "relu_2"),
        ("ConvTranspose", "conv_3"),
        ("Tanh", "tanh_3"),
    ]
    assert kinds(discriminator.model) == ["Conv", "LeakyRelu", "Conv", "LeakyRelu", "Conv", "Squeeze"]
    assert [i.name for i in generator.model.graph.initializer if i.name.startswith("conv")] == [
        "conv_1.weight", "conv_1.bias", "conv_2.weight", "conv_2.bias", "conv_3.weight"
    ]  # fmt: skip


def test_input_output_and_every_value_have_one_batch_axis_and_whole_shapes(generator, discriminator):
    for translated, source, result in ((generator, "z", "image"), (discriminator, "image", "logit")):
        graph = translated.model.graph
        assert [v.name for v in graph.input] == [source] and [v.name for v in graph.output] == [result]
        values = [*graph.input, *graph.value_info, *graph.output]
        assert len(values) == len(graph.node) + 1
        for value in values:
            first, *rest = value.type.tensor_type.shape.dim
            assert first.dim_param == "batch" and all(d.dim_value > 0 for d in rest)


def test_old_enough_a_format_for_runtimes_of_the_last_years(generator):
    assert (generator.model.opset_import[0].version, generator.model.ir_version) == (17, 8)
    assert len(generator.model.opset_import) == 1


def test_the_model_says_what_it_is(translated):
    trained, _, converted, _ = translated["generator"]
    facts = {"network": "generator", "step": "4", "run": "00000-noise"}
    model = onnx_graph.clean(converted, parameter_names(trained.layer), trained.signature, facts)
    assert {p.key: p.value for p in model.metadata_props} == facts
    assert model.producer_name == "dcgan-paddle" and model.graph.name == "generator"


def test_the_same_model_gives_the_same_bytes(translated, tmp_path):
    trained, _, converted, _ = translated["generator"]
    contents = []
    for facts in ({"b": "1", "a": "2"}, {"a": "2", "b": "1"}):
        model = onnx_graph.clean(copy.deepcopy(converted), parameter_names(trained.layer), trained.signature, facts)
        onnx_graph.write(model, tmp_path / "model.onnx")
        contents.append((tmp_path / "model.onnx").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("count", [1, 5])
def test_it_draws_what_numpy_draws_from_the_trained_weights(generator, numpy_generator, count):
    z = latents(range(count), 8)
    weights = {name: tensor.numpy() for name, tensor in generator.trained.layer.state_dict().items()}
    assert np.abs(run(generator.model, z) - numpy_generator(weights, z)).max() < 1e-6


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_cleaning_changes_no_answer(translated, name):
    trained, _, converted, model = translated[name]
    shape = (6, *trained.signature.input_shape)
    inputs = latents(range(6), int(np.prod(shape[1:]))).reshape(shape)
    answers = run(converted, inputs)
    assert np.abs(run(model, inputs) - answers).max() < 1e-5 * np.abs(answers).max()


def test_folding_is_rounded_once():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 5, 4, 4)).astype(np.float32)
    norm = {k: rng.uniform(0.5, 2, 5).astype(np.float32) for k in ("weight", "bias", "mean", "variance")}
    w, b = onnx_graph.folded(weight, 1, norm, 1e-5)
    scale = norm["weight"].astype(np.longdouble) / np.sqrt(norm["variance"].astype(np.longdouble) + 1e-5)
    exact = weight * scale[:, None, None]
    assert w.dtype == b.dtype == np.float32
    assert np.abs(w - exact).max() <= np.spacing(np.abs(exact).max().astype(np.float32))
    assert np.allclose(b, norm["bias"] - norm["mean"] * scale, rtol=1e-7)


def test_a_batch_norm_in_training_mode_is_not_folded_but_reported(translated):
    trained, _, converted, _ = translated["generator"]
    converted = copy.deepcopy(converted)
    node = next(n for n in converted.graph.node if n.op_type == "BatchNormalization")
    next(a for a in node.attribute if a.name == "training_mode").i = 1
    with pytest.raises(
        ExportError, match="BatchNormalization node batch_normalization_1 is left over|cannot be inferred"
    ):
        model = onnx_graph.clean(converted, parameter_names(trained.layer), trained.signature, {})
        onnx_graph.check(model, trained.signature)


def small_model(
    nodes, arrays=(), input_shape=("batch", 3), output_shape=("batch", 3), dtype=TensorProto.FLOAT, name="y"
):
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(name, dtype, output_shape)],
        [numpy_helper.from_array(array, key) for key, array in dict(arrays).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SMALL = Signature("z", (3,), "y", (3,))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (small_model([helper.make_node("Identity", ["z"], ["y"], name="copy")]), "Identity node copy is left over"),
        (small_model([helper.make_node("Cast", ["z"], ["y"], name="c", to=1)]), "Cast node c is left over"),
        (small_model([helper.make_node("Relu", ["z"], ["y"])], input_shape=(7, 3), output_shape=(7, 3)), "[7, 3]"),
        (small_model([helper.make_node("Relu", ["z"], ["y"])], input_shape=("n", 3), output_shape=("n", 3)), "'n'"),
        (small_model([helper.make_node("Relu", ["z"], ["y"])], output_shape=("batch", 4)), "4]"),
        (small_model([helper.make_node("Relu", ["z"], ["x"])], name="x"), "'x'"),
        (small_model([helper.make_node("Nonesuch", ["z"], ["y"])]), "Nonesuch"),
        (
            small_model([helper.make_node("Relu", ["z"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]),
            "a has shape []",
        ),
        (
            small_model([helper.make_node("Add", ["z", "w"], ["y"])], {"w": np.float32([1, np.nan, 0])}),
            "w holds NaN",
        ),
    ],
)
def test_a_model_that_is_not_as_it_should_be_is_refused(model, message):
    with pytest.raises(ExportError) as caught:
        onnx_graph.check(model, SMALL)
    assert message in str(caught.value)


def test_weights_in_another_file_are_refused():
    model = small_model([helper.make_node("Add", ["z", "w"], ["y"])], {"w": np.zeros(3, np.float32)})
    onnx_graph.check(model, SMALL)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "weights.bin")
    with pytest.raises(ExportError, match="w lies in another file"):
        onnx_graph.check(model, SMALL)


def test_a_fixed_batch_inside_the_graph_is_refused(generator):
    """The axis lost between input and output: a converter may write the batch of its trace into a Reshape."""
    node = generator.model.graph.node[0]
    node.op_type = "Reshape"
    axes = next(i for i in generator.model.graph.initializer if i.name == node.input[1])
    axes.CopyFrom(numpy_helper.from_array(np.array([7, 8, 1, 1]), axes.name))
    del generator.model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(generator.model, data_prop=True)
    with pytest.raises(ExportError, match=r"unsqueeze.output has shape \[7, 8, 1, 1\]"):
        onnx_graph.check(inferred, generator.trained.signature)


def test_uint8_pixels_are_to_uint8_of_the_float_pixels_for_every_rounding_case():
    """The head alone, on all halves between two levels and their neighbours, and on both ends."""
    halves = ((np.arange(-1, 256) + 0.5) / 127.5 - 1).astype(np.float32)
    x = np.concatenate([halves, np.nextafter(halves, 2), np.nextafter(halves, -2), [-1, 1, 0]]).astype(np.float32)
    x = np.clip(x, -1, 1).reshape(-1, 3)
    scaled = (x + np.float32(1)) * np.float32(127.5)
    assert (scaled % 1 == 0.5).sum() > 100  # there are true halves among them: their rounding is what is tested
    signature = Signature("z", (3,), "y", (3,))
    model = small_model([helper.make_node("Clip", ["z", "low", "high"], ["y"], name="clip")],
                        {"low": np.float32(-1), "high": np.float32(1)})  # fmt: skip
    pixels = run(onnx_graph.with_uint8(model, signature), x)
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, to_uint8(x))


def test_uint8_generator_passes_the_check_and_says_so(generator):
    signature = generator.trained.signature
    model = onnx_graph.with_uint8(generator.model, signature)
    onnx_graph.check(model, signature._replace(output_dtype="uint8"))
    assert {p.key: p.value for p in model.metadata_props}["output"] == "image, uint8 [batch, 3, 16, 16], RGB, 0 to 255"
    z = latents(range(9), 8)
    assert np.array_equal(run(model, z), to_uint8(run(generator.model, z)))


def test_float16_model_is_half_as_large_takes_and_gives_float32_and_is_near(generator):
    signature = generator.trained.signature
    model = onnx_graph.with_float16(generator.model, signature)
    onnx_graph.check(model, signature)
    assert {a.dtype for n, a in onnx_graph.read_arrays(model).items() if n.startswith("conv")} == {np.dtype("float16")}
    z = latents(range(9), 8)
    difference = np.abs(run(model, z) - run(generator.model, z)).max()
    assert run(model, z).dtype == np.float32 and 0 < difference < 0.01
    both = onnx_graph.with_uint8(model, signature)
    onnx_graph.check(both, signature._replace(output_dtype="uint8"))
    assert np.array_equal(run(both, z), to_uint8(run(model, z)))


def test_a_weight_that_float16_cannot_hold_is_named(generator, spoil):
    spoil(generator.model, "conv_2.weight", lambda w: w + 7e4)
    with pytest.raises(ExportError, match="conv_2.weight holds numbers beyond 65504"):
        onnx_graph.with_float16(generator.model, generator.trained.signature)
