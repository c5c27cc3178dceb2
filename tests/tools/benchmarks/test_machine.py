"""The description of the machine, and the work whose rate is measured."""

import json
from contextlib import nullcontext

import paddle
import pytest

from dcgan.environment import core_count
from tools.benchmarks import machine
from tools.benchmarks.measure import Skip


def test_a_machine_is_described_in_plain_values():
    its = machine.describe()
    assert json.loads(json.dumps(its)) == its and its["cores"] >= 1 and "numpy" in its["versions"]


@pytest.mark.parametrize(("flags", "skipped"), [("avx2", True), ("avx2 avx512_bf16", False), ("", False)])
def test_bfloat16_is_left_out_where_the_processor_is_known_to_lack_it(monkeypatch, flags, skipped):
    monkeypatch.setattr(machine, "processor_facts", lambda: {"flags": flags})
    machine.require("float32")
    with pytest.raises(Skip, match="no bfloat16") if skipped else nullcontext():
        machine.require("bfloat16")


@pytest.mark.parametrize(
    ("product", "settings"),
    [
        (machine.paddle_product, {}),
        (machine.numpy_product, {}),
        (machine.onednn_product, {"dtype": "float32"}),
        (machine.onednn_product, {"dtype": "bfloat16"}),
    ],
)
def test_each_library_multiplies_matrices_with_the_threads_it_is_given(monkeypatch, product, settings):
    threads = []
    monkeypatch.setattr(machine, "SIDE", 32)
    monkeypatch.setattr(paddle.base.core, "set_num_threads", threads.append)
    try:
        run = product(core_count(), **settings)
    except Skip as reason:
        pytest.skip(str(reason))
    run()
    assert threads == ([] if product is machine.numpy_product else [core_count()])
