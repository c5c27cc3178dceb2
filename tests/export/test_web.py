"""The playground's files: runtime unpacked and checked, model and directions right, one file made of all."""

from __future__ import annotations

import base64
import copy
import gzip
import hashlib
import json
import re
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from dcgan.errors import ExportError, ParityError
from deploy import playground as playground_files
from deploy.manifest import ModelError, read_manifest, verify_files
from deploy.runtimes import load_generator
from deploy.seeds import latents
from deploy.verify import verify
from export import exporter, onnx_graph, web
from export.exporter import ExportConfig, export
from export.load_weights import load_source


def test_the_folder_is_an_export_that_deploy_reads_and_verifies(playground):
    manifest = read_manifest(playground)
    verify_files(playground, manifest)
    assert {path.name for path in playground.iterdir()} == {*manifest.files, "manifest.json"}
    [model] = manifest.models
    assert (model.files, model.precision, model.output_dtype) == (("generator.onnx",), "fp16-weights", "float32")
    assert manifest.versions["onnxruntime-web"] == "1.30.0"
    [row] = verify(playground, device="cpu")
    assert row.passed and 0 < row.max_difference < 1e-2


def test_parity_is_measured_against_the_trained_network_with_a_tolerance_of_its_own(playground):
    parity = read_manifest(playground).parity
    rows = [row for row in parity["rows"] if row["model"] == "generator.onnx"]
    assert [row["batch_size"] for row in rows] == [1, 2, 7, 100]
    assert all(1e-6 < row["max"] <= row["allowed"] for row in rows)
    assert parity["tolerances"]["fp16-weights"]["max_abs"] == 1e-2


def test_weights_are_stored_in_half_the_bytes_and_computed_with_in_single_precision(playground, runs):
    model = onnx.load(playground / "generator.onnx")
    stored = {initializer.name: initializer.data_type for initializer in model.graph.initializer}
    weights = {name for name in stored if name.endswith(".weight")}
    assert len(weights) == 3 and all(stored[name] == TensorProto.FLOAT16 for name in weights)
    assert all(stored[name] == TensorProto.FLOAT for name in stored if name.endswith(".bias"))
    values = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert set(values.values()) == {TensorProto.FLOAT}


def test_rounding_the_weights_is_all_that_differs(generator, spoil):
    """The same images, to float32's own precision, as of a model whose float32 weights were rounded beforehand."""
    import onnxruntime

    rounded = copy.deepcopy(generator.model)
    for i in (1, 2, 3):
        spoil(rounded, f"conv_{i}.weight", lambda weight: weight.astype(np.float16).astype(np.float32))
    halved = onnx_graph.with_float16_weights(generator.model, generator.trained.signature)
    onnx_graph.check(halved, generator.trained.signature)
    images = []
    for model in (rounded, halved):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        images.append(session.run(["image"], {"z": latents(range(5), 8)})[0])
    assert np.abs(images[0] - images[1]).max() < 1e-6


def test_a_weight_too_large_for_float16_is_named(generator, spoil):
    spoil(generator.model, "conv_2.weight", lambda weight: weight + np.float32(7e4))
    with pytest.raises(ExportError, match="conv_2.weight holds numbers beyond 65504"):
        onnx_graph.with_float16_weights(generator.model, generator.trained.signature)


def test_a_spoiled_weight_is_named_and_nothing_is_written(runs, tmp_path, monkeypatch, translated, spoil):
    halve = onnx_graph.with_float16_weights

    def one_per_cent(weight):
        weight.flat[np.abs(weight).argmin()] *= 1.01
        return weight

    def halve_and_spoil(model, signature):
        return spoil(halve(model, signature), "conv_2.weight", one_per_cent)

    monkeypatch.setattr(exporter, "convert", lambda *_: copy.deepcopy(translated["generator"].converted))
    monkeypatch.setattr(onnx_graph, "with_float16_weights", halve_and_spoil)
    with pytest.raises(ParityError, match="conv_2.weight differs in 1 of"):
        export(tmp_path / "out", ExportConfig(runs, ("web",), precise_bn=0))
    assert not (tmp_path / "out").exists()


# ---- directions -----------------------------------------------------------------------------------------------------


# ---- runtime --------------------------------------------------------------------------------------------------------


def test_runtime_and_licences_unpack_to_what_is_stated(playground):
    files = playground_files.runtime_files()
    assert len(files["ort-wasm-simd-threaded.wasm"]) == 14239897
    assert b"MIT License" in files["onnxruntime-web-LICENSE.txt"]
    assert b"THIRD PARTY" in files["onnxruntime-web-ThirdPartyNotices.txt"]
    for name, content in files.items():
        assert (playground / name).read_bytes() == content


@pytest.fixture
def packed(tmp_path):
    """A copy of the small packed files, and the facts about them."""
    for path in (playground_files.PAGE / "runtime").iterdir():
        shutil.copy(path, tmp_path)
    facts = json.loads((tmp_path / "runtime.json").read_text())
    facts["files"] = {name: entry for name, entry in facts["files"].items() if not name.endswith(".wasm")}
    (tmp_path / "runtime.json").write_text(json.dumps(facts))
    return tmp_path


def test_a_changed_runtime_is_refused(packed):
    assert len(playground_files.runtime_files(packed)) == 3
    shutil.copy(packed / "onnxruntime-web-LICENSE.txt.xz", packed / "ort.wasm.bundle.min.mjs.xz")
    with pytest.raises(ModelError, match="ort.wasm.bundle.min.mjs.xz unpacks to SHA-256 2f07c72751ae"):
        playground_files.runtime_files(packed)


@pytest.mark.parametrize("content", [b"", b"no xz", None], ids=["empty", "not xz", "missing"])
def test_a_runtime_that_cannot_be_unpacked_is_named(packed, content):
    path = packed / "onnxruntime-web-LICENSE.txt.xz"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ModelError, match="LICENSE.txt.xz cannot be unpacked"):
        playground_files.runtime_files(packed)


# ---- one file -------------------------------------------------------------------------------------------------------


def test_single_file_holds_everything_and_asks_for_nothing(playground):
    page = (playground / "playground.html").read_text("utf-8")
    manifest = json.loads((playground / "manifest.json").read_text("utf-8"))
    blocks = dict(re.findall(r'<script type="application/gzip" data-file="([^"]+)">([^<]*)</script>', page))
    content = {name: gzip.decompress(base64.b64decode(block)) for name, block in blocks.items()}
    for name in ("generator.onnx", "ort-wasm-simd-threaded.wasm", "directions.json", "onnxruntime-web-LICENSE.txt"):
        assert hashlib.sha256(content[name]).hexdigest() == manifest["files"][name]["sha256"]
    del manifest["files"]["playground.html"]  # a file cannot hold its own checksum
    assert json.loads(content["manifest.json"]) == manifest
    imports = json.loads(re.search(r'<script type="importmap">(.*?)</script>', page)[1])["imports"]
    scripts = [base64.b64decode(url.partition("base64,")[2]).decode() for url in imports.values()]
    asked = {name for script in scripts for name in re.findall(r'from "([^"]+)"', script)}
    assert asked <= set(imports) and '"./' not in content["worker.js"].decode().split("data:", 1)[0]
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!data:)', outside)


def test_single_file_is_the_same_to_the_byte_each_time(playground):
    manifest = json.loads((playground / "manifest.json").read_text("utf-8"))
    del manifest["files"]["playground.html"]
    assert web.single_file(playground, manifest) == (playground / "playground.html").read_bytes()


def test_a_page_without_its_marks_cannot_be_folded(playground, tmp_path):
    copied = shutil.copytree(playground, tmp_path / "copy")
    page = copied / "index.html"
    page.write_text(page.read_text("utf-8").replace('src="main.js"', 'src="other.js"'), "utf-8")
    with pytest.raises(ExportError, match="index.html must hold <script"):
        web.single_file(copied, json.loads((copied / "manifest.json").read_text("utf-8")))


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "fp16"}, "uses the generator alone, in float32"),
        ({"uint8": True}, "uses the generator alone, in float32"),
        ({"networks": ("generator", "discriminator")}, "uses the generator alone, in float32"),
        ({"formats": ("web", "onnx")}, "Use --format web alone"),
        ({"formats": ("onnx",), "single_file": True}, "a single file is a form of the web page"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        ExportConfig(**{"formats": ("web",), **changes}).check()


def test_the_next_export_takes_the_folder(playground, tmp_path, runs, monkeypatch, translated):
    monkeypatch.setattr(exporter, "convert", lambda *_: copy.deepcopy(translated["generator"].converted))
    out = shutil.copytree(playground, tmp_path / "out")
    export(out, ExportConfig(runs, ("web",), precise_bn=0))
    assert not (out / "playground.html").exists() and (out / "index.html").exists()
    images = load_generator(out, device="cpu").generate([1])
    layer = load_source(runs).networks["generator"].layer
    import paddle

    with paddle.no_grad():
        assert np.abs(layer(paddle.to_tensor(latents([1], 8))).numpy() - images).max() < 1e-2
