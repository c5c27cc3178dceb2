"""The demo generator that the repository carries: whole, small, equal to what was trained, and of varied faces."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from deploy.infer import main
from deploy.manifest import DEMO, read_manifest, verify_files
from deploy.runtimes import load_generator
from deploy.seeds import latents


@pytest.fixture(scope="module")
def manifest():
    return read_manifest(DEMO)


def test_the_demo_has_the_files_of_its_manifest_in_at_most_5_megabytes(manifest):
    verify_files(DEMO, manifest)
    listed = {*manifest.files, "manifest.json"}
    assert {path.name for path in DEMO.iterdir()} == listed
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 5_000_000


def test_the_demo_computes_here_what_it_computed_where_it_was_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--verify", "--model", str(DEMO)]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_a_box_without_an_export_gets_faces_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--n", "3"]) == 0
    image = cv2.imread("work/generate/seed-000002.png")
    assert image.shape == (64, 64, 3) and image.std() > 20


def test_no_two_seeds_of_the_demo_give_one_face():
    generator = load_generator(DEMO)
    images = generator.run(latents(range(32), *generator.signature.input_shape)).reshape(32, -1)
    distance = np.abs(images[:, None] - images[None]).mean(-1)
    assert distance[np.triu_indices(32, 1)].min() > 0.08  # 10 of 256 levels


def test_the_manifest_says_how_the_demo_was_trained_and_nothing_of_the_machine(manifest):
    text = (DEMO / "manifest.json").read_text("utf-8")
    config = json.loads(text)["config"]
    assert config["data"].startswith("cartoon:") and config["steps"] > 0
    assert not any(word in text for word in ("/root", "/home", "/tmp", "\\\\"))
