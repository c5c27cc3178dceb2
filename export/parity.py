"""Compare the outputs of the exported model with those of the trained one: the same inputs through every runtime.

The reference is the network itself in dynamic mode; a float64 copy of it tells who is wrong when two disagree. Here are
the measurements and the table of tolerances; what the files hold, number by number, is compared in structure.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

from dcgan.errors import ParityError
from dcgan.images import to_uint8
from deploy.manifest import ModelError, Signature
from deploy.seeds import bits, latents

BATCH_SIZES = (1, 2, 7, 100)
SEEDS = range(100)

Run = Callable[[np.ndarray], np.ndarray]


class Tolerance(NamedTuple):
    """The largest |difference| of a pixel in [-1, 1], of uint8 levels, and why.

    Logits have no such range: for them `max_abs` is a share of the largest |logit|.
    """

    max_abs: float
    levels: int
    why: str


TOLERANCES = {
    ("fp32", "cpu"): Tolerance(
        1e-5, 1, "float32 sums in another order; 2e-7 to 2e-6 is usual. A pixel near a rounding edge moves one level."
    ),
    ("fp32", "gpu"): Tolerance(
        2e-4, 1, "cuDNN may choose Winograd or FFT, which round more; TF32, 100 times worse still, must be off."
    ),
    ("fp16-weights", "cpu"): Tolerance(
        1e-2, 2, "weights keep 11 bits, everything else is float32; 1e-3 is usual, more for strong contrasts."
    ),
    ("fp16-weights", "gpu"): Tolerance(1e-2, 2, "as on the CPU: rounding the weights outweighs everything else."),
    ("fp16", "cpu"): Tolerance(
        2e-2, 3, "weights and activations keep 11 bits; 1e-3 is usual, more for strong contrasts."
    ),
    ("fp16", "gpu"): Tolerance(2e-2, 3, "as on the CPU; tensor cores sum in float32, so no worse than that."),
}
# A network may itself be ill-conditioned (large weights, saturated tanh): then float32 cannot agree with float32. Two
# runtimes are allowed to differ by this many times the distance of the reference from its own float64 copy ...
ROUNDING_FACTOR = 8.0
# ... which must be below this, or the weights are not fit for float32 at all.
LARGEST_ROUNDING = 1e-3


class Reference(NamedTuple):
    """What a network answers: float32 inputs [N, ...], float32 outputs, float64 outputs."""

    inputs: np.ndarray
    outputs: np.ndarray
    exact: np.ndarray

    @property
    def scale(self) -> float:
        """1 for images, the largest |logit| for logits."""
        return 1.0 if self.exact.ndim == 4 else float(np.nanmax(np.abs(self.exact)))

    @property
    def rounding(self) -> float:
        """How far float32 itself is from float64."""
        return _largest(self.outputs - self.exact)


class Row(NamedTuple):
    """One model in one runtime at one batch size against the reference. Differences are absolute.

    `exact` - largest difference from float64.  `levels_share`, `levels_max` - uint8 pixels that differ, by how much at
    most (images only).  `neighbours` - how much an image changes in a smaller batch.
    `allowed` - the largest value of `max` and `neighbours`.
    """

    model: str
    runtime: str
    batch_size: int
    max: float
    mean: float
    p999: float
    exact: float
    nan: int
    inf: int
    levels_share: float
    levels_max: int
    neighbours: float
    allowed: float


class Report:
    """Rows, what was found bit-identical, and every problem, in words.

    `passed` only if something was measured and nothing is wrong.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.equal: list[str] = []
        self.problems: list[str] = []

    def expect_none(self, problems: Sequence[str], what: str) -> None:
        """Take over `problems`; without any, `what` is bit-identical."""
        self.problems += problems
        if not problems:
            self.equal.append(what)

    @property
    def passed(self) -> bool:
        return bool(self.rows) and not self.problems

    def raise_if_failed(self) -> None:
        """Raise ParityError naming models, runtimes, batch sizes and figures."""
        if self.passed:
            return
        shown = self.problems[:4] or ["nothing was measured"]
        more = len(self.problems) - len(shown)
        raise ParityError("; ".join(shown) + (f"; and {more} more" if more > 0 else ""))

    def to_json(self) -> dict[str, Any]:
        return {"passed": self.passed, "equal": self.equal, "rows": [row._asdict() for row in self.rows]}


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one line each under a header."""
    lines = [_HEADER.split(","), *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = 2  # columns of text, the rest are numbers
    padded = [
        [cell.ljust(w) for cell, w in zip(line[:left], widths)]
        + [cell.rjust(w) for cell, w in zip(line[left:], widths[left:])]
        for line in lines
    ]
    return "\n".join("  ".join(line) for line in padded)


def inputs_for(signature: Signature, seeds: Sequence[int] = SEEDS) -> np.ndarray:
    """Inputs that anybody can make again: latents, or for a discriminator noise in [-1, 1], float32 [N, ...]."""
    if len(signature.input_shape) == 1:
        return latents(seeds, signature.input_shape[0])
    noise = bits(np.array(seeds), int(np.prod(signature.input_shape)))
    return (noise / 2.0**31 - 1.0).astype(np.float32).reshape(-1, *signature.input_shape)


def reference_of(layer: nn.Layer, inputs: np.ndarray) -> Reference:
    """The answers of `layer` in eval mode, in float32 and in float64. The layer itself stays as it is."""
    exact = copy.deepcopy(layer).to(dtype="float64")
    exact.eval()
    run = run_layer(exact)
    parts = np.array_split(inputs.astype(np.float64), max(1, len(inputs) // 10))  # float64 takes twice the memory
    return Reference(inputs, run_layer(layer)(inputs), np.concatenate([run(part) for part in parts]))


def run_layer(layer: nn.Layer) -> Run:
    """`layer` as a function of numpy arrays, without gradients, in the mode that it is in."""

    def run(inputs: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return layer(paddle.to_tensor(inputs)).numpy()

    return run


def measure(
    report: Report,
    model: str,
    runtime: str,
    load: Callable[[], Run],
    reference: Reference,
    tolerance: Tolerance,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> None:
    """Add to `report` one row per batch size and a sentence per problem.

    Args: load - makes the runtime; one instance serves all batch sizes, which proves that the batch axis is free.
    Batches hold the last inputs of the reference, so that an input has other neighbours and another place each time.
    """
    allowed, rows = allowed_difference(reference, tolerance), []
    try:
        run = load()
    except (ModelError, ValueError, RuntimeError) as error:
        report.problems.append(f"{model} cannot be loaded by {runtime}: {_first_line(error)}")
        return
    answers = {}
    for size in sorted(batch_sizes, reverse=True):
        where = f"{model} in {runtime}, batch size {size}"
        try:
            answer = run(reference.inputs[-size:])
        except (ModelError, ValueError, RuntimeError) as error:
            report.problems.append(f"{where}: refused, so its batch axis is not free: {_first_line(error)}")
            continue
        if answer.shape != reference.outputs[-size:].shape:
            expected = list(reference.outputs[-size:].shape)
            report.problems.append(f"{where}: answered {list(answer.shape)}, expected {expected}")
            continue
        answers[size] = answer
        together = answers[max(answers)][-size:]
        with np.errstate(invalid="ignore"):  # Inf - Inf; counted below
            row = _row(model, runtime, answer, together, reference, allowed)
        rows.insert(0, row)
        report.problems += [f"{where}: {text}" for text in _problems(row, answer, reference, tolerance)]
    report.rows += rows


def measure_uint8(
    report: Report,
    model: str,
    runtime: str,
    load: Callable[[], Run],
    load_floats: Callable[[], Run],
    inputs: np.ndarray,
) -> None:
    """Check that a uint8 model returns exactly the rounded images of the float model in the same runtime."""
    try:
        pixels, expected = load()(inputs), to_uint8(load_floats()(inputs))
    except (ModelError, ValueError, RuntimeError) as error:
        report.problems.append(f"{model} cannot be run by {runtime}: {_first_line(error)}")
        return
    problems = []
    if pixels.dtype != np.uint8 or pixels.shape != expected.shape:
        problems.append(f"answered {pixels.dtype} {list(pixels.shape)}, expected uint8 {list(expected.shape)}")
    elif not np.array_equal(pixels, expected):
        problems.append(f"{(pixels != expected).mean():.2%} of its pixels are not the float model's, rounded")
    said = [f"{model} in {runtime}: {problem}" for problem in problems]
    report.expect_none(said, f"{model} in {runtime}: the float model's images, rounded")


def check_reference(report: Report, name: str, reference: Reference) -> None:
    """Add a problem when the trained network is itself of no use as a reference."""
    wrong = int((~np.isfinite(reference.outputs)).sum())
    if wrong:
        report.problems.append(f"the trained {name} itself answers {wrong:,} times NaN or Inf")
    elif reference.rounding > LARGEST_ROUNDING * reference.scale:
        report.problems.append(
            f"the trained {name} is {reference.rounding:.1e} from its own float64 copy; "
            f"above {LARGEST_ROUNDING:g} its weights are not fit for float32, or it is not in eval mode"
        )


def allowed_difference(reference: Reference, tolerance: Tolerance) -> float:
    """The largest |difference| between a runtime and this reference."""
    return max(tolerance.max_abs * reference.scale, ROUNDING_FACTOR * reference.rounding)


def _row(
    model: str, runtime: str, answer: np.ndarray, together: np.ndarray, reference: Reference, allowed: float
) -> Row:
    size = len(answer)
    expected = reference.outputs[-size:]
    difference = np.abs(answer.astype(np.float64) - expected)
    levels = np.zeros(1, int)
    if answer.ndim == 4:
        levels = np.abs(to_uint8(np.nan_to_num(answer)).astype(int) - to_uint8(np.nan_to_num(expected)))
    return Row(
        model,
        runtime,
        size,
        _largest(difference),
        _finite(difference.mean()),
        _finite(np.quantile(difference, 0.999)),
        _largest(answer - reference.exact[-size:]),
        int(np.isnan(answer).sum()),
        int(np.isinf(answer).sum()),
        float((levels > 0).mean()),
        int(levels.max()),
        _largest(answer.astype(np.float64) - together),
        allowed,
    )


def _problems(row: Row, answer: np.ndarray, reference: Reference, tolerance: Tolerance) -> list[str]:
    """What is wrong with a row, in words; empty when nothing is."""
    if row.nan or row.inf:
        return [f"{row.nan:,} NaN and {row.inf:,} Inf among {answer.size:,} numbers"]
    problems = []
    if row.neighbours > row.allowed:
        problems.append(
            f"an image moves by {row.neighbours:.1e} with its neighbours in the batch, above {row.allowed:.1e}: "
            "BatchNorm in training mode does that"
        )
    if row.max > row.allowed:
        problems.append(
            f"max |difference| {row.max:.1e} is above {row.allowed:.1e}"
            + _channel_hint(answer, reference.outputs[-len(answer) :], row)
            + f" (from float64: this runtime {row.exact:.1e}, the trained network {reference.rounding:.1e})"
        )
    elif row.levels_max > tolerance.levels:
        problems.append(f"uint8 pixels differ by up to {row.levels_max} levels, above {tolerance.levels}")
    return problems


def _channel_hint(answer: np.ndarray, expected: np.ndarray, row: Row) -> str:
    """Whether another order of the colour channels would explain the difference."""
    if answer.ndim != 4 or answer.shape[1] > 4:
        return ""
    for order in permutations(range(answer.shape[1])):
        if _largest(answer[:, list(order)] - expected) <= row.allowed:
            return f", and nothing would differ with its colour channels in the order {list(order)}"
    return ""


_HEADER = "model,runtime,batch,max,mean,99.9%,float64,NaN/Inf,uint8 differ,neighbours,allowed"


def _cells(row: Row) -> list[str]:
    levels = f"{row.levels_share:.4%} by {row.levels_max}" if row.levels_max else "0"
    figures = [f"{value:.1e}" for value in (row.max, row.mean, row.p999, row.exact)]
    bad = f"{row.nan}/{row.inf}"
    verdict = f"{row.allowed:.1e}"
    return [row.model, row.runtime, str(row.batch_size), *figures, bad, levels, f"{row.neighbours:.1e}", verdict]


def _largest(difference: np.ndarray) -> float:
    """The largest absolute value; a NaN or an infinity counts as the largest float, which JSON can hold."""
    return _finite(np.abs(difference).max(initial=0.0))


def _finite(value: Any) -> float:
    return float(value) if np.isfinite(value) else float(np.finfo(np.float64).max)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
