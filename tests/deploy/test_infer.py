"""The command line as a person meets it: exit codes, lines on stdout and stderr, and what is on the disk afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deploy import infer, manifest
from deploy.infer import main, parse
from deploy.manifest import read_manifest

SCRIPT = Path(infer.__file__)


@pytest.fixture
def run(export, tmp_path, monkeypatch, capsys):
    """main() in an empty current folder whose work/export is the tiny export: (exit code, stdout, stderr)."""
    here = tmp_path / "here"
    (here / "work").mkdir(parents=True)
    (here / "work" / "export").symlink_to(export.folder)
    monkeypatch.chdir(here)

    def call(*arguments):
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def start(*arguments, cwd, **options) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, stdout=pipe, stderr=pipe, text=True, **options)


def files(folder="work/generate") -> set:
    return {path.name for path in Path(folder).iterdir()} if Path(folder).exists() else set()


def test_defaults_make_100_images_and_a_grid(run):
    code, out, err = run()
    assert code == 0 and err == ""
    assert files() == {"grid.png", *(f"seed-{i:06}.png" for i in range(100))}
    made, look_at = out.splitlines()
    assert made == f"100 images in {Path('work/generate')} (onnxruntime, cpu)"
    assert look_at == f"next: open {Path('work/generate/grid.png')}" and Path("work/generate/grid.png").is_file()


def test_without_an_export_the_demo_is_used_and_named(run, export, monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")
    Path("work/export").unlink()
    demo = tmp_path / "demo"
    monkeypatch.setattr(manifest, "DEMO", demo)
    check_failure(run(), "work/export does not exist")
    demo.symlink_to(export.folder)
    code, out, err = run("--n", 3)
    assert (
        code == 0
        and out.startswith("3 images in")
        and "demo generator" in caplog.text
        and "tools/train.py" in caplog.text
    )
    Path("work/export").symlink_to("nowhere")  # an export that is damaged is an error, not a reason for other faces
    code, out, err = run("--n", 4)
    assert code == 1 and out == "" and err.startswith("error: the model folder work/export")


def test_n_and_seed_count_on_from_the_first(run):
    code, out, _ = run("--n", 3, "--seed", 40, "--no-grid")
    assert code == 0 and "next" not in out
    assert files() == {f"seed-0000{i}.png" for i in (40, 41, 42)}


def test_json_is_one_line_with_the_figures(run):
    run("--seeds", "0-4")
    code, out, _ = run("--seeds", "0-9", "--json", "--format", "png")
    value = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert (value["images"], value["written"], value["backend"], value["device"]) == (10, 5, "onnxruntime", "cpu")


def test_a_second_run_says_what_was_there(run):
    run("--n", 4)
    assert run("--n", 6)[1].startswith(f"6 images in {Path('work/generate')}, 4 of them were there")


@pytest.mark.parametrize("extension", ["png", "jpg", "npz"])
def test_formats(run, extension):
    assert run("--n", 2, "--format", extension, "--no-grid", "--out", "o")[0] == 0
    expected = {"images.npz"} if extension == "npz" else {f"seed-00000{i}.{extension}" for i in range(2)}
    assert files("o") == expected


def test_score_prints_a_summary_and_writes_every_probability(run, export):
    code, out, _ = run("--n", 5, "--score")
    assert code == 0 and "mean discriminator score 0." in out
    scores = json.loads(Path("work/generate/scores.json").read_text())
    assert np.allclose([scores[str(seed)] for seed in range(5)], export.score(range(5)), atol=1e-5)


def test_the_name_of_a_folder_does_nothing_to_the_terminal(run):
    code, out, _ = run("--n", 1, "--out", "a\nb\x1b[2J")
    assert code == 0 and out.count(r"a\nb\x1b[2J") == 2, out


def test_walk_has_its_own_default_file(run):
    code, out, _ = run("--interpolate", "3,14,15", "--frames", 6, "--scale", 1)
    assert code == 0 and out.startswith(f"6 frames in {Path('work/generate/walk.mp4')}")
    assert out.endswith(f"\nnext: open {Path('work/generate/walk.mp4')}\n")
    assert files() == {"walk.mp4"}
    assert run("--interpolate", "3,14", "--frames", 4, "--out", "walk.gif")[0] == 0
    assert Path("walk.gif").read_bytes()[:6] == b"GIF89a"


def test_verify_passes_prints_a_table_and_writes_nothing(run):
    code, out, err = run("--verify")
    assert code == 0 and "passed" in out and err == "" and files() == set()
    code, out, _ = run("--verify", "--json")
    assert code == 0 and json.loads(out)["passed"] is True


def test_verify_fails_when_a_weight_changed(run, export, make_generator):
    weights = export.weights.copy()
    weights[0] *= 1.01
    export.replace_generator(make_generator(weights))
    code, out, err = run("--verify")
    assert code == 1 and "FAILED" in out and err.startswith("error: ") and err.count("\n") == 1
    assert json.loads(run("--verify", "--json")[1])["passed"] is False


def check_failure(result, *parts) -> None:
    """Exit code 1, one line on stderr that names what matters, nothing on stdout, nothing written."""
    code, out, err = result
    assert code == 1 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err
    assert files() == set()


def test_missing_folder_names_the_command_that_makes_one(run):
    check_failure(run("--model", "nowhere"), "nowhere does not exist", "python tools/export.py --format onnx")


def test_truncated_model_is_one_line(run, export):
    path = export.folder / "generator.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    check_failure(run(), "generator.onnx is damaged", "1,000 bytes")


def test_checksum_mismatch_is_one_line(run, export):
    path = export.folder / "generator.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    check_failure(run(), "generator.onnx is damaged or was exchanged", "SHA-256")


def test_newer_manifest_is_one_line(run, export):
    path = export.folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    check_failure(run(), "format 99 is newer", "Update")


def test_corrupt_manifest_is_one_line(run, export):
    (export.folder / "manifest.json").write_text('{"format": 1, ')
    check_failure(run(), "manifest.json is damaged")


def test_model_with_another_input_is_one_line(run, export, make_generator):
    export.replace_generator(make_generator(export.weights, name="noise"))
    check_failure(run(), "input is noise float32", "the manifest says z")


def test_no_runtime_is_one_line_with_the_pip_command(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    check_failure(run(), "onnxruntime is not installed", "pip install onnxruntime")


def test_backend_that_the_export_has_not_is_one_line(run):
    check_failure(run("--backend", "paddle"), "no generator for paddle", "--format paddle")


def test_scores_without_a_discriminator_are_one_line(run, export):
    export.write(models=read_manifest(export.folder).models[:1])
    check_failure(run("--score"), "no discriminator", "--network both")


def test_unwritable_out_is_one_line(run):
    Path("taken").write_text("a file")
    check_failure(run("--out", "taken"), "taken")
    check_failure(run("--out", "taken/below"), "taken")
    check_failure(run("--interpolate", "1,2", "--out", "taken/walk.mp4"), "taken")
    assert Path("taken").read_text() == "a file"


def test_debug_adds_the_traceback(run, caplog):
    run("--model", "nowhere", "--log-level", "debug")
    assert "Traceback" in caplog.text
    caplog.clear()
    run("--model", "nowhere")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1,1"], "seed 1 is named twice"),
        (["--seeds", "5-3"], "ends before it begins"),
        (["--seeds", "x"], "neither a seed"),
        (["--seeds", "4294967296"], "0 .. 4294967295"),
        (["--model", ""], "--model: a path is expected, received an empty text"),
        (["--seeds", "1", "--n", "3"], "--seeds excludes --n"),
        (["--seeds", "1", "--seed", "3"], "--seeds excludes --n and --seed"),
        (["--n", "0"], "1 .. 4294967296"),
        (["--n", "-5"], "whole number"),
        (["--n", "1.5"], "whole number"),
        (["--n", "2", "--seed", "4294967295"], "0 .. 4294967295"),
        (["--batch-size", "0"], "1 .. 4096"),
        (["--format", "bmp"], "invalid choice"),
        (["--backend", "torch"], "invalid choice"),
        (["--interpolate", "3"], "at least two seeds"),
        (["--interpolate", "3,4,5", "--frames", "2"], "at least one frame for each"),
        (["--interpolate", "3,4", "--out", "walk.avi"], ".mp4 or .gif"),
        (["--interpolate", "3,4", "--score"], "exclude each other"),
        (["--interpolate", "3,4", "--n", "9"], "--interpolate and --n exclude each other"),
        (["--verify", "--seeds", "9"], "--verify and --seeds exclude each other"),
        (["--frames", "60"], "--frames is for a video: it needs --interpolate"),
        (["--fps", "9", "--verify"], "--fps is for a video: it needs --interpolate"),
        (["--interpolate", "3,4", "--format", "npz"], "--format is for images: --interpolate writes none"),
        (["--verify", "--no-grid"], "--grid is for images: --verify writes none"),
        (["--verify", "--out", "x"], "--verify writes nothing: --out is not for it"),
        (["--precision", "bf16"], "--precision bf16 needs --backend openvino"),
        (["--unknown"], "unrecognized"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_help_names_every_default(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for part in ("work/export", "work/generate", "default: 100", "python deploy/infer.py --n 100"):
        assert part in text


FULL_DISK = {
    "npz": ("images.npz", 60_000, "--n", 300, "--format", "npz", "--no-grid", "--out", "out"),
    "png": ("grid.png", 20_000, "--n", 100, "--out", "out"),
    "mp4": ("walk.mp4", 4_000, "--interpolate", "3,14", "--frames", 50, "--out", "out/walk.mp4"),
    "gif": ("walk.gif", 4_000, "--interpolate", "3,14", "--frames", 50, "--out", "out/walk.gif"),
}


@pytest.mark.parametrize(
    ("name", "limit", "arguments"), [(v[0], v[1], v[2:]) for v in FULL_DISK.values()], ids=FULL_DISK
)
def test_a_full_disk_is_one_line_and_leaves_no_half_file(export, tmp_path, name, limit, arguments):
    """A limit on the size of files stands in for the disk."""
    resource = pytest.importorskip("resource")
    process = start(
        *arguments, "--model", export.folder, cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and stdout == ""
    assert stderr.startswith("error: ") and name in stderr and stderr.count("\n") == 1, stderr
    assert not [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("seed-")]


def test_ctrl_c_exits_with_130_and_a_second_start_goes_on(export, tmp_path):
    out = tmp_path / "out"
    arguments = ("--n", 1_000_000, "--batch-size", 4, "--model", export.folder, "--out", out)
    process = start(*arguments, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.png")) if out.exists() else []) < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stdout == ""
    assert "interrupted" in stderr and "Traceback" not in stderr
    assert not list(out.glob(".*"))
    made = len(list(out.glob("*.png")))
    value = json.loads(start("--n", made + 5, *arguments[2:], "--json", cwd=tmp_path).communicate(timeout=60)[0])
    assert 0 < value["written"] <= 5 + 4 * 20  # those of unfinished batches are made now, the others stayed


def test_progress_is_silent_in_a_short_run_without_a_terminal(run):
    assert run("--n", 50)[2] == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_progress_is_shown_on_a_terminal(monkeypatch, capsys):
    from deploy import progress as module

    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(module.progress(range(3), 3600, "images")) == [0, 1, 2]
    lines = capsys.readouterr().err.split("\r")
    assert lines[1].strip() == "2 of 3,600 images, 1/s, 0:59:58 left" and lines[-2].strip() == ""
