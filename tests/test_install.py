"""`pip install .`: the wheel holds all that runs, and its commands work from any folder without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("train", "prepare", "report", "export", "evaluate", "infer", "serve", "doctor")


def run(*words, cwd, **environment):
    words = [str(word) for word in words]
    environment = {k: v for k, v in {**os.environ, **environment}.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that the checkout stays clean, and with the setuptools that is here: no network."""
    pytest.importorskip("setuptools", minversion="70.1", reason="setuptools is not installed")
    folder = tmp_path_factory.mktemp("build")
    tracked = ["pyproject.toml", "README.md", "LICENSE", "requirements.txt", "dcgan", "export", "deploy", "tools"]
    for name in tracked:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "dist")
    done = run(sys.executable, "-m", "pip", "wheel", folder, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder like a virtual environment's with nothing but the wheel, and how to call one of its commands."""
    prefix = tmp_path_factory.mktemp("prefix")
    options = ("--no-deps", "--no-index", "--prefix", prefix)
    done = run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=prefix)
    assert done.returncode == 0, done.stderr
    paths = sysconfig.get_paths("posix_prefix", {"base": str(prefix), "platbase": str(prefix)})

    def call(name, *words, cwd):
        return run(Path(paths["scripts"]) / f"dcgan-{name}", *words, cwd=cwd, PYTHONPATH=paths["purelib"])

    return call


def test_the_wheel_holds_every_module_and_every_file_that_they_read(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("dcgan_paddle-")}
    tracked = run("git", "ls-files", "dcgan", "export", "deploy", "tools", cwd=ROOT).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout: no list of the files")
    assert set(tracked) - held == set()
    assert {name.split("/")[0] for name in held} == {"dcgan", "export", "deploy", "tools"}


def test_the_wheel_asks_for_what_requirements_txt_asks_for(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    lines = archive.read(name).decode().splitlines()
    asked = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist")]
    wanted = (line.partition("  #")[0] for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines())
    wanted = {str(Requirement(line)) for line in wanted if line and not line.startswith("#")}
    assert {str(one) for one in asked if "extra" not in str(one.marker)} == wanted


def test_every_script_has_a_command(wheel):
    scripts = {path.stem for path in (ROOT / "tools").glob("[!_]*.py") if "def cli" in path.read_text("utf-8")}
    assert {*scripts, "infer", "serve"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_says_how_it_is_used_from_another_folder(name, installed, tmp_path):
    done = installed(name, "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: dcgan-{name}"), done.stderr


def test_train_then_export_then_infer_with_installed_commands_alone(installed, tmp_path):
    small = "--data cartoon:24 --image-size 16 --base-channels 4 --batch-size 8 --steps 2 --device cpu".split()
    trained = installed("train", *small, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "Next: dcgan-export --format onnx" in trained.stderr
    assert (tmp_path / trained.stdout.strip() / "report.html").is_file()
    exported = installed("export", "--format", "onnx", cwd=tmp_path)
    assert exported.returncode == 0 and "next: dcgan-infer --n 100" in exported.stdout, exported.stderr
    drawn = installed("infer", "--n", "2", cwd=tmp_path)
    assert drawn.returncode == 0 and (tmp_path / "work" / "generate" / "seed-000001.png").is_file(), drawn.stderr
