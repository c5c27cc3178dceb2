"""Paddle programs that would hang, write files or fill the memory: refused before Paddle sees them."""

from __future__ import annotations

import json
import random

import pytest

from deploy.manifest import ModelError
from deploy.model_check import check_paddle


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


def take_larger_steps_first(program):
    """Paddle takes the first of two attributes of one name."""
    attributes = operations_of(program)[5]["A"]
    own = next(entry for entry in attributes if entry["N"] == "strides")
    attributes.insert(0, {"N": "strides", "AT": {**own["AT"], "D": [40, 40]}})


PADDLE_ATTACKS = {
    save_files: "operator '1.save_combine'",
    hold_a_program: "holds a program",
    call_python: "operator '1.py_func'",
    enlarge_parameter: "bytes of parameters, there are",
    enlarge_steps: "larger steps than two",
    enlarge_result: "set as in no export",
    take_larger_steps_first: "has an attribute twice",
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
