import importlib.metadata
import json
import os
import sys

import onnx
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from dcgan.errors import ExportError
from deploy.manifest import Signature
from export import converter
from export.converter import convert
from export.static_graph import Operator, read_operators, write_static_graph

LERP = [Operator("conv2d", "conv_1", {}), Operator("lerp", "conv_1", {})]


@pytest.fixture
def child(tmp_path, monkeypatch):
    """child(code): let this code be the converter. It knows `prefix`, `model`, `opset`."""

    def replace(code):
        script = tmp_path / "child.py"
        script.write_text(f"import os, sys, time\nprefix, model, opset = sys.argv[1:]\n{code}\n")
        monkeypatch.setattr(converter, "CHILD", script)

    return replace


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.abort()", "ended by signal 6 on lerp (at conv_1)"),
        ("sys.exit(-1)", "exited with 255 on lerp (at conv_1)"),
        ("raise TypeError('no converter')", "exited with 1 on lerp (at conv_1): TypeError: no converter"),
        (
            "print('[ERROR][Paddle2ONNX] [OP: pd_op.conv2d] NHWC'); os.abort()",
            "on conv2d (at conv_1): [OP: pd_op.conv2d]",
        ),
        ("pass", "wrote nothing on lerp"),
        ("open(model, 'w')", "wrote nothing"),
        ("open(model, 'w').write('garbage' * 99)", "not ONNX"),
        ("import onnx; open(model, 'wb').write(onnx.ModelProto(ir_version=8).SerializeToString())", "not ONNX"),
    ],
)
def test_whatever_the_converter_does_is_one_error_with_layer_and_operator(tmp_path, child, code, message):
    child(code)
    before = set(os.listdir(tmp_path))
    with pytest.raises(ExportError) as caught:
        convert(tmp_path / "generator", 17, LERP)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert set(os.listdir(tmp_path)) == before


def test_a_converter_that_hangs_is_stopped(tmp_path, child):
    child("time.sleep(60)")
    with pytest.raises(ExportError, match="did not end within 0.5 seconds"):
        convert(tmp_path / "generator", 17, LERP, time_limit_seconds=0.5)


def test_the_converter_is_kept_from_the_network_and_from_installing(tmp_path, child):
    child("import json; print('[ERROR][Paddle2ONNX] X ' + json.dumps(dict(os.environ))[:0]); "
          "json.dump(dict(os.environ), open('env.json', 'w')); sys.exit(1)")  # fmt: skip
    with pytest.raises(ExportError):
        convert(tmp_path / "generator", 17, LERP)
    env = json.loads((tmp_path / "env.json").read_text())
    assert env["POLYGRAPHY_AUTOINSTALL_DEPS"] == "0" and env["PIP_NO_INDEX"] == "1"
    assert env["https_proxy"] == env["HTTP_PROXY"] == "http://127.0.0.1:9"


@pytest.mark.parametrize("opset", [12, 22])
def test_an_opset_out_of_range_is_refused_before_anything_runs(tmp_path, opset):
    with pytest.raises(ValueError, match=f"13 to 21, received {opset}"):
        convert(tmp_path / "generator", opset, LERP)


class Unknown(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv_1 = nn.Conv2D(3, 4, 3)

    def forward(self, image):
        x = self.conv_1(image)
        return paddle.lerp(x, x * 2, 0.5)


def test_an_operator_that_paddle2onnx_does_not_know_is_named_with_its_layer(tmp_path):
    layer = Unknown()
    write_static_graph(layer, Signature("image", (3, 8, 8), "out", (4, 6, 6)), tmp_path / "unknown")
    with pytest.raises(ExportError, match=r"signal 6 on .*lerp \(at conv_1\)"):
        convert(tmp_path / "unknown", 17, read_operators(tmp_path / "unknown", layer))
    assert sorted(os.listdir(tmp_path)) == ["unknown.json", "unknown.pdiparams"]


def installed():
    importlib.invalidate_caches()
    return {(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()}


@pytest.mark.parametrize("opset", [13, 21])
def test_conversion_leaves_the_installed_packages_and_the_folder_as_they_were(translated, tmp_path, opset):
    trained = translated["generator"].trained
    paddle.jit.save(trained.layer, str(tmp_path / "g"), input_spec=[InputSpec([None, 8], "float32", "z")])
    packages, files = installed(), set(os.listdir(tmp_path))
    model = convert(tmp_path / "g", opset, translated["generator"].operators)
    assert model.opset_import[0].version == opset
    assert installed() == packages and set(os.listdir(tmp_path)) == files
    onnx.checker.check_model(model, full_check=True)


def test_files_of_export_cannot_stand_in_for_installed_packages():
    code = converter.CHILD.read_text()
    assert code.index("del sys.path[0]") < code.index("import paddle2onnx")
    names = {path.stem for path in converter.CHILD.parent.glob("*.py")}
    assert not names & (set(sys.stdlib_module_names) if hasattr(sys, "stdlib_module_names") else set())
    assert not names & {"onnx", "paddle", "paddle2onnx", "onnxruntime", "numpy"}


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (
            (3, 8),
            "which have no packages for Python {}. Export the same checkpoint with Python 3.9 to 3.8, or use "
            "--format paddle.",
        ),
        ((3, 99), "which are not installed. Run: pip install -r requirements.txt"),
    ],
)
def test_a_missing_converter_is_told_with_what_helps_on_this_python(monkeypatch, last, words):
    monkeypatch.setattr(converter, "LAST_PYTHON", last)
    for name in ("onnx", "paddle2onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExportError) as raised:
        converter.check_installed()
    here = ".".join(map(str, sys.version_info[:2]))
    assert str(raised.value) == "ONNX needs paddle2onnx 2.1 and onnx 1.17, " + words.format(here)


def test_an_installed_converter_is_welcome():
    converter.check_installed()
