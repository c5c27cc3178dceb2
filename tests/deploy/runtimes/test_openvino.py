"""OpenVINO: its precisions, the manifest's signature, and the CPU alone."""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import pytest

from deploy.manifest import ModelError, Signature
from deploy.runtimes import OpenVino, load_generator

SIGNATURE = Signature("z", (8,), "image", (3, 16, 16))
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino, which is optional, is not installed"
)


def test_images_of_another_precision_are_of_another_model(export):
    ids = [load_generator(export.folder, "openvino", precision=name).model_id for name in ("fp32", "bf16")]
    assert ids[1] == f"{ids[0]}-bf16"


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 100], ids=["empty", "text", "zeros"])
def test_what_is_no_model_is_one_sentence_in_openvino_too(content):
    with pytest.raises(ModelError, match="the ONNX file is not one of our exports: ") as caught:
        OpenVino(content, SIGNATURE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "noise"}, r"input is .*noise.*; the manifest says z float32 \['batch', 8\]"),
        ({"out": "photo"}, r"output is .*photo"),
        ({"batch": 4}, r"input is .*\[4,8\]"),
        ({"latent_dim": 9}, r"the manifest says z float32 \['batch', 8\]"),
        ({"size": 8}, r"output is .*\[\?,3,8,8\]"),
    ],
)
def test_openvino_refuses_another_signature(make_generator, change, message):
    size, width = change.pop("size", 16), change.pop("latent_dim", 8)
    content = make_generator(np.zeros((width, 3, size, size), "f4"), tail=(3, size, size), **change)
    with pytest.raises(ModelError, match=message):
        OpenVino(content, SIGNATURE)


def test_openvino_computes_on_the_cpu_and_says_so(export, caplog):
    with caplog.at_level(logging.WARNING):
        assert load_generator(export.folder, "openvino", device="gpu").device == "cpu"
    assert [r.message for r in caplog.records] == ["This installation cannot use a GPU; computing on the CPU."]
