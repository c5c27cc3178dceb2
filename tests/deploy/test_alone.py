"""deploy/ stands alone: copied to an empty place, with neither our other folders nor Paddle, it runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import deploy

DEPLOY = Path(deploy.__file__).parent
ALLOWED = {"numpy", "cv2", "deploy"}  # and, named as text in runtimes/ alone, onnxruntime and paddle

SERVING = {"starlette", "uvicorn", "httptools", "prometheus_client"}  # requirements-serve.txt, for deploy/serving alone


@pytest.fixture
def alone(export, tmp_path):
    """A folder with a copy of deploy/ and of the export, and nothing else of ours."""
    box = tmp_path / "box"
    shutil.copytree(DEPLOY, box / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(export.folder, box / "work" / "export")
    return box


def python(*arguments, cwd) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_the_copy_runs_from_its_folder_and_from_elsewhere(alone, tmp_path):
    done = python("deploy/infer.py", "--n", 3, cwd=alone)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((alone / "work/generate").iterdir())) == 4
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = python(alone / "deploy/infer.py", "--n", 3, "--model", alone / "work/export", cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((elsewhere / "work/generate").iterdir())) == 4


def test_neither_paddle_nor_our_other_folders_are_imported(alone):
    script = """
import sys, runpy
for name in ("paddle", "dcgan", "export", "onnx", "torch"):
    sys.modules[name] = None  # importing it now fails
for arguments in (["--n", "3"], ["--n", "3", "--score"], ["--verify"], ["--interpolate", "3,4", "--frames", "4"]):
    sys.argv = ["deploy/infer.py", *arguments]
    try:
        runpy.run_path("deploy/infer.py", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, end.code
assert "onnxruntime" in sys.modules
"""
    done = python("-c", script, cwd=alone)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_and_wrong_usage_do_not_wait_for_numpy(alone):
    script = "import sys; sys.argv[1:] = ['--help']; sys.modules.update(numpy=None, cv2=None, starlette=None)\n"
    done = python("-c", script + "import runpy; runpy.run_path('deploy/serve.py', run_name='__main__')", cwd=alone)
    assert done.returncode == 0 and "--max-queue" in done.stdout
    script = "import sys; sys.argv[1:] = ['--help']; sys.modules.update(numpy=None, cv2=None, onnxruntime=None)\n"
    done = python("-c", script + "import runpy; runpy.run_path('deploy/infer.py', run_name='__main__')", cwd=alone)
    assert done.returncode == 0 and "--interpolate" in done.stdout


def test_a_box_without_numpy_is_told_what_to_install(alone):
    script = "import sys; sys.argv[1:] = []; sys.modules.update(numpy=None)\n"
    done = python("-c", script + "import runpy; runpy.run_path('deploy/infer.py', run_name='__main__')", cwd=alone)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: numpy is not installed. Run `python -m pip install -r ")
    assert "requirements.txt" in done.stderr
    script = "import sys; sys.argv[1:] = []; sys.modules.update(starlette=None)\n"
    done = python("-c", script + "import runpy; runpy.run_path('deploy/serve.py', run_name='__main__')", cwd=alone)
    assert done.returncode == 1 and done.stderr.startswith(
        "error: starlette is not installed. Run `python -m pip install"
    )
    assert "requirements-serve.txt" in done.stderr and done.stderr.count("\n") == 1


def test_the_copy_serves_without_paddle(alone, start_process):
    script = """
import sys, runpy
for name in ("paddle", "dcgan", "export", "onnx", "torch"):
    sys.modules[name] = None  # importing it now fails
sys.argv = ["deploy/serve.py", "--port", "0"]
runpy.run_path("deploy/serve.py", run_name="__main__")
"""
    process = start_process(["-c", script], alone, PYTHONPATH=None)
    process.wait_for(" is ready after ", 60)
    address = re.search(r"http://\S+", Path(process.log).read_text())[0]
    served = urllib.request.urlopen(f"{address}/faces/7.png", timeout=60).read()
    assert python("deploy/infer.py", "--seeds", 7, cwd=alone).returncode == 0
    assert served == (alone / "work/generate/seed-000007.png").read_bytes()


@pytest.mark.parametrize("script", ["infer.py", "serve.py"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside deploy"])
def test_a_copy_under_another_name_says_what_it_must_be_called(alone, beside, script):
    (shutil.copytree if beside else shutil.move)(alone / "deploy", alone / "faces")
    done = python(f"faces/{script}", cwd=alone)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"error: {alone / 'faces'} must be called deploy: its files import each other by that name. Rename it.\n",
    )


def test_the_library_is_what_the_readme_says(alone):
    script = (
        "from deploy.runtimes import load_generator\n"
        "images = load_generator('work/export').generate(seeds=[1, 2, 3])\n"
        "print(images.dtype, images.shape)"
    )
    done = python("-c", script, cwd=alone)
    assert (done.stdout, done.stderr) == ("float32 (3, 3, 16, 16)\n", "")


def test_paddle_says_nothing_to_the_user(alone, export):
    import paddle
    from paddle.static import InputSpec

    from deploy.manifest import ModelEntry

    class Layer(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = paddle.nn.Conv2DTranspose(8, 3, 16, bias_attr=False)

        def forward(self, z):
            return paddle.tanh(self.conv(z.unsqueeze([2, 3])))

    spec = [InputSpec([None, 8], "float32", "z")]
    paddle.jit.save(Layer(), str(export.folder / "generator"), input_spec=spec)
    export.write(models=(ModelEntry("generator", "paddle", ("generator.json", "generator.pdiparams")),))
    for threads in ("1", "4"):
        command = [sys.executable, "deploy/infer.py", "--n", "2", "--model", str(export.folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run(command, cwd=alone, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        assert "2 images in" in done.stdout and "(paddle, cpu)" in done.stdout
        shutil.rmtree(alone / "work/generate")


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all imports, those inside functions included; relative ones stay within deploy."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1
    return found


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.py")), ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_imports_are_the_standard_library_numpy_and_opencv(path):
    standard = getattr(sys, "stdlib_module_names", None)
    if standard is None:
        pytest.skip("Python 3.9 does not list its own modules")
    allowed = ALLOWED | (SERVING if path.parent.name == "serving" else set()) | standard
    assert imported(ast.parse(path.read_text(encoding="utf-8"))) <= allowed


@pytest.mark.parametrize("name", ["manifest.py", "files.py", "untrusted.py", "seed_ranges.py"])
def test_the_contract_needs_the_standard_library_only(name):
    assert not imported(ast.parse((DEPLOY / name).read_text(encoding="utf-8"))) & {"numpy", "cv2"}
