import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcgan import DCGAN, TrainConfig
from dcgan.checkpoints.params import read_params
from export.exporter import ExportConfig
from tests.tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
tool = importlib.import_module("tools.export")


def export(*arguments, cwd, interpreter=()):
    command = [sys.executable, *interpreter, str(ROOT / "tools" / "export.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an untrained run in work/train, as tools/train.py leaves one."""
    root = tmp_path_factory.mktemp("user")
    config = TrainConfig(**TINY, ema=0.9)
    checkpoints = root / "work" / "train" / "00000-cartoon" / "checkpoints"
    DCGAN(config).save(checkpoints / "step-00000000", extra={"config": config.to_json()})
    return root


@pytest.fixture(scope="module")
def exported(folder):
    return export("--format", "onnx", cwd=folder)


def test_the_newest_run_is_exported_and_the_report_ends_with_the_next_command(folder, exported):
    assert exported.returncode == 0, exported.stderr
    lines = exported.stdout.splitlines()
    assert lines[0].split()[:4] == ["model", "runtime", "batch", "max"]
    assert [line.split()[:2] for line in lines[1:9]] == [["generator", "dygraph"]] * 4 + [
        ["generator.onnx", "onnxruntime"]
    ] * 4
    assert any(re.fullmatch(r"parity: passed; largest difference \S+ \(limit \S+\)", line) for line in lines)
    assert any(line.startswith("work/export, in ") for line in lines)
    assert lines[-1] == "next: python deploy/infer.py --n 100"
    told = exported.stderr.splitlines()
    assert told[0] == "Exporting generator_ema of 00000-cartoon, step 0"
    assert told[1].startswith("BatchNorm statistics of 2 layers re-estimated over 512 latents; images changed by ")
    assert len(told) == 2  # none of Paddle's or the converter's chatter
    assert sorted(p.name for p in (folder / "work" / "export").iterdir()) == [
        "directions.json",
        "generator.onnx",
        "manifest.json",
        "reference.npz",
    ]


def test_json_is_the_manifest_on_one_line_and_another_folder_is_part_of_the_next_command(run_here, folder):
    run = folder / "work" / "train" / "00000-cartoon"
    flags = ["--checkpoint", run, "--out", folder / "else where", "--format", "paddle", "--precise-bn", 0]
    answer = run_here(tool.main, *flags, "--json", cwd=folder)
    assert answer.returncode == 0 and answer.stdout.count("\n") == 1
    assert json.loads(answer.stdout) == json.loads((folder / "else where" / "manifest.json").read_text())
    answer = run_here(tool.main, *flags, cwd=folder)
    assert answer.stdout.splitlines()[-1] == (
        f"next: python deploy/infer.py --n 100 --backend paddle --model '{folder / 'else where'}'"
    )


def test_params_are_written_beside_what_is_exported(run_here, folder, exported):
    answer = run_here(tool.main, "--format", "params", cwd=folder)
    assert answer.returncode == 0 and answer.stdout == "work/export/generator.params\n"
    assert read_params(folder / "work" / "export" / "generator.params")["conv_1.weight"].dtype == np.float32
    assert (folder / "work" / "export" / "generator.onnx").exists()


WITHOUT_ONNX = """
import runpy, sys
sys.modules.update(onnx=None, paddle2onnx=None)  # importing one of them now fails
sys.argv[1:] = {arguments}
runpy.run_path({tool!r}, run_name="__main__")
"""


def export_without_onnx(*arguments, cwd):
    script = WITHOUT_ONNX.format(arguments=list(arguments), tool=str(ROOT / "tools" / "export.py"))
    return subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_paddle_and_params_are_exported_where_onnx_cannot_be_installed(folder):
    answer = export_without_onnx("--format", "paddle", "--out", "without", "--network", "both", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "next: python deploy/infer.py --n 100 --backend paddle --model without"
    versions = json.loads((folder / "without" / "manifest.json").read_text())["versions"]
    assert "paddle" in versions and "onnx" not in versions and "paddle2onnx" not in versions
    assert export_without_onnx("--format", "params", "--out", "without", cwd=folder).returncode == 0


@pytest.mark.parametrize("format", ["onnx", "all", "web"])
def test_without_onnx_one_line_says_so_before_anything_is_loaded(run_here, monkeypatch, folder, format):
    for name in ("onnx", "paddle2onnx"):
        monkeypatch.setitem(sys.modules, name, None)  # importing one of them now fails
    answer = run_here(tool.main, "--format", format, "--out", "never", "--checkpoint", "nowhere", cwd=folder)
    assert answer.returncode == 1 and answer.stdout == "" and answer.stderr.count("\n") == 1
    assert answer.stderr.startswith("error: ONNX needs paddle2onnx 2.1 and onnx 1.17, which ")
    assert not (folder / "never").exists()


def test_onnx_is_what_is_exported_when_no_format_is_named(run_here, folder):
    answer = run_here(tool.main, "--out", "plain", "--precise-bn", 0, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert (folder / "plain" / "generator.onnx").is_file()


def test_a_page_for_the_browser_is_a_folder_of_its_own(run_here, folder):
    answer = run_here(tool.main, "--format", "web", "--single-file", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-2:] == [
        "next: python -m http.server --directory work/web, then open http://localhost:8000",
        "or open work/web/playground.html with a double-click",
    ]
    names = {path.name for path in (folder / "work" / "web").iterdir()}
    assert {"index.html", "playground.html", "generator.onnx", "manifest.json"} <= names


def test_help_shows_defaults_and_examples_without_importing_paddle(tmp_path):
    answer = export("--help", cwd=tmp_path, interpreter=("-X", "importtime"))
    assert answer.returncode == 0 and " paddle\n" not in answer.stderr and " onnx\n" not in answer.stderr
    text = " ".join(answer.stdout.split())
    for default in ("onnx", "work/export", "generator", "fp32", "17", "8", "cpu"):
        assert f"(default: {default})" in text
    assert text.count("python tools/export.py") >= 3


def test_defaults_of_the_flags_are_those_of_the_library():
    args = tool.parser().parse_args([])
    for name in ("checkpoint", "precision", "opset", "precise_bn", "uint8", "single_file", "device"):
        assert getattr(args, name) == getattr(ExportConfig(), name)
    assert (
        tool.NETWORKS[args.network] == ExportConfig().networks and tool.FORMATS[args.format] == ExportConfig().formats
    )


def test_the_old_spelling_of_precise_bn_works_and_is_not_advertised():
    assert tool.parser().parse_args(["--calibrate", "3"]).precise_bn == 3
    assert "--calibrate" not in tool.parser().format_help()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--format", "tflite"], 2, "tflite"),
        (["--format", "onnx", "--checkpoint", "nowhere"], 1, "nothing to export at nowhere"),
        (["--format", "onnx", "--opset", "9"], 1, "opset must be from 13 to 21, received 9"),
        (["--format", "all", "--precision", "fp16"], 1, "fp16 is for ONNX"),
        (["--format", "web", "--precision", "fp16"], 1, "uses the generator alone"),
        (["--format", "onnx", "--single-file"], 1, "a single file is a form of the web page"),
        (["--format", "onnx", "--device", "gpu"], 1, "no GPU"),
        (["--format", "onnx", "--out", "work/train"], 1, "holds what no export wrote (00000-cartoon)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_gives_one_clear_line_and_a_non_zero_exit(run_here, folder, arguments, code, words):
    before = {path for path in folder.rglob("*") if not path.name.endswith(".lock")}
    answer = run_here(tool.main, *arguments, cwd=folder)
    last = answer.stderr.strip().splitlines()[-1]
    assert answer.returncode == code and words in last and "Traceback" not in answer.stderr, answer.stderr
    assert answer.stdout == ""
    assert {path for path in folder.rglob("*") if not path.name.endswith(".lock")} == before


def test_a_breach_exits_with_one_tells_the_table_and_keeps_the_last_export(folder, exported):
    """The converter's own process is made to spoil a slope: nothing in this project is patched."""
    shadow = folder / "shadow"
    shadow.mkdir()
    (shadow / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "def spoil():\n"
        "    if not sys.argv[0].endswith('converter_child.py'): return\n"
        "    import onnx\n"
        "    model = onnx.load(sys.argv[2])\n"
        "    for node in model.graph.node:\n"
        "        if node.op_type == 'LeakyRelu': node.attribute[0].f = 0.3\n"
        "    onnx.save(model, sys.argv[2])\n"
        "atexit.register(spoil)\n"
    )
    before = (folder / "work" / "export" / "manifest.json").read_bytes()
    command = [sys.executable, str(ROOT / "tools" / "export.py"), "--format", "onnx", "--network", "both", "--bisect"]
    env = {**os.environ, "PYTHONPATH": str(shadow)}
    answer = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 1 and answer.stdout == ""
    assert "discriminator.onnx  onnxruntime" in answer.stderr
    last = answer.stderr.strip().splitlines()[-1]
    assert last.startswith("error: discriminator.onnx: the first layer that differs is leaky_relu_1 (LeakyRelu)")
    assert (folder / "work" / "export" / "manifest.json").read_bytes() == before
