"""ONNX Runtime: the manifest's signature, no other files, and what CUDA's failures look like."""

from __future__ import annotations

import logging
import os

import numpy as np
import onnx
import pytest

from deploy.manifest import ModelError, Signature
from deploy.runtimes import OnnxRuntime, load_discriminator, load_generator
from deploy.runtimes import onnxruntime as runtime

SIGNATURE = Signature("z", (8,), "image", (3, 16, 16))


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


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 100], ids=["empty", "text", "zeros"])
def test_what_is_no_model_is_one_sentence_though_its_checksum_is_right(export, content):
    path = export.folder / "generator.onnx"
    with pytest.raises(ModelError, match="the ONNX file is not one of our exports: ") as caught:
        OnnxRuntime(content, SIGNATURE, device="cpu")
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"generator.onnx is damaged"):
        load_generator(export.folder)


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
