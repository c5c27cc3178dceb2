"""paddle2onnx at arm's length: a child process with a time limit, without network, believed only by what it wrote.

Seen in 2.1.0: SIGABRT for operators it does not know, sys.exit and empty files for others, and packages installed from
the network behind the user's back. None of that reaches this process; each becomes one ExportError.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dcgan.errors import ExportError
from deploy.files import PathLike

from .static_graph import Operator, program_files

if TYPE_CHECKING:  # Python 3.13 has no onnx, and imports this module all the same
    import onnx

CHILD = Path(__file__).with_name("converter_child.py")
TIME_LIMIT_SECONDS = 600.0
LAST_PYTHON = (3, 12)  # for which onnx 1.17 and paddle2onnx 2.1.0 have packages
OPSETS = range(13, 22)  # before 13 the axes of Unsqueeze are an attribute; onnx 1.17 knows nothing after 22
# Operators whose conversion this project's tests prove; in a failure, others are the first to be suspected.
TESTED = {"conv2d", "conv2d_transpose", "batch_norm", "relu", "leaky_relu", "tanh", "unsqueeze", "squeeze"}
# Nothing may be installed or fetched: pip has no index, and every proxy leads nowhere.
_OFFLINE = {
    "POLYGRAPHY_AUTOINSTALL_DEPS": "0",
    "PIP_NO_INDEX": "1",
    "PIP_REQUIRE_VIRTUALENV": "1",
    **{name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")},
    "GLOG_minloglevel": "2",
    "PYTHONWARNINGS": "ignore",
}


def convert(
    prefix: PathLike, opset: int, operators: Sequence[Operator], time_limit_seconds: float = TIME_LIMIT_SECONDS
) -> onnx.ModelProto:
    """The Paddle program `<prefix>.json` as ONNX, as paddle2onnx makes it. Leaves no file.

    Args: operators - of that program (static_graph.read_operators), to name the culprit.
    Raises ValueError for an opset outside 13-21; ExportError when the converter dies, exceeds its time, or writes
    nothing or something that is not ONNX.
    """
    check_opset(opset)
    prefix = Path(prefix).absolute()
    written = prefix.with_name(prefix.name + ".converted.onnx")
    try:
        output = _run_child(prefix, written, opset, operators, time_limit_seconds)
        return _read(written, output, operators)
    finally:
        written.unlink(missing_ok=True)


def check_installed() -> None:
    """Raise ExportError, with what helps on this Python, unless ONNX can be made here."""
    if all(importlib.util.find_spec(name) for name in ("onnx", "paddle2onnx")):
        return
    here, last = (".".join(map(str, version[:2])) for version in (sys.version_info, LAST_PYTHON))
    what = "are not installed. Run: pip install -r requirements.txt"
    if sys.version_info[:2] > LAST_PYTHON:
        what = (
            f"have no packages for Python {here}. Export the same checkpoint with Python 3.9 to {last}, "
            "or use --format paddle."
        )
    raise ExportError(f"ONNX needs paddle2onnx 2.1 and onnx 1.17, which {what}")


def check_opset(opset: int) -> None:
    """Raise ValueError unless models can be written with this version of ONNX's operators."""
    if opset not in OPSETS:
        raise ValueError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, received {opset}. 17 runs everywhere.")


def _run_child(prefix: Path, written: Path, opset: int, operators: Sequence[Operator], limit: float) -> str:
    command = [sys.executable, str(CHILD), str(prefix), str(written), str(opset)]
    # Files that a dying process drops (cores, logs) land beside the program, in a folder that is thrown away.
    try:
        child = subprocess.run(
            command,
            cwd=program_files(prefix)[0].parent,
            env={**os.environ, **_OFFLINE},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(f"paddle2onnx did not end within {limit:g} seconds and was stopped") from None
    if child.returncode:
        how = f"was ended by signal {-child.returncode}" if child.returncode < 0 else f"exited with {child.returncode}"
        raise ExportError(f"paddle2onnx {how}{_suspects(child.stdout, operators)}")
    return child.stdout


def _read(written: Path, output: str, operators: Sequence[Operator]) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if not written.is_file() or not written.stat().st_size:
        raise ExportError(f"paddle2onnx reported success and wrote nothing{_suspects(output, operators)}")
    try:
        model = onnx.load_model_from_string(written.read_bytes())
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ExportError(f"paddle2onnx wrote something that is not ONNX: {_first_line(str(error))}") from None
    return model


def _suspects(output: str, operators: Sequence[Operator]) -> str:
    """What the converter said, and which operators of which layers it was about, as the rest of a sentence."""
    said = re.findall(r"\[ERROR\][^\n]*?\]\s*((?:\[OP: [^\n]*|[A-Z])[^\n]*)", output)
    raised = re.findall(r"^(\w*(?:Error|Exception|Exit): [^\n]+)", output, re.MULTILINE)
    named = re.findall(r"\[OP: pd_op\.(\w+?)_?\]", output)
    suspected = [op for op in operators if op.kind in named or (not named and op.kind not in TESTED)]
    where = ", ".join(
        dict.fromkeys(f"{op.kind} ({'at ' + op.layer if op.layer else 'at the input'})" for op in suspected)
    )
    text = f" on {where}" if where else ""
    message = (said or raised or [""])[0]
    return text + (f": {_first_line(message)}" if message else "")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason given"
