import dataclasses
import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcgan.checkpoints.checkpoint import list_checkpoints
from dcgan.config import TrainConfig
from dcgan.presets import fitted_to

tool = importlib.import_module("tools.train")
ROOT = Path(__file__).resolve().parents[2]
TINY = "--image-size 16 --base-channels 4 --latent-dim 8 --batch-size 8 --log-every 1 --device cpu".split()


def train(*arguments, cwd, **options):
    command = [sys.executable, str(ROOT / "tools" / "train.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def faces(tmp_path, images):
    np.save(tmp_path / "faces.npy", images)
    return tmp_path / "faces.npy"


def assert_one_line(answer, code, *words):
    assert answer.returncode == code, answer.stderr
    lines = answer.stderr.strip().splitlines()
    assert "Traceback" not in answer.stderr
    assert lines[-1].startswith("error: ") or code == 2
    assert all(word in lines[-1] for word in words), lines[-1]


def test_training_from_any_folder_prints_the_run_and_none_of_paddles_chatter(tmp_path, faces):
    answer = train("--data", faces, "--epochs", 1, *TINY, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "work/train/00000-faces\n"
    lines = [line for line in answer.stderr.splitlines() if not line.startswith("Measured here: ")]
    assert lines.pop(2).startswith("Compute: CPU, ")
    run = "work/train/00000-faces"
    assert lines[1:5] == [
        "24 images of 16 x 16 pixels",
        f"Run folder: {run}",
        f"Report: {run}/report.html (open it in a browser, reload to update)",
        f"Next image grid: {run}/samples/step-00000003.png",
    ]
    assert (tmp_path / run / "samples" / "step-00000003.png").is_file()
    assert lines.pop(5).startswith("3 iterations are few: expect blurred images.")
    assert [line.split("  ")[1] for line in lines[5:-2]] == ["step 1/3", "step 2/3", "step 3/3"]
    assert lines[-2] == "report: work/train/00000-faces/report.html"
    assert lines[-1].startswith("done: 3 iterations.")


def test_open_shows_the_report_of_the_run(tmp_path, faces, monkeypatch, capsys):
    shown = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "open_in_browser", shown.append)
    assert tool.main(["--data", str(faces), "--epochs", "1", *TINY]) == 0
    assert tool.main(["--data", str(faces), "--epochs", "1", "--open", *TINY]) == 0
    assert shown == [Path(capsys.readouterr().out.splitlines()[-1]) / "report.html"]


def test_help_begins_with_examples_and_shows_what_a_first_run_needs_without_importing_paddle(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "tools" / "train.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 0 and " paddle\n" not in answer.stderr
    text = answer.stdout
    assert len(text.splitlines()) <= 45 and text.index("python tools/train.py --resume") < text.index("--data DATA")
    flags = ("--data", "--crop", "--epochs", "--steps", "--batch-size", "--image-size", "--resume", "--preset")
    assert all(f"\n  {flag} " in text for flag in flags) and "(default: 64 pixels)" in text
    assert "--beta2" not in text and "--help-all" in text


def test_help_all_shows_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(["--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for field in dataclasses.fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        assert f" {flag} " in text or f" {flag}, " in text, flag
    assert "(default: 0.0005; " in text and "--log-level" in text and "--config" in text


def test_help_says_what_a_small_folder_gets_where_the_user_says_nothing(capsys):
    with pytest.raises(SystemExit):
        tool.main(["--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    chosen = fitted_to(300)
    assert "as many as show 320,000" in text and 0 <= chosen.pop("epochs") * 300 - 320_000 < 300
    for name, value in chosen.items():
        assert f"; {value} " in text, name


def test_dry_run_prints_the_config_and_counts_and_writes_nothing(run_here, tmp_path, faces):
    before = sorted(tmp_path.rglob("*"))
    answer = run_here(tool.main, "--data", faces, "--dry-run", *TINY, cwd=tmp_path)
    facts = json.loads(answer.stdout)
    assert answer.returncode == 0 and facts["images"] == 24 and facts["config"]["image_size"] == 16
    assert facts["parameters"]["discriminator"] == 848
    assert sorted(tmp_path.rglob("*")) == before


def test_without_data_it_says_that_faces_are_drawn_and_uses_the_quick_settings(run_here, tmp_path):
    answer = run_here(tool.main, "--dry-run", cwd=tmp_path)
    facts = json.loads(answer.stdout)
    assert "training on synthetic faces, with --preset quick" in answer.stderr
    assert facts["config"]["data"] == "cartoon" and facts["config"]["base_channels"] == 32


def test_the_length_of_a_run_follows_from_the_number_of_images_where_nothing_is_said(run_here, tmp_path, faces):
    def config(*arguments):
        answer = run_here(
            tool.main,
            "--data",
            faces,
            "--image-size",
            "16",
            "--base-channels",
            "4",
            "--dry-run",
            *arguments,
            cwd=tmp_path,
        )
        return json.loads(answer.stdout)["config"]

    found = config()
    assert (found["epochs"], found["batch_size"], found["diffaugment"]) == (10_000, 12, "translation,cutout")
    said = config("--epochs", "3", "--batch-size", "8")
    assert (said["epochs"], said["batch_size"], said["diffaugment"]) == (3, 8, "translation")
    assert config("--preset", "quick", "--batch-size", "8")["epochs"] == 12


def test_the_tutorial_preset_is_the_tutorials_text(run_here, tmp_path):
    config = json.loads(
        run_here(tool.main, "--data", "cartoon", "--preset", "tutorial", "--dry-run", cwd=tmp_path).stdout
    )["config"]
    expected = {"epochs": 8, "batch_size": 128, "d_steps": 1, "g_steps": 2, "lr": 2e-4, "beta1": 0.5, "ema": 0.0}
    assert {name: config[name] for name in expected} == expected


def test_config_of_a_run_is_taken_and_explicit_flags_win(run_here, tmp_path, faces):
    run_here(tool.main, "--data", faces, "--steps", 1, *TINY, cwd=tmp_path)
    flags = ("--lr", "0.001", "--epochs", 20)
    answer = run_here(tool.main, "--config", "work/train/00000-faces", *flags, "--dry-run", cwd=tmp_path)
    config = json.loads(answer.stdout)["config"]
    assert config["lr"] == 0.001 and config["base_channels"] == 4
    assert (config["epochs"], config["steps"]) == (20, 0)  # the run's --steps 1 would end it at once


def test_an_older_spelling_of_a_flag_works_and_is_not_advertised(capsys):
    parser = tool.build_parser(everything=True)
    assert parser.parse_args(["--batch-norm-reestimate"]).precise_bn is True
    assert parser.parse_args(["--no-batch-norm-reestimate"]).precise_bn is False
    assert not hasattr(parser.parse_args([]), "precise_bn")
    assert "--precise-bn" in parser.format_help() and "reestimate" not in parser.format_help()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "nowhere"], 1, ["nowhere"]),
        (["--data", "empty"], 1, ["empty"]),
        (
            ["--data", "faces.npy", "--batch-size", "128", "--image-size", "16"],
            1,
            ["iteration takes 128 images", "hold 24"],
        ),
        (["--data", "faces.npy", "--image-size", "48"], 1, ["power of two", "48"]),
        (["--data", "faces.npy", "--image-size", "32"], 1, ["16", "32"]),
        (
            ["--data", "faces.npy", "--image-size", "16", "--batch-size", "99", "--dry-run"],
            1,
            ["iteration takes 99 images"],
        ),
        (["--data", "faces.npy", "--image-size", "16", "--crop", "top", "--dry-run"], 1, ["crop must be", "'top'"]),
        (["--preset", "quick", "--config", "typo.json"], 1, ["--preset and --config"]),
        (["--resume", "--preset", "quick"], 1, ["leave out --preset"]),
        (["--data", "cartoon:100", "--d-steps", "0", "--dry-run"], 1, ["d_steps must be from 1", "received 0"]),
        (["--batch-size", "1", "--dry-run"], 1, ["at least 2, received 1", "--texture-weight 0"]),
        (["--selftest-resume", "0"], 2, ["at least 1"]),
        (["--data", "faces.npy", "--no-such-flag"], 2, ["--no-such-flag"]),
        (["--data", "faces.npy", "--preset", "nonesuch"], 2, ["nonesuch"]),
        (["--data", "faces.npy", "--config", "missing.json"], 1, ["missing.json"]),
        (["--data", "faces.npy", "--config", "typo.json"], 1, ["'epoch'", "did you mean 'epochs'"]),
        (["--resume", "nowhere"], 1, ["no checkpoint found", "nowhere"]),
        (["--resume"], 1, ["no checkpoint found"]),
        (["--data", "faces.npy", "--image-size", "16", "--batch-size", "8", "--out", "faces.npy"], 1, ["faces.npy"]),
        (["--data", "faces.npy", "--image-size", "16", "--batch-size", "8", "--device", "gpu"], 1, ["no GPU"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_use_gives_one_clear_line_and_a_non_zero_exit(run_here, tmp_path, faces, arguments, code, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "typo.json").write_text('{"epoch": 3}')
    assert_one_line(run_here(tool.main, *arguments, cwd=tmp_path), code, *words)


@pytest.mark.parametrize("largest_file_bytes", [200, 4000])
def test_a_write_that_fails_gives_one_clear_line_and_leaves_no_half_file(tmp_path, faces, largest_file_bytes):
    resource = pytest.importorskip("resource", reason="needs POSIX file size limits")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))

    answer = train("--data", faces, "--steps", 2, *TINY, cwd=tmp_path, preexec_fn=limit)
    assert_one_line(answer, 1, "File too large")
    left = [p.name for p in (tmp_path / "work").rglob("*") if p.is_file()]
    assert not [name for name in left if name.endswith(".part")]
    assert list_checkpoints(tmp_path / "work" / "train" / "00000-faces" / "checkpoints") == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_finishes_the_step_saves_and_names_the_command_to_go_on(run_here, tmp_path, faces, number, code):
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "--data", str(faces), "--epochs", "100000", *TINY]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if "step 5/" in line:
                break
        for _ in range(2 if number == signal.SIGHUP else 1):  # the shell and the kernel both say that a terminal closed
            process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    run = tmp_path / "work" / "train" / "00000-faces"
    saved = list_checkpoints(run / "checkpoints")
    assert process.returncode == code, stderr
    step = int(saved[-1].name[5:])
    next_command = "python tools/train.py --resume work/train/00000-faces"
    assert f"stopped at step {step}, saved. Continue with: {next_command}" in stderr
    resumed = run_here(tool.main, "--resume", "--steps", int(saved[-1].name[5:]) + 2, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
