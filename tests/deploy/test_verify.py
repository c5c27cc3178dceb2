from __future__ import annotations

import io
import shutil
import zipfile

import numpy as np
import pytest

from deploy import verify as verify_export
from deploy.manifest import ModelEntry, ModelError, read_manifest
from deploy.verify import table, verify


def test_an_untouched_export_passes(export):
    (row,) = verify(export.folder, device="cpu")
    assert row.passed and row.max_difference < 2e-6 and row.max_levels <= 1
    assert (row.model, row.backend, row.device) == ("generator.onnx", "onnxruntime", "cpu")
    assert "generator.onnx" in table([row]) and "passed" in table([row])


def test_a_weight_that_moved_by_one_percent_fails_with_its_figures(export, make_generator):
    weights = export.weights.copy()
    weights[2, 1, 5, 7] *= 1.01
    export.replace_generator(make_generator(weights))  # checksums agree: only the images tell
    (row,) = verify(export.folder, device="cpu")
    moved = np.tanh(np.einsum("ni,ichw->nchw", _z(), weights.astype(np.float64))) - export.expected(range(10))
    assert not row.passed and row.max_difference == pytest.approx(np.abs(moved).max(), rel=1e-2)
    assert "FAILED" in table([row])


def _z():
    from deploy.seeds import latents

    return latents(range(10), 8).astype(np.float64)


def test_swapped_colours_fail(export, make_generator):
    export.replace_generator(make_generator(np.ascontiguousarray(export.weights[:, ::-1])))
    assert not verify(export.folder, device="cpu")[0].passed


def test_every_file_is_checked_not_only_the_generator(export):
    path = export.folder / "discriminator.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="discriminator.onnx is damaged"):
        verify(export.folder)


def test_half_precision_and_ill_conditioned_exports_are_allowed_more(export, make_generator):
    export.replace_generator(make_generator((export.weights * 1.001).astype(np.float32)))
    assert not verify(export.folder, device="cpu")[0].passed
    old = read_manifest(export.folder)
    rows = [{"model": "generator.onnx", "allowed": 8e-3}, {"model": "other", "allowed": 1.0}, "x", {"model": 3}]
    export.write(parity={**old.parity, "rows": rows})
    assert verify(export.folder, device="cpu")[0].tolerance == 8e-3
    export.write(parity={**old.parity, "rows": [{"model": "generator.onnx", "allowed": 1e9}]})
    assert verify(export.folder, device="cpu")[0].tolerance == 0.1
    export.write(models=(ModelEntry("generator", "onnx", ("generator.onnx",), precision="fp16"),), parity=old.parity)
    row = verify(export.folder, device="cpu")[0]
    assert row.passed and row.tolerance == 5e-2


def test_the_uint8_variant_is_left_to_the_export(export):
    models = read_manifest(export.folder).models
    shutil.copy(export.folder / "generator.onnx", export.folder / "generator-uint8.onnx")
    export.write(models=(*models, ModelEntry("generator", "onnx", ("generator-uint8.onnx",), output_dtype="uint8")))
    assert len(verify(export.folder, device="cpu")) == 1


@pytest.mark.parametrize("parity", [None, {}, {"reference": 3}, {"reference": {"file": "../x"}}, {"reference": {}}])
def test_an_export_without_reference_says_so(export, parity):
    export.write(parity=parity)
    with pytest.raises(ModelError, match="no reference images"):
        verify(export.folder)


SEEDS, IMAGES = np.arange(2, dtype=np.uint32), np.zeros((2, 3, 16, 16), np.float32)


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def patched(content: bytes, offset: int, value: bytes, directory_offset: int) -> bytes:
    """`content` with a field of its first entry set, in the entry's own header and in the archive's directory."""
    data, directory = bytearray(content), content.index(b"PK\x01\x02")
    data[offset : offset + len(value)] = value
    data[directory + directory_offset : directory + directory_offset + len(value)] = value
    return bytes(data)


def deflated(content: bytes) -> bytes:
    """An .npz with an entry seeds.npy whose compressed content is `content`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("seeds.npy", content)
    return patched(stream.getvalue(), 8, b"\x08\0", 10)


def entries(**contents: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


GOOD = npz(seeds=SEEDS, images=IMAGES)
HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }\n"

HOSTILE = {
    "no deflate stream": deflated(b"\xff" * 100),
    "encrypted": patched(GOOD, 6, b"\x01\0", 8),
    "unknown compression": patched(GOOD, 8, b"\x63\0", 10),
    "lzma": patched(GOOD, 8, b"\x0e\0", 10),
    "newer zip": patched(GOOD, 4, b"\xff\0", 6),
    "wrong checksum": patched(GOOD, 14, b"abcd", 16),
    "text for arrays": entries(seeds=b"1 2", images=b"3"),
    "cut npy": entries(seeds=b"\x93NUMPY\x01", images=b""),
    "more than memory": entries(seeds=npy(HUGE), images=b""),
    "header that is no Python": entries(seeds=npy(b"{'descr': (((((\n"), images=b""),
    "header of another type": entries(seeds=npy(b"{'descr': [3], 'fortran_order': 0, 'shape': 'x'}\n"), images=b""),
    "no zip": b"reference",
    "cut": npz(seeds=SEEDS, images=IMAGES)[:-30],
    "pickle": npz(seeds=np.array([{"a": 1}], dtype=object), images=IMAGES),
    "names": npz(a=SEEDS),
    "shape": npz(seeds=SEEDS, images=IMAGES[:, :, :8]),
    "count": npz(seeds=SEEDS[:1], images=IMAGES),
    "dtype": npz(seeds=SEEDS, images=IMAGES.astype(np.float64)),
    "none": npz(seeds=SEEDS[:0], images=IMAGES[:0]),
    "two axes": npz(seeds=SEEDS[None], images=IMAGES),
    "other images": npz(seeds=SEEDS, images=IMAGES),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_reference_that_is_none_is_one_sentence(export, content):
    (export.folder / "reference.npz").write_bytes(content)
    export.write()
    with pytest.raises(ModelError, match=r"reference\.npz") as caught:
        verify(export.folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_reference_damaged_at_random_is_read_or_one_sentence(export):
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(500):
        data = bytearray(GOOD)
        places = [*range(200), *range(len(GOOD) - 200, len(GOOD))]
        for place in random.choice(places, 2):
            data[place] = random.integers(256)
        try:
            verify_export._read_npz(bytes(data), "reference.npz")
        except ModelError as error:
            outcomes.add("refused")
            assert "\n" not in str(error)
        else:
            outcomes.add("read")
    assert outcomes == {"refused", "read"}


def test_a_reference_that_would_fill_the_memory_is_not_unpacked(export, monkeypatch):
    monkeypatch.setattr(verify_export, "LARGEST_REFERENCE", 1 << 16)
    verify(export.folder, device="cpu")
    with zipfile.ZipFile(export.folder / "reference.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.npy", bytes(1 << 16))
    export.write()
    with pytest.raises(ModelError, match="unpacks to more than"):
        verify(export.folder)


def test_a_seed_that_is_no_seed_is_refused(export):
    images = np.zeros((1, 3, 16, 16), np.float32)
    np.savez(export.folder / "reference.npz", seeds=np.array([-1]), images=images)
    export.write(parity={"reference": {"file": "reference.npz"}})
    with pytest.raises(ValueError, match="seed"):
        verify(export.folder)


def test_nothing_to_run_here_is_an_error_not_a_pass(export):
    with pytest.raises(ModelError, match="no generator of .* can run here with --backend paddle"):
        verify(export.folder, backend="paddle")
