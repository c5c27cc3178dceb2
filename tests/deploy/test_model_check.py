"""Model files that would hang, crash, fill the memory or touch other files: refused before a runtime sees them."""

from __future__ import annotations

import json
import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.manifest import ModelError
from deploy.model_check import check_onnx, check_paddle


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
}


@pytest.mark.parametrize("attack", ONNX_ATTACKS, ids=lambda attack: attack.__name__)
def test_an_onnx_file_with_more_than_our_exports_have_is_refused_by_what_it_has(model, attack):
    check_onnx(model.SerializeToString())
    attack(model)
    with pytest.raises(ModelError, match=ONNX_ATTACKS[attack]) as caught:
        check_onnx(model.SerializeToString())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


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


# ---- Paddle ---------------------------------------------------------------------------------------------------------


def operation(kind, inputs=(), attributes=(), outputs=()):
    made = [
        {"%": number, "TT": {"#": "0.t_dtensor", "D": [{"#": "0.t_f32"}, shape, "NCHW", [], 0]}}
        for number, shape in outputs
    ]
    named = [{"N": name, "AT": {"#": "0.a", "D": value}} for name, value in attributes]
    return {"#": kind, "A": named, "I": [{"%": number} for number in inputs], "O": made}


def parameter(number, shape):
    output = operation("x", outputs=[(number, shape)])["O"][0]
    return {"#": "p", "A": [0, 1, 1, f"w_{number}"], "DA": [], "O": output, "OA": [1, 0, 1], "QA": []}


def transposed(strides=(1, 1), paddings=(0, 0), **changes):
    settings = {"strides": list(strides), "paddings": list(paddings), "output_padding": [], "groups": 1}
    settings.update({"padding_algorithm": "EXPLICIT", "dilations": [1, 1], "data_format": "NCHW", **changes})
    return operation("1.conv2d_transpose", [4, 1, 5], settings.items(), [(6, [-1, 3, 16, 16])])


@pytest.fixture
def program():
    """z -> unsqueeze -> transposed convolution -> tanh, in the words of Paddle 3's programs."""
    operations = [
        parameter(1, [8, 3, 16, 16]),
        operation("1.data", attributes=[("name", "z"), ("shape", [-1, 8])], outputs=[(2, [-1, 8])]),
        operation("1.full_int_array", attributes=[("value", [2, 3])], outputs=[(3, [2])]),
        operation("1.unsqueeze", [2, 3], outputs=[(4, [-1, 8, 1, 1])]),
        operation("1.full_int_array", attributes=[("value", [])], outputs=[(5, [0])]),
        transposed(),
        operation("1.tanh", [6], outputs=[(7, [-1, 3, 16, 16])]),
        operation("1.fetch", [7], [("name", "fetch"), ("col", 0)], [(8, [-1, 3, 16, 16])]),
    ]
    block = {"#": "block_0", "args": [], "ops": operations}
    base = {"magic": "pir", "trainable": True, "version": 3}
    return {"base_code": base, "program": {"regions": [{"#": "region_0", "blocks": [block]}]}}


def check(program, parameters=b"\0" * (4 * 8 * 3 * 16 * 16 + 60)):
    check_paddle(json.dumps(program).encode(), parameters)


def operations_of(program):
    return program["program"]["regions"][0]["blocks"][0]["ops"]


def save_files(program):
    operations_of(program).append(operation("1.save_combine", [1], [("file_path", "/tmp/x")]))


def hold_a_program(program):
    operations_of(program)[6]["regions"] = program["program"]["regions"][0]["blocks"][:0]


def call_python(program):
    operations_of(program).insert(6, operation("1.py_func", [6], outputs=[(9, [1])]))


def enlarge_parameter(program):
    operations_of(program)[0]["O"]["TT"]["D"][1][2] = 1 << 12


def enlarge_steps(program):
    operations_of(program)[5] = transposed(strides=(1 << 20, 1))


def enlarge_result(program):
    operations_of(program)[4]["A"][0]["AT"]["D"] = [1 << 20, 1 << 20]


PADDLE_ATTACKS = {
    save_files: "operator '1.save_combine'",
    hold_a_program: "holds a program",
    call_python: "operator '1.py_func'",
    enlarge_parameter: "bytes of parameters, there are",
    enlarge_steps: "larger steps than two",
    enlarge_result: "set as in no export",
}


@pytest.mark.parametrize("attack", PADDLE_ATTACKS, ids=lambda attack: attack.__name__)
def test_a_paddle_program_with_more_than_our_exports_have_is_refused_by_what_it_has(program, attack):
    check(program)
    attack(program)
    with pytest.raises(ModelError, match=PADDLE_ATTACKS[attack]):
        check(program)


def test_a_paddle_program_is_read_in_one_way_only(program):
    text = json.dumps(program).replace('"#": "1.tanh"', '"#": "1.save_combine", "#": "1.tanh"')
    with pytest.raises(ModelError, match="an entry twice"):
        check_paddle(text.encode(), b"\0" * 100_000)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 100_000, b'{"base_code":1,"program":2}', b"\xff"])
def test_what_is_no_program_is_one_sentence(content):
    with pytest.raises(ModelError, match="the Paddle program is not one of our exports"):
        check_paddle(content, b"")


def places(value):
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield value, name
        yield from places(inner)


def test_programs_with_strange_values_anywhere_are_one_sentence_each(program):
    rng, refused = random.Random(0), 0
    for _ in range(1500):
        changed = json.loads(json.dumps(program))
        holder, name = rng.choice(list(places(changed)))
        holder[name] = rng.choice([None, True, -1, 0, 1 << 70, 1e308, "", "x", [], {}, [[]], {"D": {"D": []}}])
        try:
            check(changed)
        except ModelError:
            refused += 1
    assert refused > 500
