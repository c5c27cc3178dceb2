"""The outputs that a notebook keeps are those of its code, or it stays as it was."""

from __future__ import annotations

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
run_notebook = pytest.importorskip("docs.run_notebook")


@pytest.fixture
def notebook_of(tmp_path):
    def write(*code):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in code])
        nbformat.write(notebook, tmp_path / "some.ipynb")
        return tmp_path / "some.ipynb"

    return write


def test_outputs_are_written_with_the_digest_of_the_code_that_made_them(notebook_of, capsys):
    path = notebook_of("x = 20", "x + 1")
    assert run_notebook.main(["--notebook", str(path)]) == 0
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[1].outputs[0].data["text/plain"] == "21" and "some.ipynb: 0 KB" in capsys.readouterr().out
    assert notebook.metadata["outputs_of"] == run_notebook.code_digest(notebook)
    notebook.cells[0].source = "x = 21"
    assert notebook.metadata["outputs_of"] != run_notebook.code_digest(notebook)


def test_a_cell_that_fails_leaves_the_file_as_it_was(notebook_of):
    path = notebook_of("1 / 0")
    before = path.read_bytes()
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        run_notebook.main(["--notebook", str(path)])
    assert path.read_bytes() == before
