"""The arrows between the folders, read from the imports of every source file: who may know whom.

tools -> dcgan, export, deploy; export -> dcgan, deploy; dcgan -> deploy.seeds and its files and
images; deploy -> nothing of ours. Inside dcgan:
train -> resume -> callbacks -> {runs, metrics, training}; model -> {training, networks}; training -> {networks,
checkpoints, distributed}; {runs, metrics} -> data.
"""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("dcgan", "export", "deploy", "tools")
MAY_IMPORT = {
    "tools": ("tools", "dcgan", "export", "deploy"),
    "export": ("export", "dcgan", "deploy"),
    "dcgan": ("dcgan", "deploy.seeds", "deploy.files", "deploy.untrusted", "deploy.own_files", "deploy.images"),
    "deploy": ("deploy",),
}
# What each file or folder of dcgan/ may import of the others. Below BASE everything may use BASE.
BASE = ("dcgan.errors", "dcgan.environment", "dcgan.images")
INNER = {
    "errors": (),
    "environment": (),
    "images": (),
    "networks": (),
    "distributed": (),
    "checkpoints": (),
    "data": (),
    "config": ("networks.sizes",),
    "presets": ("config",),
    "compute_plan": ("networks", "config", "training.precision"),
    "training": ("networks", "checkpoints", "distributed"),
    "model": ("training", "networks", "distributed", "compute_plan", "config"),
    "metrics": ("data",),
    "runs": ("data", "metrics.names", "metrics.evaluate_json", "checkpoints", "config"),
    "callbacks": ("runs", "metrics", "training", "data", "checkpoints", "distributed"),
    "resume": (
        "callbacks",
        "runs",
        "metrics.names",
        "model",
        "networks.sizes",
        "data",
        "checkpoints",
        "distributed",
        "config",
    ),
    "train": (
        "resume",
        "callbacks",
        "runs",
        "metrics",
        "model",
        "compute_plan",
        "data",
        "checkpoints",
        "distributed",
        "config",
    ),
    "dry_run": ("train", "model", "networks", "data", "config"),
    "selftest": ("train", "runs", "checkpoints", "config"),
}
# Neither these nor anything they import may need Paddle: they work where only numpy and OpenCV are installed.
WITHOUT_PADDLE = (
    "dcgan.data",
    "dcgan.images",
    "dcgan.config",
    "dcgan.checkpoints.checkpoint",
    "dcgan.checkpoints.params",
)


class Import(NamedTuple):
    """`name` is what is imported, absolute, down to the imported name: "dcgan.images.grid"."""

    name: str
    line: int
    at_import: bool  # executed when the module is imported, not inside a function or for type checkers only


def source_files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, source: str | None = None) -> list[Import]:
    text = path.read_text("utf-8") if source is None else source
    package = path.relative_to(ROOT).parent.parts
    return list(_walk(ast.parse(text), package, True))


def _walk(node: ast.AST, package: tuple, at_import: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, at_import) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
        base = base if node.level else [node.module or ""]
        yield from (Import(".".join([*base, alias.name]), node.lineno, at_import) for alias in node.names)
    elif _is_import_call(node):
        yield Import(node.args[0].value, node.lineno, at_import)
    for child in ast.iter_child_nodes(node):
        is_later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        is_later = is_later or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        yield from _walk(child, package, at_import and not is_later)


def _is_import_call(node: ast.AST) -> bool:
    """importlib.import_module("x") or __import__("x")."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return False
    return ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__") and isinstance(
        node.args[0].value, str
    )


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


# ---- arrows ---------------------------------------------------------------------------------------------------------


def test_there_is_something_to_read():
    found = {module_name(path) for path in source_files()}
    assert {"dcgan.images", "dcgan.data.loader", "deploy.seeds", "tools.train"} <= found


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_imports_follow_the_arrows(path):
    allowed = MAY_IMPORT[path.relative_to(ROOT).parts[0]]
    for found in imports_of(path):
        if found.name.split(".")[0] in (*FOLDERS, "tests"):
            assert any(is_within(found.name, package) for package in allowed), f"{path}:{found.line}: {found.name}"


def test_everything_inside_dcgan_has_its_arrows():
    found = {module_name(path).split(".")[1] for path in source_files() if module_name(path).startswith("dcgan.")}
    assert found == set(INNER)


@pytest.mark.parametrize("path", [p for p in source_files() if module_name(p).startswith("dcgan.")], ids=module_name)
def test_imports_inside_dcgan_follow_the_inner_arrows(path):
    part = module_name(path).split(".")[1]
    allowed = (f"dcgan.{part}", *BASE, *(f"dcgan.{name}" for name in INNER[part]))
    for found in imports_of(path):
        if is_within(found.name, "dcgan"):
            assert any(is_within(found.name, package) for package in allowed), f"{path}:{found.line}: {found.name}"


def test_the_inner_arrows_have_no_circle():
    graph = {part: {name.split(".")[0] for name in others} for part, others in INNER.items()}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == set(graph)  # raises CycleError for a circle


def test_reading_weights_for_an_export_brings_no_trainer():
    """Modules with code, not counting the __init__ of packages."""
    code = "import sys, export.load_weights; print(*(name for name in sys.modules))"
    names = _printed(code).split()
    files = {module_name(path) for path in source_files() if path.name != "__init__.py"}
    loaded = sorted(files & set(names))
    assert "export.load_weights" in loaded and len(loaded) <= 16, loaded
    assert not [name for name in loaded if is_within(name, "dcgan.training") or is_within(name, "dcgan.callbacks")]


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_no_module_is_reached_around_the_arrows(path):
    """By its file name alone, as a script's own folder on sys.path would allow."""
    siblings = {other.stem for folder in FOLDERS for other in (ROOT / folder).glob("*.py")} - {"__init__", *FOLDERS}
    for found in imports_of(path):
        assert found.name.split(".")[0] not in siblings, f"{path}:{found.line}: {found.name} needs its full name"


def test_reading_of_imports_sees_every_form():
    source = """
import a.b, c as d
from . import e
from .f import g
from ..deploy import h
if TYPE_CHECKING:
    from i import j
try:
    import k
except ImportError:
    pass
def later():
    import l
    importlib.import_module("m.n")
class Body:
    import o
"""
    found = {(name, at_import) for name, _, at_import in imports_of(ROOT / "dcgan" / "x.py", source)}
    expected = {"a.b", "c", "dcgan.e", "dcgan.f.g", "deploy.h", "k", "o"}
    assert found == {(name, True) for name in expected} | {(name, False) for name in ("i.j", "l", "m.n")}


# ---- Paddle ---------------------------------------------------------------------------------------------------------


def _paddle_importers(start: list[str]) -> list[str]:
    """Modules reached from `start` by imports at import time that themselves import paddle then."""
    files = {module_name(path): path for path in source_files()}
    waiting, seen, guilty = list(start), set(), []
    while waiting:
        name = waiting.pop()
        if name in seen or name not in files:
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])  # a package runs before what is in it
        for found in imports_of(files[name]):
            if found.at_import and is_within(found.name, "paddle"):
                guilty.append(f"{files[name]}:{found.line}")
            elif found.at_import:
                waiting += [found.name, found.name.rpartition(".")[0]]
    return guilty


def needs_no_paddle(name: str) -> bool:
    return any(is_within(name, package) for package in WITHOUT_PADDLE)


@pytest.mark.parametrize("path", [p for p in source_files() if needs_no_paddle(module_name(p))], ids=module_name)
def test_data_files_and_settings_never_import_paddle(path):
    assert [found for found in imports_of(path) if is_within(found.name, "paddle")] == []
    assert _paddle_importers([module_name(path)]) == []


@pytest.mark.parametrize("path", [p for p in source_files() if ROOT / "deploy" in p.parents], ids=module_name)
def test_deploy_imports_paddle_only_when_that_runtime_is_chosen(path):
    assert _paddle_importers([module_name(path)]) == []


def test_nothing_imports_paddle_behind_the_scenes():
    """What the imports say, once for real: in a process of its own."""
    names = [module_name(path) for path in source_files()]
    light = [name for name in names if needs_no_paddle(name)] + ["deploy.seeds", "dcgan"]
    code = f"import sys, {', '.join(light)}; print([name for name in sys.modules if name.split('.')[0] == 'paddle'])"
    assert _printed(code) == "[]"


def _printed(code: str) -> str:
    """What a Python process of its own prints."""
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


# ---- files ----------------------------------------------------------------------------------------------------------


def test_no_file_hides_a_library_from_a_script_beside_it():
    """`python tools/export.py` puts tools/ first on the path: an onnx.py there would be imported instead of onnx."""
    files = [*source_files(), *(ROOT / "docs").glob("*.py"), *(ROOT / "tests").rglob("*.py")]
    libraries = {"onnx", "paddle", "numpy", "cv2", "onnxruntime", "openvino", "paddle2onnx", "safetensors", "json"}
    scripts = {path.parent for path in files if '__name__ == "__main__"' in path.read_text("utf-8")}
    assert {ROOT / "tools", ROOT / "deploy"} <= scripts
    hiding = [path for path in files if path.stem in libraries and path.parent in {*scripts, ROOT / "tests"}]
    assert hiding == []


def test_no_file_and_no_class_is_too_long_to_be_read_at_once():
    too_long = []
    for path in [*source_files(), *(ROOT / "docs").glob("*.py")]:
        text = path.read_text("utf-8")
        classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
        too_long += [f"{path}: {node.name}" for node in classes if node.end_lineno - node.lineno >= 250]
        too_long += [str(path)] if text.count("\n") > 400 else []
    assert too_long == []


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_every_module_says_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring and len(docstring.split("\n")[0].split()) >= 5


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_annotations_are_not_evaluated_on_the_oldest_python(path):
    """`X | None` in a signature needs the future import on Python 3.9, wherever it is used."""
    tree = ast.parse(path.read_text("utf-8"))
    annotations = [n.annotation for n in ast.walk(tree) if isinstance(n, (ast.arg, ast.AnnAssign)) and n.annotation]
    annotations += [n.returns for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.returns]
    has_union = any(isinstance(n, ast.BinOp) for annotation in annotations for n in ast.walk(annotation))
    has_future = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
    assert has_future or not has_union
