"""Paddle Inference: the same images whatever its settings, the manifest's signature, no file left behind."""

from __future__ import annotations

import os

import numpy as np
import pytest

from deploy.manifest import ModelError, Signature
from deploy.runtimes import PaddleInference
from deploy.seeds import latents

SIGNATURE = Signature("z", (8,), "image", (3, 16, 16))


def test_onednn_on_and_off_agree(program, export):
    z = latents(range(3), 8)
    for onednn in (True, False):
        found = PaddleInference(*program, SIGNATURE, device="cpu", threads=1, onednn=onednn).run(z)
        assert np.abs(found - export.expected(range(3))).max() < 2e-6


@pytest.mark.parametrize(("device", "own", "expected"), [("auto", None, "0"), ("auto", "1", "1"), ("cpu", None, None)])
def test_paddle_computes_without_tf32_unless_the_environment_says_otherwise(
    program, monkeypatch, device, own, expected
):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", own or "")  # so that it is put back whatever happens
    if own is None:
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    PaddleInference(*program, SIGNATURE, device=device)
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == expected


def test_a_paddle_program_that_is_not_what_the_manifest_says_is_refused(program):
    with pytest.raises(ModelError, match=r"has inputs \['z'\].*one input 'noise'"):
        PaddleInference(*program, SIGNATURE._replace(input_name="noise"), device="cpu")
    with pytest.raises(
        ModelError, match=r"answered float32 \[1, 3, 16, 16\]; the manifest says float32 \[1, 3, 8, 8\]"
    ):
        PaddleInference(*program, SIGNATURE._replace(output_shape=(3, 8, 8)), device="cpu")
    with pytest.raises(ModelError, match=r"failed on \[1, 9\]") as caught:
        PaddleInference(*program, SIGNATURE._replace(input_shape=(9,)), device="cpu")
    assert "\n" not in str(caught.value)


def test_paddle_leaves_no_copy_of_the_model_behind(tmp_path, program, export, monkeypatch):
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    generator = PaddleInference(*program, SIGNATURE, device="cpu")
    assert not list(scratch.iterdir())
    assert np.abs(generator.generate([3]) - export.expected([3])).max() < 2e-6
