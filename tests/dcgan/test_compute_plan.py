import functools
import json

import paddle
import pytest

from dcgan import compute_plan
from dcgan import environment as quiet
from dcgan.compute_plan import inference_plan, plan, speed_note
from dcgan.config import TrainConfig
from dcgan.networks.kernels import PADDLE_KERNELS
from dcgan.networks.onednn import OneDnnUnavailableError
from dcgan.training.precision import Precision


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
    pretend()
    assert inference_plan("auto").device == "gpu:0"


def test_auto_without_cuda_takes_the_cpu_silently(pretend, caplog):
    pretend(cuda=False, cards=0)
    compute = inference_plan("auto")
    compute.apply()
    assert compute.device == "cpu" and caplog.text == ""


def test_a_cuda_build_without_a_card_falls_back_with_one_line(pretend, caplog):
    pretend(cards=0)
    compute = inference_plan("auto")
    compute.apply()
    assert compute.device == "cpu"
    assert len(caplog.records) == 1 and "sees no GPU" in caplog.text


def test_a_gpu_asked_for_by_name_must_be_there(pretend):
    pretend(cards=0)
    with pytest.raises(ValueError, match="'gpu:1' was asked for, but Paddle sees no GPU"):
        inference_plan("gpu:1")


def test_unknown_device_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="auto, cpu, gpu or gpu:N, received 'tpu'"):
        inference_plan("tpu")


def config(**settings):
    return TrainConfig(**settings)


@pytest.mark.parametrize(
    ("amp", "amp_dtype", "bfloat16", "expected"),
    [
        ("auto", "auto", True, Precision("O1", "bfloat16")),
        ("auto", "auto", False, Precision("O1", "float16")),
        ("O2", "float16", True, Precision("O2", "float16")),
        ("O0", "auto", True, Precision("O0", "float32")),
    ],
)
def test_precision_on_a_gpu(pretend, amp, amp_dtype, bfloat16, expected):
    pretend(bfloat16=bfloat16)
    assert plan(config(amp=amp, amp_dtype=amp_dtype)).precision == expected


def test_bfloat16_on_a_card_without_it_is_refused(pretend):
    pretend(bfloat16=False)
    with pytest.raises(ValueError, match="does not compute bfloat16. Use --amp-dtype float16"):
        plan(config(amp="O1", amp_dtype="bfloat16"))


def test_a_plan_is_one_frozen_value_that_json_holds(pretend):
    pretend()
    one, other = plan(config(device="gpu:1")), plan(config(device="gpu:1"))
    assert one == other and hash(one) == hash(other)
    assert json.loads(json.dumps(one.to_json())) == {
        "device": "gpu:1",
        "kernels": "paddle",
        "amp": "O1",
        "dtype": "bfloat16",
        "threads": quiet.thread_count(),
        "deterministic": True,
        "tf32": True,
    }
    assert one.sentence() == "Compute: gpu:1, O1, bfloat16, TF32 on, deterministic on"
    assert one.training_kernels() is one.sampling_kernels() is PADDLE_KERNELS


def test_making_a_plan_sets_nothing(pretend, monkeypatch):
    chosen = pretend()
    monkeypatch.setattr(paddle, "set_flags", chosen.append)
    plan(config())
    assert chosen == []


def test_networks_that_are_not_trained_here_compute_in_float32_without_tf32(pretend, monkeypatch):
    """The trained network is the reference of parity. A search for cuDNN's fastest algorithms is no obstacle."""
    pretend()
    monkeypatch.setenv("FLAGS_cudnn_exhaustive_search", "1")
    compute = inference_plan("gpu:0")
    assert (compute.dtype, compute.amp, compute.tf32) == ("float32", "O0", False)


@pytest.mark.parametrize(("deterministic", "amp", "tf32"), [(True, "O0", False), (False, "O1", True)])
def test_a_gpu_is_told_to_repeat_to_the_bit_and_whether_it_may_use_tf32(pretend, monkeypatch, deterministic, amp, tf32):
    set_up = pretend()
    monkeypatch.setattr(paddle, "set_flags", set_up.append)
    for library in ("cublas", "cudnn"):  # a build without CUDA has no such functions
        switch = functools.partial(lambda name, on: set_up.append((name, on)), library)
        monkeypatch.setattr(paddle.base.core, f"set_{library}_switch", switch, raising=False)
    plan(config(deterministic=deterministic, amp=amp)).apply()
    assert set_up == ["gpu:0", {"FLAGS_cudnn_deterministic": deterministic}, ("cublas", tf32), ("cudnn", tf32)]


def test_exact_resume_and_a_search_for_the_fastest_algorithm_exclude_each_other(pretend, monkeypatch):
    pretend()
    monkeypatch.setenv("FLAGS_cudnn_exhaustive_search", "1")
    with pytest.raises(ValueError, match="Unset it, or add --no-deterministic"):
        plan(config())
    assert plan(config(deterministic=False)).deterministic is False
    monkeypatch.setenv("FLAGS_cudnn_exhaustive_search", "0")
    assert plan(config()).deterministic is True


def test_synchronised_batch_norm_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match="--sync-bn needs GPUs"):
        plan(config(sync_bn=True, device="cpu"))


# ---- a CPU ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def has(monkeypatch):
    """Pretend that the processor has bfloat16, so much faster than float32, or that oneDNN is missing for a reason."""

    def pretend(bfloat16=True, speedup=1.0, missing=None):
        def answer():
            if missing:
                raise OneDnnUnavailableError(missing)
            return bfloat16

        monkeypatch.setattr(compute_plan, "has_bfloat16", answer)
        monkeypatch.setattr(compute_plan, "bfloat16_speedup", lambda: speedup)

    return pretend


@pytest.mark.parametrize(("kernels", "amp", "dtype"), [("auto", "O0", "float32"), ("onednn", "auto", "bfloat16")])
def test_a_cpu_trains_by_onednn_without_a_warning_and_samples_in_float32(has, kernels, amp, dtype):
    has(speedup=3.0)
    compute = plan(config(device="cpu", cpu_kernels=kernels, amp=amp))
    assert (compute.kernels, compute.dtype, compute.warnings) == ("onednn", dtype, ())
    assert compute.training_kernels().dtype == dtype and compute.sampling_kernels().dtype == "float32"
    assert compute.precision == Precision("O0", "float32"), "on a CPU precision is a matter of the kernels"
    assert compute.sentence() == f"Compute: CPU, {quiet.thread_count()} threads, oneDNN, {dtype}"


@pytest.mark.parametrize(
    ("processor", "settings", "dtype", "line"),
    [
        ({"missing": "this processor has no AVX2"}, {}, None, "has no AVX2: computing in"),
        ({}, {"cpu_kernels": "paddle", "amp": "O1"}, None, "--amp O1 has no effect"),
        ({"bfloat16": False}, {"amp": "O1"}, "float32", "this processor has none"),
        ({}, {"amp": "O2", "amp_dtype": "float16"}, "float32", "--amp-dtype is float16"),
    ],
)
def test_what_a_machine_cannot_do_is_said_in_one_line(has, caplog, processor, settings, dtype, line):
    has(**processor)
    compute = plan(config(device="cpu", **settings))
    kernels = compute.training_kernels()
    assert (kernels is PADDLE_KERNELS) if dtype is None else (kernels.dtype == dtype)
    compute.apply()
    assert [record.message for record in caplog.records] == list(compute.warnings)
    assert len(caplog.records) == 1 and line in caplog.text


def test_where_paddle_is_told_to_look_for_nan_in_every_tensor_its_own_operators_compute(has):
    """oneDNN writes into tensors after Paddle has looked at them, when they hold whatever was in the memory."""
    has()
    paddle.set_flags({"FLAGS_check_nan_inf": True})
    try:
        compute = plan(config(device="cpu"))
    finally:
        paddle.set_flags({"FLAGS_check_nan_inf": False})
    assert compute.training_kernels() is PADDLE_KERNELS and len(compute.warnings) == 1
    assert "FLAGS_check_nan_inf" in compute.warnings[0] and "Paddle's operators" in compute.warnings[0]


def test_onednn_on_a_gpu_is_said_to_be_for_cpus(pretend):
    pretend()
    compute = plan(config(cpu_kernels="onednn"))
    assert compute.kernels == "paddle" and "is for CPUs" in compute.warnings[0]


@pytest.mark.parametrize("device_name", ["cpu", "gpu:0"])
def test_paddles_operators_are_available_everywhere(has, pretend, device_name):
    pretend()
    has(missing="nothing here")
    compute = plan(config(cpu_kernels="paddle", device=device_name))
    assert compute.training_kernels() is PADDLE_KERNELS and compute.warnings == ()


@pytest.mark.parametrize(
    ("processor", "settings", "amp"),
    [
        ({"speedup": 1.25}, {}, "O1"),
        ({"speedup": 1.24}, {}, "O0"),
        ({"speedup": 9.0, "bfloat16": False}, {}, "O0"),
        ({"speedup": 9.0, "missing": "no library"}, {}, "O0"),
        ({"speedup": 9.0}, {"cpu_kernels": "paddle"}, "O0"),
        ({"speedup": 9.0}, {"amp_dtype": "float16"}, "O0"),
    ],
)
def test_auto_takes_bfloat16_on_a_cpu_only_where_it_was_measured_to_pay(has, processor, settings, amp):
    has(**processor)
    assert plan(config(device="cpu", **settings)).amp == amp


@pytest.mark.parametrize(
    ("speedup", "amp", "note"),
    [
        (1.5, "auto", "Measured here: a layer is 1.50 times as fast in bfloat16. --amp O0 would keep float32."),
        (1.1, "auto", None),
        (1.5, "O0", None),
        (1.5, "O1", None),
        (0.8, "O1", "Measured here: a layer takes 1.25 times as long in bfloat16. --amp O0 would be faster."),
    ],
)
def test_a_word_about_speed_rests_on_the_measurement(has, speedup, amp, note):
    has(speedup=speedup)
    asked = config(device="cpu", amp=amp)
    assert speed_note(asked, plan(asked)) == note


def test_without_bfloat16_nothing_is_measured(has, monkeypatch):
    has(bfloat16=False)
    monkeypatch.setattr(compute_plan, "bfloat16_speedup", lambda: pytest.fail("measured"))
    asked = config(device="cpu", amp="auto")
    assert speed_note(asked, plan(asked)) is None
    assert plan(asked).amp == "O0"


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
    for nonsense in ("many", "0", "-1", "9" * 30):
        monkeypatch.setattr(quiet, "_requested", nonsense)
        assert quiet.thread_count() == 3
    for slip in ("100000", "99999999999"):
        monkeypatch.setattr(quiet, "_requested", slip)
        assert quiet.thread_count() == 12
    monkeypatch.setattr(quiet.os, "sched_getaffinity", lambda _: set(range(768)), raising=False)
    assert quiet.thread_count() == 1024


@pytest.mark.parametrize(
    ("requested", "neighbours", "threads"), [("1", "2", 4), ("1", "16", 1), ("3", "2", 3), ("1", "0", 1)]
)
def test_processes_of_one_launcher_share_the_cores_whatever_it_hands_down(monkeypatch, requested, neighbours, threads):
    monkeypatch.setattr(quiet.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(quiet, "_requested", requested)
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", neighbours)
    assert quiet.thread_count() == threads


def test_a_process_of_a_launcher_takes_the_card_it_was_given(pretend, monkeypatch):
    pretend(cards=4)
    monkeypatch.setenv("FLAGS_selected_gpus", "3")
    assert inference_plan("auto").device == "gpu:3"
