"""A network as a Paddle program that runs without this project, and what that program says of itself."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.jit.dy2static import utils as tracing
from paddle.static import InputSpec

from dcgan.errors import ExportError
from deploy.files import PathLike
from deploy.manifest import Signature

_BOOKKEEPING = ("builtin.parameter", "builtin.shadow_output", "pd_op.data", "pd_op.fetch", "pd_op.full_int_array")


class Operator(NamedTuple):
    """One step of a program: Paddle's operator ("conv2d_transpose"), the layer it belongs to, its attributes.

    The layer is the one whose weights the operator uses, else the last one before it, "" at the start.
    """

    kind: str
    layer: str
    attributes: dict[str, Any]


def write_static_graph(layer: nn.Layer, signature: Signature, prefix: PathLike) -> None:
    """Trace `layer` in eval mode and write `<prefix>.json` (program) and `<prefix>.pdiparams` (weights).

    Raises ExportError when a part of the network stays in training mode or Paddle writes nothing.
    """
    layer.eval()
    training = [name or "the network" for name, part in layer.named_sublayers(include_self=True) if part.training]
    if training:
        raise ExportError(f"in training mode although eval() was called: {', '.join(training)}")
    spec = InputSpec([None, *signature.input_shape], "float32", signature.input_name)
    with paddle.no_grad(), _traced_code_of_our_own():
        paddle.jit.save(layer, str(prefix), input_spec=[spec])
    for path in program_files(prefix):
        if not path.is_file() or not path.stat().st_size:
            raise ExportError(f"Paddle {paddle.__version__} did not write {path.name}")


@contextlib.contextmanager
def _traced_code_of_our_own() -> Iterator[None]:
    """Let Paddle write the code that it makes in tracing into a folder that nobody else has.

    Paddle 3.2.2 (jit/dy2static/utils.py:426) takes ~/.cache/paddle/to_static_tmp/<process number> and deletes it at
    exit. Two containers that share a home are both process 1, and a home may be read-only.
    """
    before = tracing.get_temp_dir
    with tempfile.TemporaryDirectory(prefix="traced-") as folder:
        tracing.get_temp_dir = lambda: folder
        try:
            yield
        finally:
            tracing.get_temp_dir = before


def program_files(prefix: PathLike) -> list[Path]:
    """The two files of a program, in the order in which a manifest lists them."""
    prefix = Path(prefix)
    return [prefix.with_name(prefix.name + suffix) for suffix in (".json", ".pdiparams")]


def read_operators(prefix: PathLike, layer: nn.Layer) -> list[Operator]:
    """The steps of a written program in order, named after the layers of the network it was traced from.

    Raises ExportError for a program that is not whole.
    """
    owners = {name: structured.rpartition(".")[0] for name, structured in parameter_names(layer).items()}
    operators: list[Operator] = []
    program = _load(prefix).program()  # kept: its operators do not keep it, and crash without it
    for op in program.global_block().ops:
        if op.name() in _BOOKKEEPING:
            continue
        sources = [value.get_defining_op() for value in op.operands_source()]
        used = [owners.get(_plain(s.attrs()["parameter_name"])) for s in sources if s.name() == "builtin.parameter"]
        before = operators[-1].layer if operators else ""
        owner = next(filter(None, used), before)
        operators.append(Operator(op.name().rpartition(".")[2].rstrip("_"), owner, dict(op.attrs())))
    return operators


def read_weights(prefix: PathLike, layer: nn.Layer) -> dict[str, np.ndarray]:
    """The weights in a written program, by the names they have in `layer` where it knows them.

    Raises ExportError for a program that is not whole.
    """
    names = parameter_names(layer)
    tensors = _load(prefix).state_dict().values()
    return {names.get(_plain(t.name), _plain(t.name)): t.numpy() for t in tensors}


def _load(prefix: PathLike) -> Any:
    """A written program. Paddle does not look at whether its writes succeed, so this is where a full disk shows."""
    program, weights = program_files(prefix)
    try:
        json.loads(program.read_bytes())  # half a program would end the process in Paddle's own parser
        return paddle.jit.load(str(prefix))
    except (OSError, ValueError, RuntimeError) as error:
        free = shutil.disk_usage(program.parent).free / 1e6
        raise ExportError(
            f"Paddle {paddle.__version__} wrote {program.name} and {weights.name}, but they cannot be read back. Is "
            f"the disk full, or a file size limited (ulimit -f)? {free:,.1f} MB are free where they were written."
        ) from error


def parameter_names(layer: nn.Layer) -> dict[str, str]:
    """Paddle's name of each weight and statistic -> its name in the network: "conv2d_0.w_0" -> "conv_1.weight"."""
    return {tensor.name: structured for structured, tensor in layer.state_dict().items()}


def _plain(name: str) -> str:
    """Loading a program appends a counter to the names in it: "conv2d_0.w_0_0" -> "conv2d_0.w_0"."""
    return re.sub(r"(\.[a-z]+_\d+)_\d+$", r"\1", name)
