"""The inputs that tests/soak/fuzz.py has found, each through its target: small files that reach as much code as any."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.soak import fuzz

CORPUS = Path(__file__).parent / "fixtures" / "fuzz"


def test_every_target_has_inputs():
    assert {path.name for path in CORPUS.iterdir()} == {target.__name__ for target in fuzz.TARGETS}


@pytest.mark.parametrize("target", fuzz.TARGETS, ids=lambda target: target.__name__)
def test_no_input_that_was_found_is_more_than_an_error_of_ours(target):
    inputs = sorted((CORPUS / target.__name__).iterdir())
    assert inputs
    for path in inputs:
        target(path.read_bytes())


def test_every_random_address_of_the_playground_is_a_state_whose_link_means_the_same():
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = Path(__file__).parent / "soak" / "fuzz_link.mjs"
    done = subprocess.run(["node", script, "5000"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "5000 addresses\n", done.stderr
