"""Whatever the caller closed or set, a tool works or says one line: checked on real processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.streams import PrintableFormatter, printable
from tools import console

ROOT = Path(__file__).resolve().parents[2]


def shell(command, **environment):
    return subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_with_closed_streams_the_images_are_made_and_no_message_lands_in_them(export, tmp_path, closed):
    done = shell(f"exec $0 deploy/infer.py --model {export.folder} --n 2 --out {tmp_path}/out {closed}")
    assert (done.returncode, done.stderr) == (0, b"")
    for name in ("seed-000000.png", "seed-000001.png", "grid.png"):
        assert (tmp_path / "out" / name).read_bytes().endswith(b"IEND\xaeB`\x82")


def test_onednn_does_not_print_among_the_results():
    """It prints a line for each operator when asked to by the environment, on stdout."""
    code = """
from deploy.streams import open_standard_streams
open_standard_streams()
from dcgan.environment import import_paddle
import_paddle()
import paddle
from dcgan.networks.onednn import OneDnnKernels
kernels = OneDnnKernels("float32")
images = kernels.enter(paddle.ones([1, 3, 4, 4]))
print(kernels.leave(kernels.layer(images, paddle.nn.Conv2D(3, 8, 4, 2, 1), None, None)).shape)
"""
    done = shell(f"exec $0 -c '{code}'", ONEDNN_VERBOSE="2", DNNL_VERBOSE="2")
    assert (done.returncode, done.stdout) == (0, b"[1, 8, 2, 2]\n"), done.stderr


def test_an_error_is_not_written_into_the_first_file_that_is_opened(tmp_path):
    done = shell(f"exec $0 tools/prepare.py --data cartoon:4 --image-size 16 --out {tmp_path}/a.npy 2>&-")
    assert done.returncode == 0 and str(tmp_path / "a.npy").encode() in done.stdout
    done = shell(f"exec $0 tools/report.py {tmp_path} >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_names_that_are_no_utf8_are_one_line(tmp_path):
    for tool in ("tools/report.py", "tools/prepare.py --out x.npy --data", "deploy/infer.py --model"):
        done = shell(f"exec $0 {tool} \"$(printf '{tmp_path}/caf\\351')\"", PYTHONUTF8="1")
        assert done.returncode == 1 and done.stderr.count(b"\n") == 1, done.stderr
        assert b"caf" in done.stderr and b"Traceback" not in done.stderr


def test_no_text_of_another_person_does_anything_to_the_terminal():
    odd = "a\x1b[2J\x1b]0;title\x07b\u202ec\nerror: forged\r\x9bd caf\udce9 Gesicht 人脸"
    said = printable(odd)
    assert said == r"a\x1b[2J\x1b]0;title\x07b\u202ec\nerror: forged\r\x9bd caf\udce9 Gesicht 人脸"
    assert printable("x" * 100_000) == "x" * 2000 + "... (100,000 characters)"
    record = logging.LogRecord("dcgan", logging.INFO, "a.py", 1, "Data: %s", (odd,), None)
    assert PrintableFormatter("%(levelname)s: %(message)s").format(record) == f"INFO: Data: {said}"
    assert console.one_line(ValueError(odd)).isprintable()


def test_a_log_that_nobody_reads_any_more_or_a_full_one_ends_no_run(tmp_path):
    """`train.py 2>&1 | head`, a killed tee, a full disk: all since the last checkpoint was lost."""
    sizes = "--image-size 16 --base-channels 4 --latent-dim 4 --batch-size 4 --steps 3 --log-every 1"
    train = f"$0 tools/train.py --data cartoon:8 {sizes} --out {tmp_path}"
    done = shell(f"({{ {train}; echo code $? >&3; }} 2>&1 >&3 | true) 3>&1")
    assert done.stdout.split()[-2:] == [b"code", b"0"], done.stdout
    (run,) = tmp_path.iterdir()
    assert (run / "checkpoints" / "step-00000003").is_dir()
    done = shell(f"$0 tools/prepare.py --data cartoon:4 --image-size 16 --out {tmp_path}/a.npy 2>/dev/full")
    assert done.returncode == 0 and (tmp_path / "a.npy").exists()


@pytest.mark.parametrize("command", ["deploy/infer.py --n 2 --out {out}", "tools/report.py --help"])
def test_an_answer_that_nobody_reads_any_more_is_no_traceback(tmp_path, command):
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, *command.format(out=tmp_path / "faces").split()]
    done = subprocess.run(words, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert done.returncode in (0, 1) and b"Error" not in done.stderr and b"Exception" not in done.stderr, done.stderr


def test_no_variable_of_the_environment_breaks_a_run(tmp_path):
    """Each was a traceback, MPLBACKEND at the first grid; together they are one process."""
    odd = {"PYTHONOPTIMIZE": "2", "MPLBACKEND": "foo", "PADDLE_LOCAL_SIZE": "0", "OMP_NUM_THREADS": "99999999999"}
    sizes = "--image-size 16 --base-channels 4 --latent-dim 4 --batch-size 4 --steps 2 --sample-every 2"
    done = shell(f"exec $0 tools/train.py --data cartoon:8 {sizes} --out {tmp_path}", **odd)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    (run,) = tmp_path.iterdir()
    assert {"loss.png", "report.html", "generator.params"} <= {path.name for path in run.iterdir()}


def test_without_docstrings_every_tool_still_helps():
    for tool in ("train", "report", "prepare"):
        done = shell(f"exec $0 tools/{tool}.py --help", PYTHONOPTIMIZE="2")
        assert done.returncode == 0 and b"usage" in done.stdout
