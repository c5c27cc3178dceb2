"""The script behind the tutorial makes every image and table that the pages show."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
from pathlib import Path

import cv2
import pytest

from dcgan import train as runs

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("tutorial.en.md", "tutorial.zh.md")


@pytest.fixture(scope="module")
def make_figures():
    return importlib.import_module("docs.make_figures")


def images(page):
    return set(re.findall(r"\]\(images/tutorial/([^)]+)\)", (DOCS / page).read_text("utf-8")))


def tables(text):
    return re.findall(r"<!-- numbers: [\w ]+ -->\n\| \| \|\n\|---\|---\|\n(.*?)<!-- end -->", text, re.DOTALL)


def test_every_image_and_number_of_the_pages_is_made(make_figures, tiny_config, work_folder):
    config = dataclasses.replace(tiny_config, data="cartoon:40", steps=4, sample_every=1, log_every=1, evaluate_every=0)
    folder = runs.train(config).folder
    for page in PAGES:
        shutil.copy(DOCS / page, work_folder / page)
    assert make_figures.main(["--run", str(folder), "--docs", str(work_folder), "--n", "20"]) == 0
    made = {path.name for path in (work_folder / "images" / "tutorial").iterdir()}
    assert images(PAGES[0]) == images(PAGES[1]) == made
    assert all(cv2.imread(str(work_folder / "images" / "tutorial" / name)) is not None for name in made)
    for page in PAGES:
        rows = "".join(tables((work_folder / page).read_text("utf-8"))).splitlines()
        assert len(rows) == len(make_figures.LABELS) and all(re.search(r"\| [^|]*\d[^|]* \|$", row) for row in rows)


def test_both_pages_hold_the_same_numbers_and_they_are_there():
    english, chinese = ("".join(tables((DOCS / page).read_text("utf-8"))) for page in PAGES)
    values = [[row.split("|")[2] for row in text.splitlines()] for text in (english, chinese)]
    assert values[0] == values[1] and len(values[0]) > 10


def test_both_pages_have_the_same_chapters_images_and_commands():
    def outline(page):
        text = (DOCS / page).read_text("utf-8")
        chapters = re.findall(r"^(#+) ([\d.]*)", text, re.MULTILINE)
        blocks = [re.sub(r"#.*", "", block) for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]
        return chapters, re.findall(r"images/tutorial/([^)]+)\)", text), blocks

    assert outline(PAGES[0]) == outline(PAGES[1])


def test_the_images_are_small():
    assert sum(path.stat().st_size for path in (DOCS / "images" / "tutorial").iterdir()) < 1_000_000
