import ctypes

import paddle
import pytest

from dcgan.networks.onednn import OneDnnUnavailableError, has_bfloat16, library


@pytest.fixture
def forget():
    """Look for the library inside the test and again after it."""
    caches = (library.library, library.has_bfloat16)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def wheel(tmp_path, monkeypatch, forget):
    """A Paddle whose wheel has an empty folder of libraries."""
    (tmp_path / "libs").mkdir()
    monkeypatch.setattr(paddle, "__file__", str(tmp_path / "__init__.py"))
    return tmp_path / "libs"


def test_a_wheel_without_the_library_is_said_to_be_one(wheel):
    with pytest.raises(OneDnnUnavailableError, match="no oneDNN library"):
        has_bfloat16()


def test_a_library_that_is_none_is_named(wheel):
    (wheel / "libdnnl.so.3").write_bytes(b"not a library")
    with pytest.raises(OneDnnUnavailableError, match=r"libdnnl\.so\.3 cannot be loaded"):
        has_bfloat16()


def test_another_major_version_is_refused(monkeypatch, forget):
    monkeypatch.setattr(library, "MAJOR_VERSION", 99)
    with pytest.raises(OneDnnUnavailableError, match=r"oneDNN 99 is needed, this is \d+\.\d+"):
        has_bfloat16()


def test_a_processor_below_avx2_is_refused(monkeypatch, forget):
    monkeypatch.setattr(library.library(), "dnnl_get_effective_cpu_isa", lambda: 0x1)
    with pytest.raises(OneDnnUnavailableError, match="no AVX2"):
        has_bfloat16()


def test_a_failing_call_is_an_error_that_names_it():
    with pytest.raises(library.OneDnnError, match="dnnl_engine_create of oneDNN failed with status"):
        library.create("dnnl_engine_create", 99, ctypes.c_size_t(0))
