from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys

import numpy as np
import onnx
import paddle
import pytest
from paddle.static import InputSpec

from deploy.manifest import ModelEntry, ModelError, Signature, read_manifest
from deploy.runtimes import OnnxRuntime, OpenVino, PaddleInference, base, load_discriminator, load_generator
from deploy.runtimes import onnxruntime as runtime
from deploy.seeds import latents

IMAGE = (3, 16, 16)
SIGNATURE = Signature("z", (8,), "image", IMAGE)
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino, which is optional, is not installed"
)
ALL_BACKENDS = ["onnxruntime", "paddle", pytest.param("openvino", marks=needs_openvino)]


class TinyGenerator(paddle.nn.Layer):
    """The same arithmetic as the tiny ONNX generator."""

    def __init__(self, weights: np.ndarray):
        super().__init__()
        self.conv = paddle.nn.Conv2DTranspose(8, 3, 16, bias_attr=False)
        self.conv.weight.set_value(weights)

    def forward(self, z):
        return paddle.tanh(self.conv(z.unsqueeze([2, 3])))


def save_program(folder, weights, name="z"):
    """Write generator.json and generator.pdiparams and return their contents."""
    layer = TinyGenerator(weights)
    layer.eval()
    paddle.jit.save(layer, str(folder / "generator"), input_spec=[InputSpec([None, 8], "float32", name)])
    return [(folder / f"generator.{suffix}").read_bytes() for suffix in ("json", "pdiparams")]


@pytest.fixture
def both_exports(export):
    """The tiny export with a Paddle program beside the ONNX model."""
    save_program(export.folder, export.weights)
    models = read_manifest(export.folder).models
    export.write(models=(*models, ModelEntry("generator", "paddle", ("generator.json", "generator.pdiparams"))))
    return export


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


def test_onednn_on_and_off_agree(tmp_path, export):
    contents = save_program(tmp_path, export.weights)
    z = latents(range(3), 8)
    for onednn in (True, False):
        found = PaddleInference(*contents, SIGNATURE, device="cpu", threads=1, onednn=onednn).run(z)
        assert np.abs(found - export.expected(range(3))).max() < 2e-6


@pytest.mark.parametrize(("device", "own", "expected"), [("auto", None, "0"), ("auto", "1", "1"), ("cpu", None, None)])
def test_paddle_computes_without_tf32_unless_the_environment_says_otherwise(
    tmp_path, export, monkeypatch, device, own, expected
):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", own or "")  # so that it is put back whatever happens
    if own is None:
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    PaddleInference(*save_program(tmp_path, export.weights), SIGNATURE, device=device)
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == expected


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


@needs_openvino
def test_images_of_another_precision_are_of_another_model(export):
    ids = [load_generator(export.folder, "openvino", precision=name).model_id for name in ("fp32", "bf16")]
    assert ids[1] == f"{ids[0]}-bf16"


@needs_openvino
@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 100], ids=["empty", "text", "zeros"])
def test_what_is_no_model_is_one_sentence_in_openvino_too(content):
    with pytest.raises(ModelError, match="the ONNX file is not one of our exports: ") as caught:
        OpenVino(content, SIGNATURE)
    assert "\n" not in str(caught.value)


@needs_openvino
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


@needs_openvino
def test_openvino_computes_on_the_cpu_and_says_so(export, caplog):
    with caplog.at_level(logging.WARNING):
        assert load_generator(export.folder, "openvino", device="gpu").device == "cpu"
    assert [r.message for r in caplog.records] == ["This installation cannot use a GPU; computing on the CPU."]


def test_unknown_backend_and_device_are_refused(export):
    with pytest.raises(ValueError, match="backend must be auto, onnxruntime, paddle, openvino, received 'torch'"):
        load_generator(export.folder, backend="torch")
    with pytest.raises(ValueError, match="device must be auto, cpu or gpu, received 'tpu'"):
        load_generator(export.folder, device="tpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "noise"}, r"input is noise float32 \['batch', 8\]; the manifest says z float32 \['batch', 8\]"),
        ({"out": "photo"}, r"output is photo"),
        ({"batch": 4}, r"input is z float32 \[4, 8\]"),
        ({"latent_dim": 9}, r"input is z float32 \['batch', 9\]"),
        ({"size": 8}, r"output is image float32 \['batch', 3, 8, 8\]"),
    ],
)
def test_an_onnx_model_that_is_not_what_the_manifest_says_is_refused(export, make_generator, change, message):
    size, width = change.pop("size", 16), change.pop("latent_dim", 8)
    export.replace_generator(make_generator(np.zeros((width, 3, size, size), "f4"), tail=(3, size, size), **change))
    with pytest.raises(ModelError, match=message):
        load_generator(export.folder)


def test_a_paddle_program_that_is_not_what_the_manifest_says_is_refused(tmp_path, export):
    contents = save_program(tmp_path, export.weights)
    with pytest.raises(ModelError, match=r"has inputs \['z'\].*one input 'noise'"):
        PaddleInference(*contents, SIGNATURE._replace(input_name="noise"), device="cpu")
    with pytest.raises(
        ModelError, match=r"answered float32 \[1, 3, 16, 16\]; the manifest says float32 \[1, 3, 8, 8\]"
    ):
        PaddleInference(*contents, SIGNATURE._replace(output_shape=(3, 8, 8)), device="cpu")
    with pytest.raises(ModelError, match=r"failed on \[1, 9\]") as caught:
        PaddleInference(*contents, SIGNATURE._replace(input_shape=(9,)), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 100], ids=["empty", "text", "zeros"])
def test_what_is_no_model_is_one_sentence_though_its_checksum_is_right(export, content):
    path = export.folder / "generator.onnx"
    with pytest.raises(ModelError, match="the ONNX file is not one of our exports: ") as caught:
        OnnxRuntime(content, SIGNATURE, device="cpu")
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"generator.onnx is damaged"):
        load_generator(export.folder)


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


def test_a_model_cannot_pull_in_other_files(export, make_generator, monkeypatch):
    (export.folder / "secret.bin").write_bytes(export.weights.tobytes())
    monkeypatch.chdir(export.folder)
    content = make_generator(export.weights, external=True)
    key, other_spellings = b"\x0a\x08location", (b"\x8a\x00\x08location", b"\x0a\x88\x80\x00location")
    assert content.count(key) == 1
    with pytest.raises(ModelError, match="keeps weights in other files"):
        OnnxRuntime(content, SIGNATURE, device="cpu")
    for spelling in other_spellings:  # these make the messages around them longer than they say
        with pytest.raises(ModelError, match="is not one of our exports"):
            OnnxRuntime(content.replace(key, spelling), SIGNATURE, device="cpu")
    innocent = onnx.load_model_from_string(make_generator(export.weights))
    innocent.graph.name = innocent.producer_name = "location"
    OnnxRuntime(innocent.SerializeToString(), SIGNATURE, device="cpu")


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


class FakeOrt:
    """A CUDA build of onnxruntime as 1.26 and 1.31 were seen to behave; what is computed runs on the CPU.

    `fault` - how CUDA fails: "library" (the provider is left out, after an account in red), "driver" (an exception,
    which onnxruntime by itself answers with an account on stdout and a session on the CPU), or "" (it starts).
    """

    def __init__(self, real, fault="", preloads=True):
        self.capi, self.SessionOptions, self.__version__ = real.capi, real.SessionOptions, real.__version__
        self.__file__ = "/nowhere/onnxruntime/__init__.py"
        self._real, self._fault, self._severity, self.calls = real, fault, 2, []
        if preloads:
            self.preload_dlls = self._preload_dlls

    def get_available_providers(self):
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def set_default_logger_severity(self, severity):
        self._severity = severity

    def _preload_dlls(self):
        self.calls.append("preload_dlls")
        if self._fault == "library":
            print("Failed to load libcublasLt.so.13: libcublasLt.so.13: cannot open shared object file")

    def InferenceSession(self, model, options, providers, enable_fallback=1):  # noqa: N802 - onnxruntime's name
        self.calls.append("InferenceSession")
        self.providers = providers
        cuda = providers[0] != "CPUExecutionProvider"
        if cuda and self._fault == "library" and self._severity < 4:
            os.write(2, b"\x1b[1;31m[E:onnxruntime:Default] Failed to load library\x1b[m\n")
        if cuda and self._fault == "driver":
            if not enable_fallback:
                raise RuntimeError("CudaCall(ERRTYPE) CUDA failure 35: CUDA driver version is too old ; GPU=-1 ;")
            print("*************** EP Error ***************")
        session = self._real.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return session if self._fault or not cuda else _OnCuda(session)


class _OnCuda:
    def __init__(self, session):
        self._session = session

    def __getattr__(self, name):
        return getattr(self._session, name)

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def cuda_build(monkeypatch):
    """cuda_build(fault, preloads) -> the FakeOrt that is from now on imported as onnxruntime."""
    import onnxruntime

    def install(*arguments):
        fake = FakeOrt(onnxruntime, *arguments)
        monkeypatch.setattr(runtime, "import_library", lambda name: fake)
        return fake

    runtime._warn_once.cache_clear()
    yield install
    runtime._warn_once.cache_clear()


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_cuda_is_asked_for_without_tf32(export, cuda_build, device):
    fake = cuda_build()
    assert load_generator(export.folder, device=device).device == "gpu"
    assert fake.providers == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    load_generator(export.folder, device="cpu")
    assert fake.providers == ["CPUExecutionProvider"]


def test_cuda_libraries_that_pip_installed_are_loaded_first_where_onnxruntime_can(export, cuda_build):
    fake = cuda_build()
    load_generator(export.folder)
    assert fake.calls == ["preload_dlls", "InferenceSession"]
    fake = cuda_build("", False)  # before 1.21
    assert load_generator(export.folder).device == "gpu" and fake.calls == ["InferenceSession"]
    fake = cuda_build()
    load_generator(export.folder, device="cpu")
    assert fake.calls == ["InferenceSession"]


@pytest.mark.parametrize(
    ("fault", "why"), [("library", "no reason is known"), ("driver", "CUDA driver version is too old")]
)
def test_cuda_that_does_not_start_falls_back_with_one_line_of_ours(export, cuda_build, caplog, capfd, fault, why):
    cuda_build(fault)
    with caplog.at_level(logging.WARNING):
        generator = load_generator(export.folder)
        assert load_discriminator(export.folder).device == generator.device == "cpu"
    assert [r.message for r in caplog.records] == [f"onnxruntime could not start CUDA ({why}); computing on the CPU."]
    out, err = capfd.readouterr()
    assert out == "" and "\x1b[" not in err
    assert np.abs(generator.generate([1, 2]) - export.expected([1, 2])).max() < 2e-6


@pytest.mark.parametrize("fault", ["library", "driver", ""])
def test_onnxruntime_speaks_again_after_cuda_was_tried(export, cuda_build, fault):
    fake = cuda_build(fault)
    load_generator(export.folder)
    assert fake._severity == 2


def test_a_model_that_no_device_takes_is_one_error_and_no_talk_of_cuda(cuda_build, caplog, monkeypatch):
    cuda_build("driver")
    monkeypatch.setattr("deploy.runtimes.onnxruntime.check_onnx", lambda model: None)  # it would refuse before
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        OnnxRuntime(b"no model", SIGNATURE)
    assert not caplog.records


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("libcuda.so.1: cannot open shared object file: No such file", "libcuda.so.1, NVIDIA's driver, is missing"),
        (
            "libcublasLt.so.13: cannot open shared object file: No such file",
            "libcublasLt.so.13 is missing; pip install -r deploy/requirements-gpu.txt brings it",
        ),
        ("/a/b.so: undefined symbol: x", "/a/b.so: undefined symbol: x"),
    ],
)
def test_what_cuda_lacks_is_named_as_the_loader_names_it(tmp_path, monkeypatch, said, why):
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    library.parent.mkdir()
    library.touch()

    def load(path):
        assert path == str(library)
        raise OSError(said)

    monkeypatch.setattr(runtime.ctypes, "CDLL", load)
    assert runtime._what_cuda_lacks(tmp_path / "__init__.py") == why


def test_paddle_leaves_no_copy_of_the_model_behind(tmp_path, export, monkeypatch):
    import tempfile

    contents = save_program(tmp_path, export.weights)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    generator = PaddleInference(*contents, SIGNATURE, device="cpu")
    assert not list(scratch.iterdir())
    assert np.abs(generator.generate([3]) - export.expected([3])).max() < 2e-6
