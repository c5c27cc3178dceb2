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


def test_a_training_that_was_stopped_goes_on_and_what_is_done_is_not_done_twice(
    search, packed_faces, work_folder, monkeypatch
):
    (work_folder / "recipes.txt").write_text(f"tiny: {TINY} --steps 1\n")
    arguments = ["recipes.txt", "--out", "found", "--n", "24", "--seeds"]
    folder = work_folder / "found" / "tiny-seed1"
    (recipe,) = search.read_recipes(work_folder / "recipes.txt")
    search.train(recipe, 1, folder)
    seconds = float((folder / "seconds.txt").read_text())
    assert search.main([*arguments, "1"]) == 0
    assert len(list(folder.glob("0*"))) == 1 and float((folder / "seconds.txt").read_text()) > seconds
    result = json.loads((folder / "result.json").read_text())
    assert result["seed"] == 1 and result["report"]["protocol"]["n_generated"] == 24

    trained = []
    monkeypatch.setattr(search, "train", lambda recipe, seed, folder: (folder.mkdir(), trained.append(seed)))
    monkeypatch.setattr(search, "measure", lambda folder, args: {k: result[k] for k in ("report", "seconds")})
    for _ in range(2):
        assert search.main([*arguments, "0", "1"]) == 0
    assert trained == [0]
    table = (work_folder / "found" / "table.md").read_text().splitlines()
    assert len(table) == 4 and "swd" in table[0] and "--steps 1" in table[2] and "| 1 |" in table[3]
