import numpy as np
import paddle
import pytest

from dcgan.errors import ParityError
from dcgan.images import to_uint8
from deploy.manifest import ModelError, Signature
from deploy.runtimes import OnnxRuntime
from deploy.seeds import latents
from export import parity
from export.parity import TOLERANCES, Reference, Report, measure, measure_uint8

FP32 = TOLERANCES["fp32", "cpu"]
INPUTS = np.arange(100, dtype=np.float32)[:, None]


def reference_images(inputs):
    """A generator that needs no framework: float32 [N, 3, 4, 4] in [-1, 1], another image for each number."""
    phase = np.arange(48).reshape(3, 4, 4)
    return np.sin(inputs[:, :, None, None] + phase).astype(np.float32)


@pytest.fixture
def reference():
    return Reference(INPUTS, reference_images(INPUTS), reference_images(INPUTS).astype(np.float64))


@pytest.fixture
def measured(reference):
    """measured(run) -> the report on one runtime."""

    def report_on(run, reference=reference, tolerance=FP32):
        report = Report()
        measure(report, "generator.onnx", "some runtime", lambda: run, reference, tolerance)
        return report

    return report_on


def test_an_exact_runtime_passes_at_every_batch_size(measured):
    report = measured(reference_images)
    assert report.passed and [row.batch_size for row in report.rows] == [1, 2, 7, 100]
    row = report.rows[-1]
    assert (row.max, row.mean, row.p999, row.nan, row.inf, row.levels_max, row.neighbours) == (0, 0, 0, 0, 0, 0, 0)
    report.raise_if_failed()


def test_the_figures_are_those_of_the_differences(measured, reference):
    noise = np.random.default_rng(0).uniform(-9e-6, 9e-6, reference.outputs.shape).astype(np.float32)
    noise[-1, 0, 0, 0] = 5e-6
    reference.outputs[-1, 0, 0, 0] = 0.5 / 127.5 - 1  # half way between two levels: any noise decides
    lookup = {float(x): i for i, x in enumerate(INPUTS[:, 0])}

    def run(inputs):
        rows = [lookup[float(x)] for x in inputs[:, 0]]
        return reference.outputs[rows] + noise[rows]

    report = measured(run)
    difference = np.abs(run(INPUTS).astype(np.float64) - reference.outputs)
    row = report.rows[-1]
    assert report.passed, report.problems
    assert (row.max, row.mean) == pytest.approx((difference.max(), difference.mean()))
    assert row.p999 == pytest.approx(np.sort(difference.ravel())[int(0.999 * difference.size)], rel=0.01)
    levels = np.abs(to_uint8(run(INPUTS)).astype(int) - to_uint8(reference.outputs))
    assert row.levels_max == levels.max() == 1 and row.levels_share == pytest.approx((levels > 0).mean())


def failing(kind):
    calls = []

    def run(inputs):
        images = reference_images(inputs)
        if kind == "far":
            images[-1, 0, 0, 0] += 2e-5
        elif kind == "nan":
            images[0, 1, 2, 3] = np.nan
        elif kind == "inf":
            images[0, 1, 2, 3] = np.inf
        elif kind == "channels":
            images = images[:, [2, 1, 0]]
        elif kind == "neighbours":
            images = images - 2e-5 * np.tanh(images.mean(axis=0) + len(images) / 10)
        elif kind == "fixed batch" and len(inputs) != 7:
            raise ModelError("Got invalid dimensions for input: z")
        elif kind == "shape":
            images = images[:, :, :2]
        elif kind == "first batch only":  # a runtime that remembers the shape of its first call
            calls.append(len(inputs))
            images = images[: min(calls)] if len(calls) == 1 else np.resize(images, reference_images(inputs).shape) * 0
        return images

    return run


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("far", ["batch size 1", "max |difference| 2.0e-05 is above 1.0e-05", "from float64"]),
        ("nan", ["batch size 2", "1 NaN and 0 Inf among"]),
        ("inf", ["batch size 7", "0 NaN and 1 Inf among"]),
        ("channels", ["max |difference|", "colour channels in the order [2, 1, 0]"]),
        ("neighbours", ["neighbours in the batch", "BatchNorm in training mode"]),
        (
            "fixed batch",
            ["batch size 1: refused, so its batch axis is not free: Got invalid", "batch size 100: refused"],
        ),
        ("shape", ["answered [7, 3, 2, 4], expected [7, 3, 4, 4]"]),
        ("first batch only", ["batch size 1", "max |difference|"]),
    ],
)
def test_a_wrong_runtime_is_caught_and_named(measured, kind, words):
    report = measured(failing(kind))
    assert not report.passed
    text = "; ".join(report.problems)
    assert all(word in text for word in words), text
    assert all(problem.startswith("generator.onnx in some runtime, batch size ") for problem in report.problems)
    with pytest.raises(ParityError, match="generator.onnx in some runtime, batch size"):
        report.raise_if_failed()


def test_a_model_that_does_not_load_is_a_problem_and_measures_nothing(reference):
    report = Report()

    def load():
        raise ModelError("protobuf parsing failed\nstack trace")

    measure(report, "generator.onnx", "onnxruntime", load, reference, FP32)
    assert report.problems == ["generator.onnx cannot be loaded by onnxruntime: protobuf parsing failed"]


def test_measuring_nothing_is_no_success():
    with pytest.raises(ParityError, match="nothing was measured"):
        Report().raise_if_failed()


def test_many_problems_are_counted_and_the_first_are_told():
    report = Report()
    report.problems = [f"problem {i}" for i in range(9)]
    with pytest.raises(ParityError, match="^problem 0; problem 1; problem 2; problem 3; and 5 more$"):
        report.raise_if_failed()


def test_an_ill_conditioned_network_is_allowed_its_own_rounding_but_not_more(measured, reference):
    shaky = reference._replace(exact=reference.outputs + 1e-4)
    assert parity.allowed_difference(shaky, FP32) == pytest.approx(8e-4, rel=1e-3)
    assert measured(lambda z: reference_images(z) + np.float32(7e-4), shaky, FP32._replace(levels=9)).passed
    assert not measured(lambda z: reference_images(z) + np.float32(9e-4), shaky, FP32._replace(levels=9)).passed


@pytest.mark.parametrize("exact", [2e-3, np.nan])
def test_a_network_that_float32_cannot_hold_is_no_reference(reference, exact):
    report = Report()
    parity.check_reference(report, "generator", reference._replace(exact=reference.exact + exact))
    assert len(report.problems) == 1 and ("not fit for float32" in report.problems[0])


def test_a_trained_network_that_answers_nan_is_named(reference):
    report = Report()
    parity.check_reference(report, "generator", reference._replace(outputs=reference.outputs * np.nan))
    assert "the trained generator itself answers 4,800 times NaN or Inf" in report.problems[0]


def test_uint8_pixels_may_differ_by_one_level_not_by_two(measured, reference):
    loose = FP32._replace(max_abs=0.1)
    assert measured(lambda z: np.clip(reference_images(z) + np.float32(0.007), -1, 1), tolerance=loose).passed
    report = measured(lambda z: np.clip(reference_images(z) + np.float32(0.012), -1, 1), tolerance=loose)
    assert "uint8 pixels differ by up to 2 levels, above 1" in report.problems[0]


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (lambda z: to_uint8(reference_images(z)), None),
        (
            lambda z: np.floor((reference_images(z) + 1) * 127.5).astype(np.uint8),
            "of its pixels are not the float model's",
        ),
        (lambda z: to_uint8(reference_images(z)).astype(np.float32), "answered float32"),
    ],
)
def test_a_uint8_model_must_equal_the_float_model_rounded(pixels, problem):
    report = Report()
    measure_uint8(report, "generator-uint8.onnx", "onnxruntime", lambda: pixels, lambda: reference_images, INPUTS)
    if problem:
        assert problem in report.problems[0] and not report.equal
    else:
        assert not report.problems and report.equal == [
            "generator-uint8.onnx in onnxruntime: the float model's images, rounded"
        ]


def test_every_tolerance_has_a_reason_and_half_precision_is_looser():
    assert set(TOLERANCES) == {(p, d) for p in ("fp32", "fp16", "fp16-weights") for d in ("cpu", "gpu")}
    assert all(len(tolerance.why) > 20 for tolerance in TOLERANCES.values())
    assert FP32.max_abs == 1e-5
    assert all(TOLERANCES["fp16", d].max_abs > TOLERANCES["fp32", d].max_abs for d in ("cpu", "gpu"))


def test_the_table_has_one_line_a_row_and_no_two_widths(measured):
    lines = parity.table(measured(failing("nan")).rows).splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["model", "runtime", "batch"] and "1/0" in lines[1]


def test_inputs_are_a_function_of_seeds_alone():
    assert np.array_equal(parity.inputs_for(Signature("z", (8,), "image", (3, 16, 16))), latents(range(100), 8))
    noise = parity.inputs_for(Signature("image", (3, 16, 16), "logit", (1,)))
    assert noise.shape == (100, 3, 16, 16) and noise.dtype == np.float32
    assert -1 <= noise.min() < -0.99 and 0.99 < noise.max() <= 1 and abs(noise.mean()) < 0.01
    assert np.array_equal(noise[3:5], parity.inputs_for(Signature("image", (3, 16, 16), "logit", (1,)), [3, 4]))


# ---- real networks, spoiled -----------------------------------------------------------------------------------------


def report_on(translated, model):
    trained = translated.trained
    reference = parity.reference_of(trained.layer, parity.inputs_for(trained.signature))
    report = Report()
    content = model.SerializeToString()
    measure(
        report, "m.onnx", "onnxruntime", lambda: OnnxRuntime(content, trained.signature, "cpu").run, reference, FP32
    )
    return report


def test_the_float64_reference_is_what_numpy_computes(generator, numpy_generator):
    layer = generator.trained.layer
    z = latents(range(3), 8)
    weights = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    reference = parity.reference_of(layer, z)
    # Paddle holds epsilon as the float32 nearest to 1e-5
    assert np.abs(reference.exact - numpy_generator(weights, z)).max() < 1e-10
    assert reference.outputs.dtype == np.float32 and 0 < reference.rounding < 1e-6
    assert layer.conv_1.weight.dtype == paddle.float32


def test_the_networks_pass_unspoiled(generator, discriminator):
    for translated in (generator, discriminator):
        report = report_on(translated, translated.model)
        assert report.passed and max(row.max for row in report.rows) < 1e-6, report.problems


def test_a_network_in_training_mode_is_no_reference(generator):
    """Its float64 copy is in eval mode, whatever the network is in, and so disagrees."""
    layer, report = generator.trained.layer, Report()
    before = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    layer.train()
    try:
        parity.check_reference(report, "generator", parity.reference_of(layer, latents(range(9), 8)))
    finally:
        layer.eval()
        layer.set_state_dict(before)
    assert "from its own float64 copy" in report.problems[0]


@pytest.mark.parametrize("axis", [0, 1])
def test_two_swapped_channels_are_caught(generator, spoil, axis):
    name = "conv_3.weight" if axis else "conv_2.weight"
    spoil(generator.model, name, lambda w: w.take([1, 0, *range(2, w.shape[axis])], axis=axis))
    report = report_on(generator, generator.model)
    assert not report.passed
    assert ("colour channels in the order [1, 0, 2]" in report.problems[0]) == (axis == 1)


def test_a_weight_one_per_cent_off_is_caught(generator, spoil):
    def change(weight):
        weight.flat[np.abs(weight).argmax()] *= 1.01
        return weight

    report = report_on(generator, spoil(generator.model, "conv_3.weight", change))
    assert "m.onnx in onnxruntime, batch size 100: max |difference|" in "; ".join(report.problems)


def test_a_batch_norm_left_in_training_mode_is_caught(generator):
    trained = generator.trained
    reference = parity.reference_of(trained.layer, parity.inputs_for(trained.signature))
    report = Report()
    trained.layer.train()
    before = {name: tensor.numpy() for name, tensor in trained.layer.state_dict().items()}
    try:
        measure(report, "generator", "dygraph", lambda: parity.run_layer(trained.layer), reference, FP32)
    finally:
        trained.layer.eval()
        trained.layer.set_state_dict(before)
    assert "neighbours in the batch" in "; ".join(report.problems)


def test_a_lost_batch_axis_is_caught(generator):
    for value in (*generator.model.graph.input, *generator.model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 7
    report = report_on(generator, generator.model)
    assert "cannot be loaded by onnxruntime" in report.problems[0] and "'batch'" in report.problems[0]


def test_a_wrong_slope_is_caught(discriminator):
    node = next(n for n in discriminator.model.graph.node if n.op_type == "LeakyRelu")
    node.attribute[0].f = 0.21
    report = report_on(discriminator, discriminator.model)
    assert "max |difference|" in report.problems[0]
