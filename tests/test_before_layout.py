"""A run folder and an export that were made before the folders were arranged by subject, see fixtures/before_layout."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dcgan.callbacks.checkpointing import best
from dcgan.checkpoints.checkpoint import list_checkpoints, read_checkpoint
from dcgan.resume import saved_config
from dcgan.runs.find_checkpoint import find_checkpoint
from dcgan.runs.records import read_records
from dcgan.train import train
from deploy.manifest import read_manifest
from deploy.runtimes import load_generator
from deploy.verify import verify
from export.exporter import ExportConfig, export

BEFORE = Path(__file__).parent / "fixtures" / "before_layout"


@pytest.fixture
def old_run(work_folder):
    """A copy of the run, in the folder from which it was trained, and where its images lie."""
    shutil.copytree(BEFORE / "run", work_folder / "runs" / "00000-images")
    shutil.copy(BEFORE / "images.npy", work_folder)
    return work_folder / "runs" / "00000-images"


@pytest.fixture(scope="module")
def expected():
    with np.load(BEFORE / "expected.npz") as arrays:
        return dict(arrays)


def test_it_resumes_to_the_weights_that_it_would_have_had(old_run, expected):
    found = find_checkpoint(old_run / "checkpoints" / "step-00000003")
    shutil.rmtree(old_run / "checkpoints" / "step-00000006")
    run = train(saved_config(found), found).folder
    assert run == old_run
    groups = read_checkpoint(run / "checkpoints" / "step-00000006").groups
    weights = {name: value for name, value in expected.items() if name != "images"}
    assert len(weights) > 10
    for name, value in weights.items():
        group, _, tensor = name.partition("/")
        np.testing.assert_allclose(
            groups[group][tensor], value, atol=2e-5, err_msg=name
        )  # processors round differently


def test_its_records_and_its_best_checkpoint_are_read_under_todays_names(old_run):
    records = read_records(old_run / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["swd"] > 0 and records[-1]["sample_std"] > 0 and "distance" not in records[-1]
    checkpoints = list_checkpoints(old_run / "checkpoints")
    assert best(checkpoints) == min(checkpoints, key=lambda path: read_checkpoint(path).state["extra"]["distance"])


def test_it_exports_to_the_images_that_it_had(old_run, expected):
    export("export", ExportConfig(old_run))
    images = load_generator("export", "onnxruntime", "cpu").generate(range(5))
    assert np.abs(images - expected["images"]).max() < 1e-5


def test_its_export_generates_and_verifies(expected):
    manifest = read_manifest(BEFORE / "export")
    assert manifest.precise_bn["latents"] == 512
    assert all(row.passed for row in verify(BEFORE / "export", "onnxruntime", "cpu"))
    runtime = load_generator(BEFORE / "export", "onnxruntime", "cpu")
    assert np.abs(runtime.generate(range(5)) - expected["images"]).max() < 1e-5
