"""Whether bfloat16 pays is measured once per processor and then remembered; a damaged memory is none."""

import json

import paddle
import pytest

from dcgan.networks.onednn import OneDnnUnavailableError, has_bfloat16, speed

try:
    HAS_BFLOAT16 = has_bfloat16()
except OneDnnUnavailableError as error:
    pytest.skip(f"no oneDNN here: {error}", allow_module_level=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dcgan-paddle" / "processor.json"


@pytest.fixture
def measured(monkeypatch):
    """The measurements made by a process that has made none yet; each gives 1.5."""
    calls = []
    monkeypatch.setattr(speed, "_measured_here", {})
    monkeypatch.setattr(speed, "measure", lambda: calls.append(1) or 1.5)
    return calls


def test_a_processor_is_measured_once(cache, measured):
    assert [speed.bfloat16_speedup(), speed.bfloat16_speedup()] == [1.5, 1.5] and len(measured) == 1
    (key,) = json.loads(cache.read_text())
    assert key.startswith(speed.this_processor()) and f"Paddle {paddle.__version__}" in key


def test_another_processor_is_measured_anew_and_both_are_kept(cache, measured, monkeypatch):
    speed.bfloat16_speedup()
    monkeypatch.setattr(speed, "this_processor", lambda: "another")
    speed.bfloat16_speedup()
    assert len(measured) == 2 and len(json.loads(cache.read_text())) == 2


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, "null"])
def test_a_damaged_cache_is_measured_over(cache, measured, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert speed.bfloat16_speedup() == 1.5 and len(measured) == 1
    assert list(json.loads(cache.read_text()).values()) == [1.5]


@pytest.mark.parametrize("value", ['"fast"', "0", "-1.0", "1e9", "true"])
def test_a_remembered_value_that_is_no_ratio_is_measured_over(cache, measured, value):
    speed.bfloat16_speedup()
    cache.write_text(cache.read_text().replace("1.5", value))
    speed._measured_here.clear()  # as in the next process
    assert speed.bfloat16_speedup() == 1.5 and len(measured) == 2


def test_a_cache_that_cannot_be_written_costs_one_measurement_per_process(tmp_path, measured, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [speed.bfloat16_speedup(), speed.bfloat16_speedup()] == [1.5, 1.5] and len(measured) == 1
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor computes no bfloat16")
def test_the_measurement_computes_in_both_formats_and_leaves_the_names_of_parameters_alone(monkeypatch):
    used = []
    seconds = {"float32": 3.0, "bfloat16": 2.0}

    class Layer(speed._Layer):
        def seconds(self):
            assert super().seconds() > 0
            used.append(str(self._x.dtype))
            return seconds[self._kernels.dtype]

    monkeypatch.setattr(speed, "_Layer", Layer)
    with paddle.utils.unique_name.guard():
        before = paddle.nn.Linear(1, 1).weight.name
        assert speed.measure(seconds=0.001) == 1.5
        assert paddle.nn.Linear(1, 1).weight.name == before.replace("0", "1", 1)
    assert set(used) == {"paddle.float32", "paddle.bfloat16"}
