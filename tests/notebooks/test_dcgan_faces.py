"""The notebook runs from its first cell to its last, on a tiny setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "dcgan_faces.ipynb"
TINY = """
config = TrainConfig(data="cartoon:40", image_size=16, base_channels=4, batch_size=20, ema=0.99, device="cpu")
epochs = 2
judged = 20
folder = "notebook"
"""


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_short_and_valid_and_its_outputs_are_those_of_its_code(notebook):
    import nbformat

    from docs.run_notebook import code_digest

    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) < 20
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert notebook.metadata["outputs_of"] == code_digest(notebook), "run docs/run_notebook.py"
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 6
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert NOTEBOOK.stat().st_size <= 1_000_000
    assert not re.search(r"/(root|home|tmp|work|Users)/", NOTEBOOK.read_text("utf-8"))  # the machine it ran on
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert all(re.search(r"[\u4e00-\u9fff]", text) and re.search(r"[a-z]{4}", text) for text in texts)  # both languages
    links = [link for text in texts for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links and all((NOTEBOOK.parent / link).is_file() for link in links)


def test_it_runs_from_the_first_cell_to_the_last(notebook, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    (settings,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    names = {line.partition(" =")[0] for line in settings.source.splitlines() if re.match(r"\w+ =", line)}
    assert names == {line.partition(" =")[0] for line in TINY.split("\n") if line}
    settings.source = TINY
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = first.source.replace("os.getcwd()", repr(str(ROOT)))
    (tmp_path / "dcgan").mkdir()  # so that the first cell stays here, where its files may be
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    images = [output for output in outputs if "image/jpeg" in output.get("data", {})]
    assert len(images) == 6
    assert any("nearest_ratio" in output.get("data", {}).get("text/plain", "") for output in outputs)
    assert (tmp_path / "notebook" / "export" / "generator.onnx").is_file()
