import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dcgan import DCGAN, TrainConfig
from dcgan.callbacks.metrics_log import History, read_records
from dcgan.checkpoints.params import write_params
from dcgan.data.prepare import prepare
from dcgan.errors import EvaluationError, ProjectError
from dcgan.images import to_uint8, write_png
from dcgan.training.state import network_arrays
from deploy.files import write_json
from deploy.manifest import Manifest, ModelEntry, describe_files, write_manifest
from tests.tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
tool = importlib.import_module("tools.evaluate")


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A folder with packed faces and an untrained run on them, as tools/train.py leaves one."""
    root = tmp_path_factory.mktemp("user")
    data = prepare("cartoon:60", root / "faces.npy", image_size=16, workers=1)
    config = TrainConfig(data=str(root / "faces.npy"), **TINY, ema=0.9)
    model = DCGAN(config)
    run = root / "work" / "train" / "00000-faces"
    extra = {"config": config.to_json(), "data": {"digest": data.digest, "count": 60}}
    model.save(run / "checkpoints" / "step-00000000", extra=extra)
    write_json(run / "config.json", config.to_json())
    write_params(run / "generator.params", network_arrays(model.network))
    images = to_uint8(model.generate(range(40)))
    (root / "generated").mkdir()
    for i, image in enumerate(images):
        write_png(root / "generated" / f"seed-{i:06}.png", image)
    write_png(root / "generated" / "grid.png", np.zeros((3, 80, 80), np.uint8))
    np.save(root / "generated.npy", images)
    return root


@pytest.fixture
def evaluate(user, monkeypatch, capsys):
    """evaluate(*flags): what tools/evaluate.py prints on stdout, run in the user's folder."""
    monkeypatch.chdir(user)

    def call(*flags):
        assert tool.main([*map(str, flags), "--device", "cpu"]) == 0
        return capsys.readouterr().out

    return call


def test_the_newest_run_is_measured_against_its_own_images(evaluate, user):
    run = user / "work" / "train" / "00000-faces"
    text = evaluate("--n", 40)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:5]] == [
        "swd", "swd_16", "ms_ssim", "ms_ssim_real", "nearest_ratio"
    ]  # fmt: skip
    assert "seeds 0-39" in text and "generator_ema" in text and "crop tutorial" in text
    report = json.loads((run / "evaluate.json").read_text())
    assert report["target"]["step"] == 0 and report["protocol"]["n_real"] == 40
    assert (run / "nearest.png").read_bytes().startswith(b"\x89PNG")
    assert read_records(run / "metrics.jsonl")[-1] == {"step": 0, "evaluate": report}


@pytest.mark.parametrize("name", ["evaluate.json", "nearest.png"])
def test_a_file_of_the_users_own_is_kept_and_one_of_ours_replaced(evaluate, user, tmp_path, name, monkeypatch):
    flags = ("--real-vs-real", "--data", "faces.npy", "--image-size", 16, "--n", 20, "--out", tmp_path / "out")
    for _ in range(2):
        evaluate(*flags)
    (tmp_path / "out" / name).write_bytes(b'{"figures": "mine"}')
    monkeypatch.setattr("tools.evaluation_targets.open_data", lambda *_: pytest.fail("prepared for nothing"))
    with pytest.raises(FileExistsError, match="give another --out"):
        evaluate(*flags)
    assert (tmp_path / "out" / name).read_bytes() == b'{"figures": "mine"}'


def test_the_line_in_metrics_stays_there_and_is_no_record_of_training(evaluate, user):
    metrics = user / "work" / "train" / "00000-faces" / "metrics.jsonl"
    evaluate("--n", 20)
    before = metrics.read_text()
    assert History(metrics, 5).records == [] and metrics.read_text() == before


def test_all_forms_of_a_generator_give_the_same_figures(evaluate, user):
    """A run, its checkpoint, its generator.params, and the images that it drew: folder, zip and packed."""
    import shutil

    run = user / "work" / "train" / "00000-faces"
    archive = shutil.make_archive(str(user / "generated"), "zip", user / "generated")
    against = ["--data", user / "faces.npy", "--n", 40, "--json", "--out", user / "out"]
    reports = [
        json.loads(evaluate(*flags, *against))
        for flags in (
            ["--checkpoint", run],
            ["--checkpoint", run / "checkpoints" / "step-00000000"],
            ["--checkpoint", run / "generator.params"],
            ["--images", user / "generated", "--image-size", 16],
            ["--images", archive, "--image-size", 16],
            ["--images", user / "generated.npy"],
        )
    ]
    assert all(report["figures"] == reports[0]["figures"] for report in reports)
    assert all(report["protocol"] == reports[0]["protocol"] for report in reports)
    assert len({report["target"]["pixels_sha256"] for report in reports}) == 1


@pytest.fixture
def exported(tmp_path):
    """An export folder with a generator whose images are one grey tone per seed: tanh of the first latent."""
    weights = np.zeros((8, 3, 16, 16), np.float32)
    weights[0] = 1
    nodes = [
        helper.make_node("Unsqueeze", ["z", "axes"], ["pixel"]),
        helper.make_node("ConvTranspose", ["pixel", "w"], ["logits"], kernel_shape=[16, 16]),
        helper.make_node("Tanh", ["logits"], ["image"]),
    ]
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    folder = tmp_path / "export"
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name in ("generator.onnx", "generator-uint8.onnx"):
        onnx.save(model, folder / name)
    manifest = Manifest(
        latent_dim=8,
        image_size=16,
        models=(ModelEntry("generator", "onnx", ("generator.onnx",)),),
        files=describe_files(folder, ["generator.onnx"]),
        checkpoint={"step": 7, "run": "00000-faces", "network": "generator_ema"},
        config={"data": "faces.npy", "crop": "tutorial"},
    )
    write_manifest(folder, manifest)
    return folder


def test_an_exported_model_is_drawn_by_its_own_runtime_and_torch_fidelitys_command_is_told(evaluate, user, exported):
    text = evaluate("--model", exported, "--n", 20)
    report = json.loads((user / "work" / "evaluate" / "evaluate.json").read_text())
    assert report["target"]["runtime"] == "onnxruntime" and report["target"]["step"] == 7
    assert report["figures"]["ms_ssim"] > 0.5  # grey images are alike
    assert (
        text.splitlines()[-1].split()
        == (
            f"fidelity --cpu --fid --kid --input1 {exported}/generator-uint8.onnx --input1-model-z-type normal "
            "--input1-model-z-size 8 --input1-model-num-samples 20 --input2 REAL"
        ).split()
    )
    assert not (exported / "evaluate.json").exists()


def test_real_vs_real_is_lower_than_any_generator_and_real_images_are_saved_for_other_tools(evaluate, user, tmp_path):
    run = json.loads(evaluate("--n", 30, "--json"))["figures"]
    flags = ["--real-vs-real", "--data", user / "faces.npy", "--image-size", 16, "--out", tmp_path / "baseline"]
    report = json.loads(evaluate(*flags, "--n", 30, "--json", "--save-real", tmp_path / "real"))
    baseline = report["figures"]
    assert report["target"]["kind"] == "real-vs-real"
    assert baseline["swd"] < 0.5 * run["swd"] and 0.5 < baseline["nearest_ratio"] < 2
    assert len(list((tmp_path / "real").glob("*.png"))) == 30
    same = json.loads(evaluate("--images", tmp_path / "real", *flags[1:], "--n", 30, "--json"))
    assert same["figures"]["swd"] < baseline["swd"] and same["figures"]["nearest_ratio"] == 0


def test_the_old_spellings_of_flags_mean_what_they_meant_and_are_not_advertised():
    assert not {"--pictures", "--floor"} & set(tool.parser().format_help().replace(",", " ").split())
    old = tool.parser().parse_args(["--pictures", "faces", "--data", "cartoon"])
    assert old == tool.parser().parse_args(["--images", "faces", "--data", "cartoon"])
    assert tool.parser().parse_args(["--floor"]) == tool.parser().parse_args(["--real-vs-real"])


def test_a_figure_is_compared_with_an_earlier_one_of_its_protocol_only(evaluate, user, tmp_path):
    evaluate("--n", 20, "--out", tmp_path)
    text = evaluate("--n", 20, "--seed", 100, "--out", tmp_path / "now", "--compare", tmp_path)
    assert any(word.startswith(("+", "-")) for word in text.splitlines()[0].split())
    with pytest.raises(EvaluationError, match="not compared: .*n_real: 20, 30"):
        evaluate("--n", 30, "--out", tmp_path / "other", "--compare", tmp_path)
    assert (tmp_path / "other" / "evaluate.json").is_file()  # what was measured is not lost
    earlier = (tmp_path / "evaluate.json").read_text()
    with pytest.raises(EvaluationError, match="not compared"):
        evaluate("--n", 30, "--out", tmp_path, "--compare", tmp_path)
    assert (tmp_path / "evaluate.json").read_text() == earlier


def test_a_feature_network_adds_its_figures_and_stands_in_the_protocol(evaluate, user, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
         helper.make_node("Flatten", ["pooled"], ["features"])],
        "features",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", "d"])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "f.onnx")
    flags = ["--inception", tmp_path / "f.onnx", "--inception-range=0,1", "--n", 20, "--out", tmp_path, "--json"]
    report = json.loads(evaluate(*flags))
    assert {"fid", "kid", "kid_std", "precision", "recall"} < set(report["figures"])
    assert report["protocol"]["features"]["range"] == [0, 1] and len(report["protocol"]["features"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--checkpoint", "nowhere"], "nothing to evaluate at nowhere"),
        (["--model", "nowhere"], "the model folder nowhere does not exist"),
        (["--images", "nowhere"], "there is no nowhere"),
        (
            ["--images", "generated", "--data", "faces.npy", "--n", "60", "--image-size", "16"],
            "n must be from 10 to 40, .* received 60",
        ),
        (["--data", "cartoon:6"], "at least 10 images of each side are needed, and one of them has 6"),
        (["--n", "61"], "from 10 to 60, as many images as both sides have; received 61"),
        (["--n", "9"], "from 10 to 60, .* received 9"),
        (["--n", "-5"], "received -5"),
        (["--seed", "-1"], "a seed must be"),
        (["--seed", "4294967290"], "a seed must be"),
        (["--image-size", "32"], "--image-size is 32, and what is measured was made with 16"),
        (["--crop", "center"], "--crop is center, and what is measured was made with tutorial"),
        (["--images", "generated"], "Name the data set with --data"),
        (["--images", "generated", "--data", "faces.npy"], "Give --image-size 16"),
        (["--data", "nowhere.zip"], "there is no nowhere.zip"),
        (["--inception", "faces.npy"], "faces.npy is not an ONNX file"),
        (["--inception", "nowhere.onnx"], "nowhere.onnx"),
        (["--compare", "faces.json"], "faces.json is not a report"),
        (["--inception-output", "features"], "they need --inception"),
        (["--inception-range=0,1"], "they need --inception"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--save-real", "generated", "--n", "10"], "generated is not empty"),
        (["--real-vs-real"], "Name the data set with --data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_gives_one_clear_line(user, monkeypatch, capsys, flags, told):
    from tools.console import run

    monkeypatch.chdir(user)
    with pytest.raises(SystemExit) as caught:
        run(tool.main, [*flags, "--device", "cpu", "--out", str(user / "errors")])
    answer = capsys.readouterr()
    last = answer.err.strip().splitlines()[-1]
    assert caught.value.code == 1 and last.startswith("error: ") and "Traceback" not in answer.err
    import re

    assert re.search(told, last), last
    assert answer.out == ""


@pytest.mark.parametrize("text", ["1", "0,0", "nan,1", "0,1e9", "a,b"])
def test_a_range_of_pixels_is_two_different_numbers(text, capsys):
    with pytest.raises(SystemExit) as caught:
        tool.parser().parse_args(["--inception-range", text])
    assert caught.value.code == 2 and f"expected, received '{text}'" in capsys.readouterr().err


def test_a_run_whose_images_changed_is_not_measured_against_them_unawares(evaluate, user, tmp_path, caplog):
    import shutil

    run = tmp_path / "00000-faces"
    shutil.copytree(user / "work" / "train" / "00000-faces", run)
    other = prepare("cartoon:50", tmp_path / "other.npy", image_size=16, workers=1)
    state = run / "checkpoints" / "step-00000000"
    config = TrainConfig(data=str(other.path), **TINY, ema=0.9)
    shutil.rmtree(state)
    DCGAN(config).save(state, extra={"config": config.to_json(), "data": {"digest": "0" * 64, "count": 50}})
    with pytest.raises(ProjectError, match="does not hold the images that this was trained on"):
        evaluate("--checkpoint", run, "--n", 20)
    evaluate("--checkpoint", run, "--n", 20, "--data", other.path)
    assert "measuring against it" in caplog.text


def test_help_shows_defaults_and_examples_without_importing_paddle(tmp_path):
    command = [sys.executable, "-X", "importtime", str(ROOT / "tools" / "evaluate.py"), "--help"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0 and " paddle\n" not in answer.stderr and " numpy\n" not in answer.stderr
    text = " ".join(answer.stdout.split())
    assert text.count("python tools/evaluate.py") >= 5 and "(default: 0)" in text and "work/evaluate" in text
