"""The inputs that tests/soak/fuzz.py has found, each through its target: small files that reach as much code as any."""

from __future__ import annotations

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
