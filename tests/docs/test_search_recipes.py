"""The search goes on where it was stopped, and its table has a row for each recipe and seed."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

TINY = "--data faces.npy --image-size 16 --base-channels 4 --batch-size 8 --latent-dim 8 --evaluate-every 0"


@pytest.fixture(scope="module")
def search():
    return importlib.import_module("docs.search_recipes")


@pytest.fixture
def packed_faces(work_folder, images):
    np.save("faces.npy", images)


def test_recipes_are_a_name_and_flags_a_line(search, tmp_path):
    (tmp_path / "recipes.txt").write_text('# a comment\n\nplain:\nnoaug: --diffaugment "" --lr 1e-3\n')
    assert search.read_recipes(tmp_path / "recipes.txt") == [
        search.Recipe("plain", ()),
        search.Recipe("noaug", ("--diffaugment", "", "--lr", "1e-3")),
    ]


@pytest.mark.parametrize(
    ("text", "words"), [("--lr 1e-3", "line 1: 'NAME: FLAGS'"), ("a:\na: --lr 1", "line 2: there is another")]
)
def test_a_line_that_is_no_recipe_is_named(search, tmp_path, text, words):
    (tmp_path / "recipes.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        search.read_recipes(tmp_path / "recipes.txt")


def test_each_recipe_is_trained_measured_and_not_done_twice(search, packed_faces, work_folder, monkeypatch):
    (work_folder / "recipes.txt").write_text(f"tiny: {TINY} --steps 2\n")
    arguments = ["recipes.txt", "--seeds", "0", "1", "--out", "found", "--n", "24"]
    assert search.main(arguments) == 0
    table = (work_folder / "found" / "table.md").read_text().splitlines()
    assert len(table) == 4 and "swd" in table[0] and "--steps 2" in table[2] and "| 1 |" in table[3]
    result = json.loads((work_folder / "found" / "tiny-seed1" / "result.json").read_text())
    assert result["seed"] == 1 and result["report"]["protocol"]["n_generated"] == 24
    monkeypatch.setattr(search, "train", lambda *_: pytest.fail("it was trained before"))
    assert search.main(arguments) == 0


def test_a_training_that_was_stopped_goes_on(search, packed_faces, work_folder):
    folder = work_folder / "stopped"
    flags = tuple(f"{TINY} --checkpoint-every 1".split())
    search.train(search.Recipe("first", (*flags, "--steps", "1")), 0, folder)
    seconds = float((folder / "seconds.txt").read_text())
    search.train(search.Recipe("first", (*flags, "--steps", "1")), 0, folder)
    assert len(list(folder.glob("0*"))) == 1
    assert float((folder / "seconds.txt").read_text()) > seconds
