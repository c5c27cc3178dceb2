import paddle
import pytest

from dcgan import device
from dcgan import environment as quiet
from dcgan.device import choose_device, choose_kernels
from dcgan.networks.kernels import PADDLE_KERNELS
from dcgan.networks.onednn import OneDnnUnavailableError
from dcgan.networks.onednn.library import Processor
from dcgan.training.precision import Precision, choose_precision


@pytest.fixture
def pretend(monkeypatch):
    """Pretend that Paddle has CUDA, so many cards, and bfloat16 or not; note which device was set."""
    chosen = []

    def set_up(cuda=True, cards=1, bfloat16=True):
        monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: cuda)
        monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: cards)
        monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda *_: bfloat16)
        monkeypatch.setattr(paddle, "set_device", chosen.append)
        return chosen

    return set_up


def test_auto_takes_a_visible_gpu(pretend):
    chosen = pretend()
    assert choose_device("auto") == "gpu:0" and chosen == ["gpu:0"]


def test_auto_without_cuda_takes_the_cpu_silently(pretend, caplog):
    pretend(cuda=False, cards=0)
    assert choose_device("auto") == "cpu" and caplog.text == ""


def test_a_cuda_build_without_a_card_falls_back_with_one_line(pretend, caplog):
    pretend(cards=0)
    assert choose_device("auto") == "cpu"
    assert len(caplog.records) == 1 and "sees no GPU" in caplog.text


def test_a_gpu_asked_for_by_name_must_be_there(pretend):
    pretend(cards=0)
    with pytest.raises(ValueError, match="'gpu:1' was asked for, but Paddle sees no GPU"):
        choose_device("gpu:1")


def test_unknown_device_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="auto, cpu, gpu or gpu:N, received 'tpu'"):
        choose_device("tpu")


@pytest.mark.parametrize(
    ("level", "dtype", "bfloat16", "expected"),
    [
        ("auto", "auto", True, Precision("O1", "bfloat16")),
        ("auto", "auto", False, Precision("O1", "float16")),
        ("O2", "float16", True, Precision("O2", "float16")),
        ("O0", "auto", True, Precision("O0", "float32")),
    ],
)
def test_precision_on_a_gpu(pretend, level, dtype, bfloat16, expected):
    pretend(bfloat16=bfloat16)
    assert choose_precision(level, dtype, "gpu:0") == expected


def test_bfloat16_on_a_card_without_it_is_refused(pretend):
    pretend(bfloat16=False)
    with pytest.raises(ValueError, match="does not compute bfloat16. Use --amp-dtype float16"):
        choose_precision("O1", "bfloat16", "gpu:0")


def test_on_a_cpu_the_engine_itself_computes_in_float32():
    assert choose_precision("O1", "auto", "cpu") == Precision("O0", "float32")


@pytest.fixture
def has(monkeypatch):
    """Pretend that the processor has these, or that oneDNN is missing for a reason."""

    def pretend(bfloat16=True, amx=True, missing=None):
        def answer():
            if missing:
                raise OneDnnUnavailableError(missing)
            return Processor(bfloat16, amx)

        monkeypatch.setattr(device, "processor", answer)

    return pretend


@pytest.mark.parametrize(("name", "level", "dtype"), [("auto", "auto", "float32"), ("onednn", "O1", "bfloat16")])
def test_a_cpu_trains_by_onednn_without_a_word(has, caplog, name, level, dtype):
    has()
    assert choose_kernels(name, level, "auto", "cpu").dtype == dtype and caplog.text == ""


@pytest.mark.parametrize(
    ("processor", "arguments", "dtype", "line"),
    [
        ({"missing": "this processor has no AVX2"}, ("auto", "auto", "auto", "cpu"), None, "has no AVX2: training in"),
        ({}, ("paddle", "O1", "auto", "cpu"), None, "--amp O1 has no effect"),
        ({}, ("onednn", "auto", "auto", "gpu:0"), None, "is for CPUs"),
        ({"bfloat16": False}, ("auto", "O1", "auto", "cpu"), "float32", "this processor has none"),
        ({}, ("auto", "O2", "float16", "cpu"), "float32", "--amp-dtype is float16"),
        ({"amx": False}, ("auto", "O1", "auto", "cpu"), "bfloat16", "expect no gain"),
    ],
)
def test_what_a_machine_cannot_do_is_said_in_one_line(has, caplog, processor, arguments, dtype, line):
    has(**processor)
    kernels = choose_kernels(*arguments)
    assert (kernels is PADDLE_KERNELS) if dtype is None else (kernels.dtype == dtype)
    assert len(caplog.records) == 1 and line in caplog.text


@pytest.mark.parametrize("device_name", ["cpu", "gpu:0"])
def test_paddles_operators_are_to_be_had_everywhere(has, caplog, device_name):
    has(missing="nothing here")
    assert choose_kernels("paddle", "auto", "auto", device_name) is PADDLE_KERNELS and caplog.text == ""


@pytest.mark.parametrize(
    ("precision", "scaler"),
    [(Precision("O1", "float16"), True), (Precision("O1", "bfloat16"), False), (Precision("O0", "float16"), False)],
)
def test_only_float16_needs_loss_scaling(precision, scaler):
    assert precision.needs_scaler is scaler


def test_all_cores_compute_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(quiet, "_requested", None)
    monkeypatch.setattr(quiet.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert quiet.thread_count() == 3
    monkeypatch.setattr(quiet, "_requested", "5")
    assert quiet.thread_count() == 5
    monkeypatch.setattr(quiet, "_requested", "many")
    assert quiet.thread_count() == 3


@pytest.mark.parametrize(("requested", "neighbours", "threads"), [("1", "2", 4), ("1", "16", 1), ("3", "2", 3)])
def test_processes_of_one_launcher_share_the_cores_whatever_it_hands_down(monkeypatch, requested, neighbours, threads):
    monkeypatch.setattr(quiet.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(quiet, "_requested", requested)
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", neighbours)
    assert quiet.thread_count() == threads


def test_a_process_of_a_launcher_takes_the_card_it_was_given(pretend, monkeypatch):
    pretend(cards=4)
    monkeypatch.setenv("FLAGS_selected_gpus", "3")
    assert choose_device("auto") == "gpu:3"
