import copy
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import paddle
import pytest
from onnx import numpy_helper

from dcgan.checkpoints.params import read_params
from dcgan.compute_plan import ComputePlan
from dcgan.config import TrainConfig
from dcgan.errors import CheckpointError, ExportError, ParityError
from dcgan.images import TITLE_HEIGHT, grid, to_uint8
from dcgan.train import train
from deploy.manifest import read_manifest, verify_files
from deploy.runtimes import load_discriminator, load_generator
from deploy.seeds import latents
from deploy.verify import verify
from export import certificate, exporter, onnx_graph, static_graph
from export.exporter import ExportConfig, export, export_params
from export.load_weights import load_source
from tests.tiny import TINY


@pytest.fixture
def converted_before(translated, monkeypatch):
    """The converter takes seconds and has its own tests: hand out what it made of the same networks."""

    def convert(prefix, opset, operators):
        return copy.deepcopy(translated[Path(prefix).name].converted)

    monkeypatch.setattr(exporter, "convert", convert)


@pytest.fixture
def export_config(runs, converted_before):
    """export_config(**changes): what the tests mostly export. Without precise_bn: the model at hand has none."""
    return lambda **changes: ExportConfig(**{"checkpoint": runs, "precise_bn": 0, **changes})


def digests(folder):
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def everything(runs, tmp_path_factory):
    """One real export of everything, converter included."""
    out = tmp_path_factory.mktemp("everything") / "export"
    before = digests(runs)
    export_config = ExportConfig(runs, ("paddle", "onnx"), ("generator", "discriminator"), precise_bn=4, uint8=True)
    export(out, export_config)
    assert digests(runs) == before  # precise_bn does not touch the checkpoint
    return out


def generated(layer, seeds):
    with paddle.no_grad():
        return layer(paddle.to_tensor(latents(seeds, 8))).numpy()


def test_the_folder_holds_what_was_asked_for_and_a_manifest_that_deploy_reads(everything):
    manifest = read_manifest(everything)
    verify_files(everything, manifest)
    assert {path.name for path in everything.iterdir()} == {*manifest.files, "manifest.json"}
    assert [(m.network, m.kind, m.precision, m.output_dtype, m.files) for m in manifest.models] == [
        ("generator", "onnx", "fp32", "float32", ("generator.onnx",)),
        ("generator", "onnx", "fp32", "uint8", ("generator-uint8.onnx",)),
        ("generator", "paddle", "fp32", "float32", ("generator.json", "generator.pdiparams")),
        ("discriminator", "onnx", "fp32", "float32", ("discriminator.onnx",)),
        ("discriminator", "paddle", "fp32", "float32", ("discriminator.json", "discriminator.pdiparams")),
    ]
    assert manifest.checkpoint == {"step": 4, "run": "00000-noise", "network": "generator_ema, discriminator"}
    assert (manifest.latent_dim, manifest.image_size, manifest.precise_bn["latents"]) == (8, 16, 256)
    assert manifest.versions["paddle"] == paddle.__version__ and manifest.versions["paddle2onnx"] == "2.1.0"
    assert (manifest.models[0].opset, manifest.models[0].ir_version) == (17, 8)


def test_nothing_in_the_folder_tells_of_the_machine(everything, runs):
    for path in everything.iterdir():
        content = path.read_bytes()
        assert (
            b"somebody" not in content and str(runs).encode() not in content and str(everything).encode() not in content
        )
        assert str(Path(exporter.__file__).parents[1]).encode() not in content


def test_the_certificate_covers_every_runtime_and_batch_size(everything):
    parity = read_manifest(everything).parity
    measured = {(row["model"], row["runtime"]) for row in parity["rows"]}
    paddle_runtimes = ["static program", "Paddle Inference", "Paddle Inference, oneDNN"]
    assert measured == {
        (model, runtime)
        for name in ("generator", "discriminator")
        for model, runtimes in (
            (name, ["dygraph"]),
            (f"{name}.onnx", ["onnxruntime"]),
            (f"{name}.json", paddle_runtimes),
        )
        for runtime in runtimes
    }
    assert all(
        [row["batch_size"] for row in parity["rows"] if (row["model"], row["runtime"]) == pair] == [1, 2, 7, 100]
        for pair in measured
    )
    assert parity["passed"] is True and max(row["max"] for row in parity["rows"]) < 1e-5
    assert len(parity["equal"]) == 6 and "generator-uint8.onnx in onnxruntime" in parity["equal"][1]
    assert parity["tolerances"]["fp32"]["max_abs"] == 1e-5


def test_deploy_generates_the_same_faces_with_both_backends(everything):
    with np.load(everything / "reference.npz") as reference:
        seeds, images = reference["seeds"], reference["images"]
    assert seeds.tolist() == list(range(10)) and images.dtype == np.float32
    for backend in ("onnxruntime", "paddle"):
        generated = load_generator(everything, backend, "cpu").generate(seeds)
        assert np.abs(generated - images).max() < 1e-6
        assert load_discriminator(everything, backend, "cpu").run(generated).shape == (10, 1)


def test_the_reference_is_what_the_manifest_vouches_for(everything):
    reference = read_manifest(everything).parity["reference"]
    with np.load(everything / "reference.npz") as arrays:
        pixels = np.rint((arrays["images"] + 1) * 127.5).astype(np.uint8)
    assert reference["file"] == "reference.npz" and reference["seeds"] == list(range(10))
    assert reference["sha256_uint8"] == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_without_precise_bn_the_statistics_are_those_of_training(runs, export_config, tmp_path):
    manifest = export(tmp_path / "out", export_config())
    assert manifest.precise_bn is None
    layer = load_source(runs).networks["generator"].layer
    images = load_generator(tmp_path / "out", device="cpu").generate(range(5))
    assert np.abs(images - generated(layer, range(5))).max() < 1e-6


def test_the_same_settings_give_the_same_models_to_the_byte(export_config, tmp_path):
    for name in ("a", "b"):
        export(tmp_path / name, export_config(uint8=True))
    a, b = digests(tmp_path / "a"), digests(tmp_path / "b")
    del a[Path("manifest.json")], b[Path("manifest.json")]
    assert a == b and len(a) == 4
    # the figures of parity are measured with threads, which may round differently from time to time
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("a", "b")]
    for manifest in manifests:
        del manifest["parity"]["rows"]
    assert manifests[0] == manifests[1]


def test_half_precision_has_its_own_name_and_tolerance(export_config, tmp_path):
    manifest = export(tmp_path / "out", export_config(precision="fp16", uint8=True))
    assert [m.files for m in manifest.models] == [("generator-fp16.onnx",), ("generator-fp16-uint8.onnx",)]
    assert {m.precision for m in manifest.models} == {"fp16"}
    worst = max(row["max"] for row in manifest.parity["rows"])
    assert 1e-6 < worst <= manifest.parity["tolerances"]["fp16"]["max_abs"]


def test_both_networks_can_store_their_weights_as_float16_and_compute_in_float32(export_config, tmp_path):
    networks = ("generator", "discriminator")
    half = export(tmp_path / "half", export_config(networks=networks, precision="fp16-weights", uint8=True))
    assert {m.precision for m in half.models} == {"fp16-weights"}
    for network in networks:
        model = onnx.load(tmp_path / "half" / f"{network}.onnx")
        weights = [array for array in model.graph.initializer if array.name.endswith(".weight")]
        assert weights and {array.data_type for array in weights} == {onnx.TensorProto.FLOAT16}
    assert [row.passed for row in verify(tmp_path / "half")] == [True]


def test_params_are_the_tutorials_file_and_leave_the_rest_of_the_folder_alone(runs, export_config, tmp_path):
    out = tmp_path / "out"
    export(out, export_config())
    before = digests(out)
    path = export_params(out, export_config(formats=()))
    assert path == out / "generator.params"
    assert {name: d for name, d in digests(out).items() if name.name != "generator.params"} == before
    weights, trained = read_params(path), load_source(runs).networks["generator"].layer.state_dict()
    assert weights.keys() == trained.keys()
    assert all(np.array_equal(weights[name], trained[name].numpy()) for name in trained)
    loaded = paddle.load(str(path))
    assert np.array_equal(loaded["conv_1.weight"], weights["conv_1.weight"])
    kept = path.read_bytes()
    export(
        out, export_config(checkpoint=path)
    )  # the next export takes the folder all the same, and its source survives
    assert path.read_bytes() == kept and read_manifest(out).checkpoint["network"] == "generator.params"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"networks": ("discriminator",)}, "generator.params holds the generator alone"),
        ({"precise_bn": -1}, "precise_bn must be from 0 to 500"),
        ({"precision": "fp16"}, "fp16 is for ONNX"),
        ({"uint8": True}, "uint8 is a form of the ONNX generator"),
    ],
)
def test_params_of_what_they_cannot_hold_are_refused(export_config, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        export_params(tmp_path / "out", export_config(formats=(), **changes))
    assert not (tmp_path / "out").exists()


def test_params_replace_those_of_an_export_and_no_others(runs, export_config, tmp_path):
    """The user's own generator.params was replaced; that of a training run is his only copy, too."""
    config, path = export_config(formats=()), tmp_path / "generator.params"
    for own in (b"mine", (next(runs.rglob("generator.params"))).read_bytes()):
        path.write_bytes(own)
        with pytest.raises(FileExistsError, match="give another --out"):
            export_params(tmp_path, config)
        assert path.read_bytes() == own
        path.unlink()
    first = export_params(tmp_path, config).read_bytes()
    assert export_params(tmp_path, config).read_bytes() == first


def test_params_of_both_networks_are_the_generators(export_config, tmp_path):
    path = export_params(tmp_path, export_config(formats=(), networks=("generator", "discriminator")))
    assert set(read_params(path)) == set(read_params(export_params(tmp_path / "alone", export_config(formats=()))))


def test_params_hold_re_estimated_statistics_by_default(runs, export_config, tmp_path):
    weights = read_params(export_params(tmp_path, export_config(precise_bn=2)))
    trained = load_source(runs).networks["generator"].layer.state_dict()
    changed = {name for name in trained if not np.array_equal(weights[name], trained[name].numpy())}
    first, second = ({f"bn_{i}.{part}" for part in ("_mean", "_variance")} for i in (1, 2))
    assert second <= changed <= first | second  # the first layer is linear: more latents change it by rounding alone


# ---- exports that must not happen ----------------------------------------------------------------------------------


@pytest.fixture
def refused(export_config, tmp_path):
    """refused(**changes) -> the message of the ParityError; the last good export is untouched and nothing is left."""
    out = tmp_path / "out"
    export(out, export_config())
    before = digests(tmp_path)

    def attempt(error=ParityError, **changes):
        with pytest.raises(error) as caught:
            export(out, export_config(**changes))
        assert digests(tmp_path) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "out"]
        return str(caught.value)

    return attempt


@pytest.fixture
def spoiled(monkeypatch):
    """spoiled(change): the cleaned ONNX model goes through change(model) before it is written."""

    def install(change):
        clean = onnx_graph.clean

        def clean_and_spoil(*args):
            model = clean(*args)
            change(model)
            return model

        monkeypatch.setattr(onnx_graph, "clean", clean_and_spoil)

    return install


def replace(model, name, change):
    initializer = next(i for i in model.graph.initializer if i.name == name)
    initializer.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(initializer).copy()), name))


def one_per_cent(weight):
    weight.flat[np.abs(weight).argmin()] *= 1.01  # the least of all: far below what an image could show
    return weight


@pytest.mark.parametrize(
    ("network", "change", "words"),
    [
        (
            "generator",
            lambda m: replace(m, "conv_2.weight", one_per_cent),
            ["generator.onnx: conv_2.weight differs in 1 of"],
        ),
        (
            "generator",
            lambda m: replace(m, "conv_3.weight", lambda w: w[:, [2, 1, 0]]),
            ["generator.onnx in onnxruntime, batch size 100", "colour channels in the order [2, 1, 0]"],
        ),
        (
            "discriminator",
            lambda m: setattr(m.graph.node[1].attribute[0], "f", 0.25),
            ["discriminator.onnx in onnxruntime, batch size 100: max |difference|"],
        ),
    ],
    ids=["one weight by one per cent", "two channels", "a slope"],
)
def test_a_spoiled_model_is_named_and_replaces_nothing(refused, spoiled, caplog, network, change, words):
    spoiled(change)
    message = refused(networks=(network,))
    assert all(word in message for word in words), message
    assert "onnxruntime" in caplog.text and "neighbours" in caplog.text  # the table is told, though nothing is kept


def test_bisect_names_the_first_layer_that_differs(refused, spoiled):
    spoiled(lambda model: setattr(model.graph.node[1].attribute[0], "f", 0.25))
    message = refused(networks=("discriminator",))
    assert message.startswith("discriminator.onnx: the first layer that differs is leaky_relu_1 (LeakyRelu), by ")


def test_a_lost_batch_axis_is_named(refused, monkeypatch):
    def fixed(*args):
        model = clean(*args)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 100
        return model

    clean = onnx_graph.clean
    monkeypatch.setattr(onnx_graph, "clean", fixed)
    assert "'z': (1, [100, 8])" in refused(ExportError)


def test_a_batch_norm_left_in_training_mode_is_named(refused, monkeypatch):
    """The network itself stays in training mode: what Paddle writes, and what it answers, are both looked at."""
    monkeypatch.setattr(paddle.nn.Layer, "eval", lambda self: None)
    build = exporter.load_source

    def in_training_mode(*args):
        source = build(*args)
        source.networks["generator"].layer.train()
        return source

    monkeypatch.setattr(exporter, "load_source", in_training_mode)
    assert "in training mode although eval() was called" in refused(ExportError)


def test_a_spoiled_paddle_program_is_named(refused, monkeypatch):
    write = static_graph.write_static_graph

    def write_another(layer, signature, prefix):
        kept = layer.conv_2.weight.numpy()
        layer.conv_2.weight.set_value(one_per_cent(kept.copy()))
        write(layer, signature, prefix)
        layer.conv_2.weight.set_value(kept)

    monkeypatch.setattr(static_graph, "write_static_graph", write_another)
    assert "generator.pdiparams: conv_2.weight differs in 1 of 512 numbers" in refused(formats=("paddle",))


def test_a_uint8_model_that_rounds_otherwise_is_named(refused, monkeypatch):
    with_uint8 = onnx_graph.with_uint8

    def cut_off(model, signature):
        model = with_uint8(model, signature)
        next(n for n in model.graph.node if n.name == "round").op_type = "Relu"
        return model

    monkeypatch.setattr(onnx_graph, "with_uint8", cut_off)
    message = refused(uint8=True)
    assert "generator-uint8.onnx in onnxruntime: " in message and "not the float model's, rounded" in message


def test_a_runtime_that_breaks_is_a_breach(refused, monkeypatch):
    class Broken:
        def __init__(self, content, signature, device):
            self.device = device

        def run(self, inputs):
            raise certificate.ModelError("the kernel is not implemented")

    monkeypatch.setattr(certificate, "OnnxRuntime", Broken)
    assert "batch size 100: refused" in refused() and "the kernel is not implemented" in refused()


def test_a_model_that_onnxruntime_cannot_open_is_a_breach(refused, monkeypatch):
    def refuse(*args, **kwargs):
        raise onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented("no kernel for Relu(99)")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    assert "cannot be loaded by onnxruntime" in refused() and "no kernel for Relu(99)" in refused()


def test_figures_of_a_gpu_are_not_measured_on_a_cpu(refused, monkeypatch):
    pretended = ComputePlan("gpu:0", "paddle", "O0", "float32", threads=1, deterministic=False, tf32=False)
    monkeypatch.setattr(exporter, "inference_plan", lambda device: pretended)
    monkeypatch.setattr(ComputePlan, "apply", lambda plan: None)
    assert "onnxruntime cannot use the gpu here" in refused(device="gpu")


def test_a_checkpoint_that_is_not_there_replaces_nothing(refused, tmp_path):
    assert "nothing to export" in refused(CheckpointError, checkpoint=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "fp16", "formats": ("paddle", "onnx")}, "fp16 is for ONNX"),
        ({"uint8": True, "formats": ("paddle",)}, "uint8 is a form of the ONNX generator"),
        ({"uint8": True, "networks": ("discriminator",)}, "uint8 is a form of the ONNX generator"),
        ({"opset": 12}, "opset must be from 13 to 21, received 12"),
        ({"precise_bn": -1}, "precise_bn must be from 0 to 500 batches of latents, received -1"),
        ({"precise_bn": 501}, "precise_bn must be from 0 to 500 batches of latents, received 501"),
    ],
)
def test_settings_that_exclude_each_other_are_refused_first(refused, changes, words):
    assert words in refused(ValueError, **changes)


def test_the_last_training_grid_shows_the_images_that_the_export_generates(tmp_path, monkeypatch):
    """One re-estimation of BatchNorm statistics serves both: at most one level of 256 differs."""
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(data="cartoon:64", **TINY, batch_size=16, steps=20)
    run = train(config).folder
    export("export", ExportConfig(run))
    generated = to_uint8(load_generator("export", "onnxruntime", "cpu").generate(range(100)))
    shown = cv2.imread(str(run / "samples" / "step-00000020.png"))[TITLE_HEIGHT:, :, ::-1].transpose(2, 0, 1)
    difference = np.abs(shown.astype(int) - grid(generated, columns=10).astype(int))
    assert difference.max() <= 1 and np.ptp(generated.astype(int), axis=0).max() > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": "onnx"}, "formats must be a list of paddle, onnx, web, received 'onnx'"),
        ({"formats": ["onxx"]}, "received .'onxx'."),
        ({"formats": ()}, "nothing to export"),
        ({"networks": ["g"]}, "networks must be a list of generator, discriminator"),
        ({"precision": "fp8"}, "precision must be one of fp32, fp16-weights, fp16, received 'fp8'"),
    ],
)
def test_words_that_no_setting_knows_are_refused(export_config, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "out", export_config(**changes))
    assert not (tmp_path / "out").exists()
