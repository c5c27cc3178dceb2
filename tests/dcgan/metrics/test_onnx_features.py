import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dcgan.errors import EvaluationError
from dcgan.metrics.onnx_features import OnnxFeatures

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


@pytest.fixture
def network(tmp_path):
    """network(nodes, shape, dtype, outputs): path of an ONNX file with the input `image` and these nodes."""

    def build(nodes, shape=("n", 3, 8, 8), dtype=FLOAT, outputs=("features",), initializers=()):
        graph = helper.make_graph(
            [helper.make_node(kind, inputs, [output], **options) for kind, inputs, output, options in nodes],
            "test",
            [helper.make_tensor_value_info("image", dtype, list(shape))],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            list(initializers),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / "network.onnx"
        onnx.save(model, path)
        return path

    return build


MEANS = [("GlobalAveragePool", ["image"], "pooled", {}), ("Flatten", ["pooled"], "features", {})]


@pytest.fixture
def images():
    """Ten different images, uint8 [10, 3, 8, 8]."""
    return np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8), dtype=np.uint8)


def test_features_are_what_the_graph_says_of_images_in_its_range(network, images):
    path = network(MEANS)
    expected = images.mean(axis=(2, 3)) / 127.5 - 1
    assert OnnxFeatures(path)(images) == pytest.approx(expected, abs=1e-5)
    assert OnnxFeatures(path, (0, 1))(images) == pytest.approx((expected + 1) / 2, abs=1e-5)
    assert OnnxFeatures(path, batch_size=3)(images) == pytest.approx(expected, abs=1e-5)


def test_images_are_resized_to_the_graphs_input(network, images):
    """Bilinearly with half-pixel centres, as the independent weights below say."""

    def weights(small, large):
        places = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
        matrix = np.zeros((large, small))
        for row, place in zip(matrix, places):
            low = min(int(place), small - 2)
            row[low : low + 2] = 1 - (place - low), place - low
        return matrix

    flat = [("Flatten", ["image"], "features", {})]
    w = weights(8, 20)
    expected = (w @ (images / 127.5 - 1) @ w.T).reshape(10, -1)
    assert OnnxFeatures(network(flat, ("n", 3, 20, 20)))(images) == pytest.approx(expected, abs=1e-5)
    smaller = OnnxFeatures(network(flat, ("n", 3, 4, 4)))(images)
    assert smaller == pytest.approx(
        images.reshape(10, 3, 4, 2, 4, 2).mean((3, 5)).reshape(10, -1) / 127.5 - 1, abs=1e-5
    )


def test_a_graph_of_any_size_takes_images_as_they_are(network, images):
    extractor = OnnxFeatures(network(MEANS, ("n", 3, "h", "w")))
    assert extractor.protocol["resizer"].startswith("none") and extractor.protocol["input"] == "float32 any"
    assert extractor(images).shape == (10, 3)


def test_a_graph_in_uint8_takes_levels(network, images):
    path = network([("Cast", ["image"], "float", {"to": FLOAT}), ("GlobalAveragePool", ["float"], "pooled", {}),
                    ("Flatten", ["pooled"], "features", {})], dtype=UINT8)  # fmt: skip
    extractor = OnnxFeatures(path)
    assert extractor(images) == pytest.approx(images.mean(axis=(2, 3)), abs=1e-3)
    assert extractor.protocol["range"] == [0, 255] and extractor.protocol["resizer"].startswith("none")
    with pytest.raises(EvaluationError, match="levels are 0 to 255"):
        OnnxFeatures(path, (-1, 1))
    with pytest.raises(EvaluationError, match="8 x 8, these are of 16 x 16"):
        OnnxFeatures(path)(np.zeros((2, 3, 16, 16), np.uint8))


def test_a_graph_of_a_fixed_batch_is_fed_whole_batches(network, images):
    extractor = OnnxFeatures(network(MEANS, (4, 3, 8, 8)), batch_size=7)
    assert extractor(images) == pytest.approx(images.mean(axis=(2, 3)) / 127.5 - 1, abs=1e-5)


def test_features_with_two_axes_of_one_are_flattened_and_one_of_several_outputs_is_named(network, images):
    path = network([MEANS[0], ("Neg", ["pooled"], "negative", {})], outputs=("pooled", "negative"))
    with pytest.raises(EvaluationError, match="outputs pooled, negative: name one of them with --inception-output"):
        OnnxFeatures(path)
    with pytest.raises(EvaluationError, match="has the outputs"):
        OnnxFeatures(path, output="nowhere")
    extractor = OnnxFeatures(path, output="negative")
    assert extractor(images) == pytest.approx(1 - images.mean(axis=(2, 3)) / 127.5, abs=1e-5)
    assert extractor.protocol["output"] == "negative"


def test_the_protocol_names_the_very_file(network):
    import hashlib

    path = network(MEANS)
    protocol = OnnxFeatures(path).protocol
    assert protocol["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert protocol["range"] == [-1, 1] and protocol["input"] == "float32 8x8"
    assert OnnxFeatures(path, (0, 1)).protocol != protocol


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08\x12\xff\xff\xff", bytes(range(256)) * 40])
def test_damaged_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "network.onnx"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match="network.onnx") as caught:
        OnnxFeatures(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_is_refused(network):
    path = network(MEANS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EvaluationError, match="network.onnx"):
        OnnxFeatures(path)


def test_weights_in_other_files_are_refused(network, tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(12))
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", str(tmp_path / "weights.bin")
    path = network([*MEANS[:1], ("Flatten", ["pooled"], "flat", {}), ("Add", ["flat", "w"], "features", {})],
                   initializers=[tensor])  # fmt: skip
    with pytest.raises(EvaluationError, match="keeps its weights in other files"):
        OnnxFeatures(path)


@pytest.mark.parametrize("shape", [("n", 100), ("n", 1, 8, 8), ("n", 8, 8, 3)])
def test_a_graph_that_takes_no_rgb_images_is_refused(network, shape):
    with pytest.raises(EvaluationError, match="one input of RGB images"):
        OnnxFeatures(network([("Flatten", ["image"], "features", {})], shape))


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([("Identity", ["image"], "features", {})], r"answers float32 \[10, 3, 8, 8\] for 10 images"),
        ([("ReduceMean", ["image"], "features", {})], r"answers float32 \[1, 1, 1, 1\] for 10 images"),
        ([*MEANS[:1], ("Flatten", ["pooled"], "flat", {}), ("Cast", ["flat"], "features", {"to": TensorProto.INT64})],
         r"answers int64 \[10, 3\]"),
        ([*MEANS[:1], ("Flatten", ["pooled"], "flat", {}), ("Log", ["flat"], "features", {})], "not finite"),
    ],
)  # fmt: skip
def test_answers_that_are_no_features_are_refused_in_one_line(network, images, nodes, told):
    path = network(nodes)
    with pytest.raises(EvaluationError, match=told) as caught:
        OnnxFeatures(path)(images - images + 1)
    assert "\n" not in str(caught.value)


def test_weights_in_other_files_are_refused_wherever_they_are_named(network, tmp_path):
    """Inside a constant of a function: there the file was read and used."""
    path = network(MEANS)
    model = onnx.load(path)
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(helper.make_function("own", "f", [], ["c"], [constant], [helper.make_opsetid("", 17)]))
    onnx.save(model, path)
    with pytest.raises(EvaluationError, match="keeps its weights in other files"):
        OnnxFeatures(path)


def test_what_a_few_bytes_could_make_compute_for_ever_is_refused(network):
    path = network(MEANS)
    body = helper.make_graph([], "body", [], [])
    for change, found in (
        (lambda m: m.graph.node.append(helper.make_node("Loop", ["", "x"], ["y"], body=body)), "holds Loop"),
        (lambda m: m.functions.append(helper.make_function("own", "f", [], [], [], [])), "functions of its own"),
    ):
        model = onnx.load(path)
        change(model)
        changed = path.with_name("changed.onnx")
        changed.write_bytes(model.SerializeToString())
        with pytest.raises(EvaluationError, match=found):
            OnnxFeatures(changed)
