"""Exports of unknown origin, damaged at random: an answer or one sentence, never anything else; nothing is written."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from deploy.manifest import ModelError, read_manifest, verify_files
from deploy.runtimes import load_generator

STRANGE = (None, True, -1, 0, 1e308, 2**70, "", "../x", "\x00", [], {}, [[]], {"": None}, "a" * 10_000, float("nan"))


def mutated_text(text: bytes, rng: random.Random) -> bytes:
    content = bytearray(text)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content))
        what = rng.randrange(4)
        if what == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            del content[at : at + rng.randrange(1, 40)]
        elif what == 2:
            content[at:at] = content[: rng.randrange(1, 40)]
        else:
            content[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 8)))
        if not content:
            break
    return bytes(content)


def mutated_value(value, rng: random.Random):
    """The JSON value with one place, anywhere in it, replaced by something strange or removed."""
    places = list(_places(value))
    holder, name = rng.choice(places)
    if rng.random() < 0.2:
        del holder[name]
    else:
        holder[name] = rng.choice(STRANGE)
    return value


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield value, name
        yield from _places(inner)


def answer(folder):
    """What reading and checking an export says: None if it is taken for good."""
    try:
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
        load_generator(folder, backend="onnxruntime")
    except ModelError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["bytes", "values"])
def test_mutated_manifests_are_refused_in_one_sentence_or_still_describe_the_same_model(export, kind):
    path, rng = export.folder / "manifest.json", random.Random(kind)
    original, files = path.read_bytes(), sorted(p.name for p in export.folder.iterdir())
    expected = export.expected([1, 2])
    refused = 0
    for _ in range(300):
        if kind == "bytes":
            path.write_bytes(mutated_text(original, rng))
        else:
            path.write_text(json.dumps(mutated_value(json.loads(original), rng)))
        said = answer(export.folder)
        if said is None:
            images = load_generator(export.folder, backend="onnxruntime").generate([1, 2])
            np.testing.assert_allclose(images, expected, atol=1e-6)
        else:
            assert "\n" not in said and len(said) < 2000
            refused += 1
    assert refused > 100
    assert sorted(p.name for p in export.folder.iterdir()) == files


def test_mutated_models_are_refused_by_their_checksum_before_a_runtime_sees_them(export, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: pytest.fail("a changed model was loaded"))
    path, rng = export.folder / "generator.onnx", random.Random(0)
    original = path.read_bytes()
    for _ in range(100):
        changed = mutated_text(original, rng)
        if changed == original:
            continue
        path.write_bytes(changed)
        assert "generator.onnx" in answer(export.folder)
