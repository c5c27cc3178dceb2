from __future__ import annotations

import hashlib
import importlib.util
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from deploy.manifest import ModelError, Signature, read_manifest
from deploy.runtimes import base, load_discriminator, load_generator

IMAGE = (3, 16, 16)
SIGNATURE = Signature("z", (8,), "image", IMAGE)
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino, which is optional, is not installed"
)
ALL_BACKENDS = ["onnxruntime", "paddle", pytest.param("openvino", marks=needs_openvino)]


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_images_are_what_numpy_computes(both_exports, backend):
    generator = load_generator(both_exports.folder, backend=backend, device="cpu")
    seeds = [5, 0, 4294967295]
    found = generator.generate(seeds=seeds)
    assert found.dtype == np.float32 and found.shape == (3, *IMAGE)
    assert np.abs(found - both_exports.expected(seeds)).max() < 2e-6
    assert generator.backend == backend and generator.device == "cpu"


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_seed_is_the_same_image_whatever_its_batch(both_exports, backend):
    generator = load_generator(both_exports.folder, backend=backend, device="cpu")
    whole = generator.generate(range(7))
    for batch_size in (1, 2, 3, 7, 100):
        assert np.abs(generator.generate(range(7), batch_size=batch_size) - whole).max() < 1e-6
    assert np.abs(generator.generate(5)[0] - whole[5]).max() < 1e-6


def test_batches_are_bounded(export):
    generator = load_generator(export.folder, device="cpu")
    sizes = []
    run = generator.run
    generator.run = lambda z: sizes.append(len(z)) or run(z)
    assert len(generator.generate(range(70), batch_size=32)) == 70
    assert sizes == [32, 32, 6]


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize(
    "z",
    [np.zeros(shape, dtype) for shape, dtype in (((2, 9), "f4"), ((2, 8), "f8"), (8, "f4"), ((0, 8), "f4"))],
    ids=["width", "float64", "flat", "none"],
)
def test_latents_of_another_shape_are_refused_with_a_sentence(both_exports, backend, z):
    generator = load_generator(both_exports.folder, backend=backend, device="cpu")
    with pytest.raises(ValueError, match=r"z must be float32 \[N, 8\] with N >= 1, received "):
        generator.run(z)


@pytest.mark.parametrize("seeds", [[-1], [2**32], [1.5]])
def test_seeds_out_of_range_are_refused(export, seeds):
    with pytest.raises(ValueError, match="seed"):
        load_generator(export.folder).generate(seeds)
    with pytest.raises(ValueError, match="batch_size"):
        load_generator(export.folder).generate([1], batch_size=0)


def test_the_discriminator_scores(export):
    images = export.expected(range(4)).astype(np.float32)
    logits = load_discriminator(export.folder).run(images)
    assert np.allclose(1 / (1 + np.exp(-logits[:, 0])), export.score(range(4)), atol=1e-6)


def test_auto_prefers_onnxruntime_and_takes_what_is_installed(both_exports, monkeypatch):
    assert load_generator(both_exports.folder).backend == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert load_generator(both_exports.folder).backend == "paddle"


@pytest.mark.parametrize(
    ("backend", "module", "package"),
    [
        ("onnxruntime", "onnxruntime", "onnxruntime"),
        ("paddle", "paddle", "paddlepaddle"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_a_missing_runtime_names_the_pip_command(both_exports, monkeypatch, backend, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=f"{module} is not installed.*pip install {package}"):
        load_generator(both_exports.folder, backend=backend)


def test_no_runtime_at_all_names_the_pip_command(both_exports, monkeypatch):
    for module in ("onnxruntime", "paddle"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match="pip install onnxruntime"):
        load_generator(both_exports.folder)


def test_a_broken_installation_is_told_from_a_missing_one(export, monkeypatch):
    def broken(name):
        raise ImportError("libgomp.so.1: cannot open shared object file", name=name)

    monkeypatch.setattr(base.importlib, "import_module", broken)
    with pytest.raises(ModelError, match="installed but cannot be imported: libgomp"):
        load_generator(export.folder)


def test_models_that_the_folder_has_not_are_named_with_the_export_command(export):
    with pytest.raises(ModelError, match=r"no generator for paddle.*export.py --format paddle"):
        load_generator(export.folder, backend="paddle")
    export.write(models=read_manifest(export.folder).models[:1])
    with pytest.raises(ModelError, match=r"no discriminator.*--network both"):
        load_discriminator(export.folder)


def test_bfloat16_is_refused_where_it_cannot_be_had(both_exports):
    for backend in ("auto", "onnxruntime", "paddle"):
        with pytest.raises(ValueError, match=f"bf16 is for the backend openvino; {backend} computes float32"):
            load_generator(both_exports.folder, backend=backend, precision="bf16")
    with pytest.raises(ValueError, match="precision must be fp32 or bf16, received 'fp8'"):
        load_generator(both_exports.folder, precision="fp8")


def test_unknown_backend_and_device_are_refused(export):
    with pytest.raises(ValueError, match="backend must be auto, onnxruntime, paddle, openvino, received 'torch'"):
        load_generator(export.folder, backend="torch")
    with pytest.raises(ValueError, match="device must be auto, cpu or gpu, received 'tpu'"):
        load_generator(export.folder, device="tpu")


def test_the_checked_bytes_are_the_ones_that_run(export, make_generator, monkeypatch):
    """The file may be exchanged between the check and the load: what runs was read once."""
    from deploy import manifest

    path = export.folder / "generator.onnx"
    sha256 = hashlib.sha256

    def exchange_afterwards(content=b""):
        digest = sha256(content)
        path.write_bytes(make_generator(np.zeros_like(export.weights)))
        return digest

    monkeypatch.setattr(manifest.hashlib, "sha256", exchange_afterwards)
    found = load_generator(export.folder).generate([1])
    assert np.abs(found - export.expected([1])).max() < 2e-6


def test_images_that_are_not_finite_are_an_error(export, make_generator):
    weights = export.weights.copy()
    weights[0, 0, 0, 0] = np.nan
    export.replace_generator(make_generator(weights))
    with pytest.raises(ModelError, match="not finite"):
        load_generator(export.folder).generate([1])


def test_asking_for_a_gpu_that_is_not_there_falls_back_with_one_line(export, caplog):
    with caplog.at_level(logging.WARNING):
        assert load_generator(export.folder, device="gpu").device == "cpu"
        assert load_generator(export.folder, device="auto").device == "cpu"
    assert [r.message for r in caplog.records] == ["This installation cannot use a GPU; computing on the CPU."]


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_several_threads_may_use_one_runtime(both_exports, backend):
    generator = load_generator(both_exports.folder, backend=backend, device="cpu", threads=1)
    ranges = [range(20 * i, 20 * i + 20) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for seeds, found in zip(ranges, pool.map(lambda seeds: generator.generate(seeds, 3), ranges)):
            assert np.abs(found - both_exports.expected(seeds)).max() < 2e-6
