"""Each line of the doctor's report is right on a sound machine, and wrong where a fault is planted."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import paddle
import pytest

from dcgan import compute_plan
from dcgan.checkpoints.params import write_params
from dcgan.networks.kernels import PaddleKernels
from dcgan.networks.onednn import OneDnnKernels, OneDnnUnavailableError, has_bfloat16
from deploy.runtimes.base import Runtime
from tools import doctor
from tools.doctor_checks import decided, installed, measured
from tools.doctor_checks.line import NOT_APPLICABLE, OK, WRONG, Line, Request, collect

ROOT = Path(__file__).resolve().parents[2]
CPU = Request(device="cpu")


def verdicts(check, request=CPU):
    """Verdict and text by name."""
    return {line.name: (line.verdict, line.text) for line in collect(check.__name__, check, request)}


@pytest.fixture
def without(monkeypatch):
    """Pretend that a module is not installed."""
    find = importlib.util.find_spec

    def pretend(missing):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a))

    return pretend


# ---- what is installed ----------------------------------------------------------------------------------------------


def test_a_python_that_paddle_has_no_wheel_for_is_wrong(monkeypatch):
    assert verdicts(installed.python)["python"][0] == OK
    for version in ((3, 8, 10), (3, 14, 0)):
        monkeypatch.setattr(sys, "version_info", version)
        assert verdicts(installed.python)["python"][0] == WRONG


@pytest.mark.parametrize("module", ["paddle", "setuptools", "cv2", "safetensors", "onnxruntime"])
def test_a_missing_package_is_wrong_with_the_command_that_installs_it(without, module):
    assert verdicts(installed.packages)[f"package {module}"][0] == OK
    without(module)
    verdict, text = verdicts(installed.packages)[f"package {module}"]
    assert verdict == WRONG and "pip install -r requirements.txt" in text


def test_the_packages_that_are_looked_for_are_those_of_the_requirements():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    needed = {re.match(r"[\w-]+", line).group() for line in lines if line and not line.startswith("#")}
    assert {names[0] for names, _ in (*installed.REQUIRED, *installed.FOR_ONNX)} == needed


def test_a_missing_optional_package_is_not_applicable(without):
    without("openvino")
    assert verdicts(installed.packages)["package openvino"][0] == NOT_APPLICABLE


def test_another_paddle_and_two_builds_of_one_library_are_wrong(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "3.3.1" if n == "paddlepaddle" else version(n))
    assert verdicts(installed.packages)["package paddle"] == (WRONG, "paddlepaddle 3.3.1; 3.2.2 is needed")
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "1.0" if "onnxruntime" in n else version(n))
    verdict, text = verdicts(installed.packages)["package onnxruntime"]
    assert verdict == WRONG and "both write the same files" in text


def test_onnx_on_a_python_without_its_wheel_is_not_applicable(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    found = verdicts(installed.packages)
    assert found["package onnx"][0] == found["package paddle2onnx"][0] == NOT_APPLICABLE
    assert "--format paddle works" in found["package onnx"][1]


def test_more_threads_than_cores_and_a_processor_without_avx_are_wrong(monkeypatch):
    assert {verdict for verdict, _ in verdicts(installed.processor).values()} == {OK}
    monkeypatch.setattr(installed, "thread_count", lambda: 10**6)
    monkeypatch.setattr(installed.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(installed.Path, "read_text", lambda *_: "model name : Old One\nflags : fpu sse2\n")
    found = verdicts(installed.processor)
    assert found["processor"] == (WRONG, "Old One: vector units unknown: Paddle's wheels need AVX")
    assert found["threads"][0] == WRONG and "Lower or unset OMP_NUM_THREADS" in found["threads"][1]


def test_a_speed_that_cannot_be_measured_is_wrong(monkeypatch):
    def broken(*_):
        raise RuntimeError("(External) no kernel for this")

    monkeypatch.setattr(measured, "_seconds", broken)
    assert [line[:2] for line in collect("speed", measured.throughput, CPU)] == [("speed", WRONG)]


def test_too_little_memory_and_disk_are_wrong(monkeypatch, tmp_path):
    request = CPU._replace(work=str(tmp_path / "not" / "yet"))
    assert verdicts(installed.memory)["memory"][0] in (OK, NOT_APPLICABLE)
    assert verdicts(installed.disk, request) == {
        "disk": (OK, verdicts(installed.disk, request)["disk"][1]),
        "work folder": (OK, f"{tmp_path} can be written to"),
    }
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(installed, "LEAST_MEMORY", 1 << 60)
    monkeypatch.setattr(installed, "LEAST_DISK", 1 << 60)
    assert verdicts(installed.memory)["memory"][0] in (WRONG, NOT_APPLICABLE)
    assert verdicts(installed.disk, request)["disk"][0] == WRONG


def test_a_work_folder_that_cannot_be_written_to_is_wrong(monkeypatch, tmp_path):
    """By the error that a read-only file system gives: root may write to a folder of mode 0500."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(installed.tempfile, "NamedTemporaryFile", refuse)
    verdict, text = verdicts(installed.disk, CPU._replace(work=str(tmp_path)))["work folder"]
    assert verdict == WRONG and "Read-only file system" in text


# ---- what is decided ------------------------------------------------------------------------------------------------


def test_what_was_asked_for_by_name_and_cannot_be_had_is_wrong(monkeypatch):
    def missing():
        raise OneDnnUnavailableError("this processor has no AVX2")

    monkeypatch.setattr(compute_plan, "has_bfloat16", missing)
    monkeypatch.setattr(decided, "has_bfloat16", missing)
    found = verdicts(decided.compute_plan, CPU)
    assert (found["compute plan"][0], found["oneDNN"][0]) == (OK, NOT_APPLICABLE), "auto takes what there is"
    found = verdicts(decided.compute_plan, CPU._replace(cpu_kernels="onednn"))
    assert (found["compute plan"][0], found["oneDNN"][0]) == (WRONG, WRONG)
    assert verdicts(decided.compute_plan, CPU._replace(amp="O1"))["compute plan"][0] == WRONG


@pytest.mark.skipif(paddle.device.cuda.device_count() > 0, reason="Paddle sees a GPU here")
def test_a_gpu_that_was_asked_for_and_is_not_there_is_wrong():
    found = verdicts(decided.compute_plan, Request(device="gpu"))
    assert found["compute_plan"][0] == WRONG and "sees no GPU" in found["compute_plan"][1]
    assert verdicts(decided.gpus, Request(device="gpu"))["Paddle's CUDA"][0] == WRONG


@pytest.fixture
def cuda_build(monkeypatch):
    """cuda_build(cards, cuda): pretend that Paddle is built for CUDA."""

    def pretend(cards=1, cuda="12.6"):
        monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
        monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: cards)
        monkeypatch.setattr(paddle.version, "cuda", lambda: cuda)
        monkeypatch.setattr(paddle.version, "cudnn", lambda: "9.5")
        card = types.SimpleNamespace(name="Card", total_memory=80 << 30, major=9, minor=0)
        monkeypatch.setattr(paddle.device.cuda, "get_device_properties", lambda number: card)
        monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda *_: True)

    return pretend


def test_a_cuda_build_names_its_cards_and_one_without_a_card_is_wrong(cuda_build):
    cuda_build(cards=2)
    found = verdicts(decided.gpus, Request())
    assert found["gpu:1"] == (OK, "Card, 80 GiB, compute capability 9.0, bfloat16")
    cuda_build(cards=0)
    assert verdicts(decided.gpus, Request())["Paddle's CUDA"][0] == WRONG
    assert verdicts(decided.gpus, CPU)["Paddle's CUDA"][0] == NOT_APPLICABLE


@pytest.fixture
def onnxruntime_gpu(monkeypatch):
    """Pretend that onnxruntime lists CUDA and is built for this version of it. The session is a real one."""
    import onnxruntime

    def pretend(cuda="12.4"):
        both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
        info = importlib.import_module("onnxruntime.capi.build_and_package_info")
        monkeypatch.setattr(info, "cuda_version", cuda, raising=False)

    return pretend


@pytest.mark.skipif(paddle.device.cuda.device_count() > 0, reason="CUDA may start here")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_cuda_onnxruntime_without_cuda_is_wrong_unless_the_cpu_was_asked_for(onnxruntime_gpu, capfd):
    name = "onnxruntime's CUDA"
    assert verdicts(decided.onnxruntime_cuda, Request())[name][0] == NOT_APPLICABLE
    onnxruntime_gpu()
    verdict, text = verdicts(decided.onnxruntime_cuda, Request())[name]
    assert verdict == WRONG and "cannot start it here" in text
    assert verdicts(decided.onnxruntime_cuda, CPU)[name][0] == NOT_APPLICABLE
    assert "\033[" not in capfd.readouterr().err


def test_two_versions_of_cuda_in_one_environment_are_wrong(onnxruntime_gpu, cuda_build):
    onnxruntime_gpu("13.0")
    cuda_build(cuda="12.6")
    verdict, text = verdicts(decided.onnxruntime_cuda, Request())["onnxruntime's CUDA"]
    assert verdict == WRONG and "built for CUDA 13.0, Paddle for 12.6" in text


# ---- what is measured -----------------------------------------------------------------------------------------------


def test_gradients_are_right_in_each_precision_of_this_machine():
    found = verdicts(measured.gradients)
    assert found["gradients, Paddle, float32"][0] == OK
    assert {verdict for verdict, _ in found.values()} == {OK}, found


@pytest.mark.parametrize("kernels", [PaddleKernels, OneDnnKernels])
def test_a_kernel_that_computes_a_little_too_much_is_wrong(monkeypatch, kernels):
    name = {PaddleKernels: "Paddle, float32", OneDnnKernels: "oneDNN, float32"}[kernels]
    if kernels is OneDnnKernels:
        try:
            has_bfloat16()
        except OneDnnUnavailableError as error:
            pytest.skip(f"no oneDNN here: {error}")
    right = kernels.layer

    def layer(self, x, *arguments):
        y = right(self, x, *arguments)
        return y if str(y.dtype) == "paddle.float64" else y * 1.001

    monkeypatch.setattr(kernels, "layer", layer)
    verdict, text = verdicts(measured.gradients)[f"gradients, {name}"]
    assert verdict == WRONG and "allowed" in text


def test_an_export_is_right_in_each_installed_runtime_and_a_runtime_that_errs_is_wrong(monkeypatch, tmp_path):
    def found():
        return {line.name: line.verdict for line in measured.runtimes(tmp_path / "export", "cpu")}

    assert measured.export_untrained(tmp_path, "cpu").verdict == OK
    right = found()
    assert right["parity, onnxruntime on cpu"] == right["parity, paddle on cpu"] == OK and WRONG not in right.values()
    generate_from = Runtime.generate_from
    monkeypatch.setattr(Runtime, "generate_from", lambda self, *a: generate_from(self, *a) + np.float32(0.01))
    assert {found()[name] for name, verdict in right.items() if verdict == OK} == {WRONG}
    (tmp_path / "export" / "generator.onnx").write_bytes(b"damaged")
    assert found()["parity, onnxruntime on cpu"] == WRONG


def test_a_network_that_cannot_be_exported_is_wrong(monkeypatch, tmp_path):
    def damaged(path):
        write_params(path, {"conv_1.weight": np.zeros([2, 2], np.float32)})

    monkeypatch.setattr(measured, "_write_untrained", damaged)
    assert verdicts(measured.parity).keys() == {"export"} and verdicts(measured.parity)["export"][0] == WRONG


def test_a_check_that_raises_is_a_wrong_line_and_the_rest_goes_on():
    def broken(_):
        yield Line("first", OK, "")
        raise RuntimeError("a library\nis damaged")

    assert collect("broken", broken, CPU) == [Line("broken", WRONG, "RuntimeError: a library is damaged")]


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_report_names_every_line_and_exits_by_the_verdicts(capsys, monkeypatch, without, tmp_path):
    work = ["--device", "cpu", "--no-measure", "--work", str(tmp_path)]
    assert doctor.main(work) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("ok              python: ") and printed[-1].split(", ")[1] == "0 wrong"
    assert doctor.main([*work, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in report["lines"]] == [line[16:].split(":")[0] for line in printed[:-1]]
    without("tqdm")
    assert doctor.main(work) == 1
    assert "wrong           package tqdm" in capsys.readouterr().out


def test_without_paddle_the_report_says_so_and_stops_there(capsys, without, tmp_path):
    without("paddle")
    assert doctor.main(["--work", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "wrong           package paddle" in printed and "not applicable  everything else: needs Paddle" in printed


def test_the_command_runs_where_paddle_cannot_be_imported(tmp_path):
    (tmp_path / "paddle").mkdir()
    (tmp_path / "paddle" / "__init__.py").write_text("raise OSError('libpaddle.so: cannot open shared object file')")
    answer = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "doctor.py"), "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 1 and "Traceback" not in answer.stderr, answer.stderr
    assert "wrong           imports: OSError: libpaddle.so: cannot open shared object file" in answer.stdout


@pytest.mark.gpu
@pytest.mark.skipif(paddle.device.cuda.device_count() == 0, reason="Paddle sees no GPU")
@pytest.mark.parametrize("amp", ["O0", "O1", "O2"])
def test_nothing_is_wrong_on_a_gpu(amp, tmp_path):
    lines = list(doctor.examine(Request(device="gpu", amp=amp, work=str(tmp_path))))
    assert [line for line in lines if line.verdict == WRONG] == []
    assert {"Paddle's CUDA", "gpu:0", "parity, onnxruntime on gpu"} <= {line.name for line in lines}
