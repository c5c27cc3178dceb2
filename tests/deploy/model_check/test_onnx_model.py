"""ONNX files that would hang, crash, fill the memory or touch other files: refused before a runtime sees them."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.manifest import ModelError
from deploy.model_check import check_onnx


@pytest.fixture
def model(export):
    return onnx.load(export.folder / "generator.onnx")


def add_loop(model):
    """A loop without an end."""
    ends = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("going", "still")]
    body = helper.make_graph([helper.make_node("Identity", ["going"], ["still"])], "body", [ends[0]], [ends[1]])
    model.graph.node.append(helper.make_node("Loop", ["", "yes"], ["never"], body=body))


def add_functions(model):
    """Thirty functions, each of which calls the one before twice: a thousand million nodes."""
    for i in range(30):
        name = f"f{i - 1}" if i else "Relu"
        domain = "own" if i else ""
        nodes = [helper.make_node(name, [a], [b], domain=domain) for a, b in (("x", "y"), ("y", "z"))]
        function = helper.make_function("own", f"f{i}", ["x"], ["z"], nodes, [helper.make_opsetid("", 17)])
        model.functions.append(function)


def add_constant_of_shape(model):
    """A terabyte from some bytes."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 38]), "huge"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["memory"]))


def add_external(model):
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def add_constant(model):
    """Its weight would be in another file, inside an attribute."""
    tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def use_other_domain(model):
    model.graph.node[0].domain = "com.microsoft"


def announce_more_than_there_is(model):
    model.graph.initializer[0].dims[0] *= 1000


def leave_size_open(model):
    model.graph.initializer[0].dims[1] = 0


def enlarge(model):
    """A step of a million pixels."""
    model.graph.node[1].attribute.append(helper.make_attribute("strides", [1 << 20, 1 << 20]))


def pad(model):
    model.graph.node[1].attribute.append(helper.make_attribute("output_shape", [1 << 20, 1 << 20]))


def train(model):
    model.training_info.add()


def repeat(model):
    """So often that every image would take hours."""
    for i in range(600):
        model.graph.node.append(helper.make_node("Tanh", ["image"], [f"more {i}"]))


def take_larger_steps_first(model):
    """OpenVINO takes the first of two attributes of one name."""
    node = next(node for node in model.graph.node if node.op_type.startswith("Conv"))
    own = [attribute for attribute in node.attribute if attribute.name != "strides"]
    del node.attribute[:]
    node.attribute.extend(own + [helper.make_attribute("strides", sizes) for sizes in ([40, 40], [1, 1])])


def add_two_images(model):
    node = next(node for node in model.graph.node if node.op_type == "Tanh")
    node.input.append(node.input[0])


ONNX_ATTACKS = {
    add_loop: "takes what nothing computed|operator 'Loop'|attribute has a field",
    add_functions: "has a field 25",
    add_constant_of_shape: "operator 'ConstantOfShape'",
    add_external: "keeps weights in other files",
    add_constant: "attribute has a field 5",
    use_other_domain: "operators that are not ONNX's own",
    announce_more_than_there_is: "announces .* numbers and holds",
    leave_size_open: "has no size",
    enlarge: "larger steps than two",
    pad: "has the attribute 'output_shape'",
    train: "has a field 20",
    repeat: "more parts than any export",
    take_larger_steps_first: "'strides' twice",
    add_two_images: "gives a function of one image several",
}


@pytest.mark.parametrize("attack", ONNX_ATTACKS, ids=lambda attack: attack.__name__)
def test_an_onnx_file_with_more_than_our_exports_have_is_refused_by_what_it_has(model, attack):
    check_onnx(model.SerializeToString())
    attack(model)
    with pytest.raises(ModelError, match=ONNX_ATTACKS[attack]) as caught:
        check_onnx(model.SerializeToString())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_an_operator_disguised_as_another_is_refused(model):
    """Protobuf passes over a field of another encoding: here, four bytes that say Relu where a name is expected."""
    node = helper.make_node("Expand", ["z", "sizes"], ["large"])
    disguised = node.SerializeToString() + bytes([4 << 3 | 5]) + b"Relu"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1000, 1, 1]), "sizes"))
    model.graph.node.append(onnx.NodeProto.FromString(disguised))
    assert model.graph.node[-1].op_type == "Expand"
    with pytest.raises(ModelError, match="node has a field 4 of another encoding"):
        check_onnx(model.SerializeToString())


def test_onnxruntimes_own_format_is_refused():
    with pytest.raises(ModelError, match="onnxruntime's own format"):
        check_onnx(b"\x20\x00\x00\x00ORTM" + bytes(100))


def test_a_model_is_refused_before_any_runtime_is_called(export, model, monkeypatch):
    import onnxruntime

    from deploy.runtimes import load_generator

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: pytest.fail("it was loaded"))
    add_loop(model)
    export.replace_generator(model.SerializeToString())
    with pytest.raises(ModelError, match="is not one of our exports"):
        load_generator(export.folder)


def test_damaged_onnx_files_are_one_sentence_each(model):
    content, rng = model.SerializeToString(), random.Random(0)
    head = content[:400] + content[-400:]  # where the structure is; between them are weights
    refused = 0
    for _ in range(3000):
        changed = bytearray(head if rng.random() < 0.5 else content)
        for _ in range(rng.choice([1, 1, 3])):
            changed[rng.randrange(min(len(changed), 300))] = rng.randrange(256)
        try:
            check_onnx(bytes(changed))
        except ModelError:
            refused += 1
    for length in range(0, len(content), 97):
        with pytest.raises(ModelError):
            check_onnx(content[:length])
    assert refused > 1000
