"""Every supported Python finds in the requirements files what it needs, and nothing that has no wheel for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
WITH_ONNX = PYTHONS[:-1]  # paddle2onnx 2.1.0 and onnx 1.17 have no wheel for 3.13
ALWAYS = {"setuptools", "opencv-python-headless", "numpy", "matplotlib", "safetensors", "tqdm", "pillow"}
ONNX = {"onnx", "paddle2onnx"}
FILES = ("requirements.txt", "requirements-gpu.txt", "deploy/requirements.txt", "deploy/requirements-gpu.txt")


def requirements(name: str, python: str) -> dict[str, Requirement]:
    """What pip reads in a requirements file on this Python, by name. A package that stands there twice is an error."""
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in (ROOT / name).read_text("utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    environment = {"python_version": python, "python_full_version": f"{python}.1", "extra": ""}
    taken = [one for one in found if one.marker is None or one.marker.evaluate(environment)]
    assert len({one.name for one in taken}) == len(taken)
    return {one.name: one for one in taken}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_gets_all_that_training_needs_and_onnx_where_it_has_wheels(python):
    onnx = ONNX if python in WITH_ONNX else set()
    assert set(requirements("requirements.txt", python)) == {*ALWAYS, *onnx, "paddlepaddle", "onnxruntime"}
    assert set(requirements("requirements-gpu.txt", python)) == {*ALWAYS, *onnx, "paddlepaddle-gpu", "onnxruntime-gpu"}


@pytest.mark.parametrize("python", PYTHONS)
def test_a_deploy_box_needs_three_packages(python):
    assert set(requirements("deploy/requirements.txt", python)) == {"numpy", "opencv-python-headless", "onnxruntime"}
    gpu = requirements("deploy/requirements-gpu.txt", python)
    assert set(gpu) == {"numpy", "opencv-python-headless", "onnxruntime-gpu"}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("with_gpu", "plain"), [FILES[1::-1], FILES[:1:-1]])
def test_the_gpu_files_differ_from_the_others_in_the_gpu_builds_alone(with_gpu, plain, python):
    gpu, cpu = requirements(with_gpu, python), requirements(plain, python)
    same = set(gpu) & set(cpu)
    assert {name: gpu[name].specifier for name in same} == {name: cpu[name].specifier for name in same}
    assert {name.replace("-gpu", "") for name in gpu} == set(cpu)


@pytest.mark.parametrize("python", PYTHONS)
def test_onnxruntime_beside_paddle_is_built_for_cuda_12_as_paddles_wheels_are(python):
    wanted = requirements("requirements-gpu.txt", python)["onnxruntime-gpu"]
    # CUDA 12 and cuDNN 9 from 1.19, for Python 3.9 the only ones; 1.26 is the last, 1.27 wants CUDA 13
    assert [v for v in ("1.18.1", "1.19.2", "1.23.2", "1.26.0", "1.27.0", "1.31.1") if v in wanted.specifier] == [
        "1.19.2",
        "1.23.2",
        "1.26.0",
    ]
    assert not wanted.extras  # Paddle's wheels bring the CUDA libraries


@pytest.mark.parametrize("python", PYTHONS)
def test_a_gpu_box_without_paddle_gets_cuda_with_onnxruntime_where_it_offers_that(python):
    wanted = requirements("deploy/requirements-gpu.txt", python)["onnxruntime-gpu"]
    assert wanted.extras == (set() if python == "3.9" else {"cuda", "cudnn"})
    assert ("1.20.2" in wanted.specifier) == (python == "3.9")  # the extras came with 1.21, for 3.10 and newer


def test_the_package_refuses_the_pythons_that_paddle_has_no_wheels_for():
    (stated,) = re.findall(r'^requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    supported = SpecifierSet(stated)
    assert [v for v in ("3.8.18", *(f"{v}.0" for v in PYTHONS), "3.14.0") if v in supported] == [
        f"{v}.0" for v in PYTHONS
    ]


@pytest.mark.parametrize(
    ("page", "stated"), [("README.md", "Python 3.9 to 3.13"), ("README.zh.md", "Python 3.9 到 3.13")]
)
def test_the_readme_says_which_python_before_the_first_command(page, stated):
    before, command, _ = (ROOT / page).read_text("utf-8").partition("pip install -r requirements.txt")
    assert command and stated in before and "3.14" in before
