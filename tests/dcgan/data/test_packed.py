"""Packed files from us and from others: read only, checked, nothing in them executed."""

from __future__ import annotations

import gc
import io
import json
import os
import warnings

import numpy as np
import pytest

from dcgan.data.packed import npy_header, open_packed
from dcgan.errors import DataError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)


def test_an_array_of_unknown_origin_is_read_and_never_written(tmp_path, images):
    np.save(tmp_path / "a.npy", images)
    packed = open_packed(tmp_path / "a.npy")
    assert np.array_equal(packed.images, images)
    assert (len(packed), packed.info, len(packed.digest)) == (5, {}, 64)
    packed.images[0][:] = 1
    assert np.array_equal(np.load(tmp_path / "a.npy"), images)


@pytest.mark.parametrize("has_preadv", [True, False])
def test_images_are_indexed_as_an_array_is(tmp_path, images, monkeypatch, has_preadv):
    if not has_preadv:  # Windows, and macOS before Python 3.10
        monkeypatch.delattr(os, "preadv", raising=False)
    np.save(tmp_path / "a.npy", images)
    found = open_packed(tmp_path / "a.npy").images
    assert (found.shape, found.dtype, found.ndim, found.nbytes) == (images.shape, images.dtype, 4, images.nbytes)
    numbers = [0, -1, np.int64(3), [4, 1], [-5, -1, 1, 1], np.array([[0, 1], [2, 4]]), [], np.array([], int)]
    slices = [slice(2), slice(1, 4), slice(None, None, 2), slice(None, None, -1), slice(3, 1), slice(-2, None)]
    bools = [[True, False, False, True, True]]
    tuples = [(4, 2, 0, 15), (slice(1, 3), 0), ([3, 0], slice(None), 5), (0, ...), (slice(None), [2, 0])]
    for index in [*numbers, *slices, *bools, *tuples]:
        expected = images[index]
        assert np.array_equal(found[index], expected) and np.shape(found[index]) == expected.shape, index
    for index in (5, -6, [0, 5], [True]):
        with pytest.raises(IndexError):
            found[index]
    assert [np.array_equal(a, b) for a, b in zip(found, images)] == [True] * 5
    assert np.asarray(found, np.float32).dtype == np.float32


def test_an_array_that_nobody_needs_any_more_closes_its_file_without_a_warning(tmp_path):
    """It was a traceback with PYTHONWARNINGS=error."""
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 16, 16), np.uint8))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        open_packed(tmp_path / "a.npy")
        gc.collect()
    assert [str(warning.message) for warning in told] == []


def test_the_digest_is_of_the_pixels(tmp_path, images):
    np.save(tmp_path / "a.npy", images)
    (tmp_path / "b.npy").write_bytes(npy_header(5, 16) + images.tobytes())
    images[4, 2, 15, 15] ^= 1
    np.save(tmp_path / "c.npy", images)
    a, b, c = (open_packed(tmp_path / name).digest for name in ("a.npy", "b.npy", "c.npy"))
    assert a == b != c


@pytest.mark.parametrize(("count", "size"), [(1, 1), (202_599, 64), (4_000_000_000, 65536)])
def test_header_is_128_bytes_and_numpys(count, size):
    header = npy_header(count, size)
    stream = io.BytesIO(header)
    assert np.lib.format.read_magic(stream) == (1, 0)
    assert np.lib.format.read_array_header_1_0(stream) == ((count, 3, size, size), False, np.dtype("uint8"))
    assert len(header) == stream.tell() == 128


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), r"holds <f4 \[2, 3, 8, 8\]: expected uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"holds \|u1 \[2, 8, 8, 3\]: expected uint8"),
        (np.zeros((2, 3, 8, 9), np.uint8), "expected uint8"),
        (np.zeros((3, 8, 8), np.uint8), "expected uint8"),
        (np.zeros((0, 3, 8, 8), np.uint8), "N at least 1"),
        (np.zeros((2, 3, 0, 0), np.uint8), "expected uint8"),
        (np.uint8(3), "expected uint8"),
        (np.asfortranarray(np.zeros((2, 3, 8, 8), np.uint8)), "Fortran order"),
        (np.zeros(2, [("a", np.uint8)]), "one plain array"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, array, reason):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=reason):
        open_packed(tmp_path / "a.npy")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_pickle_in_a_npy_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.array([Malicious()] * 2, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"holds \|O \[2\]: expected uint8"):
        open_packed("a.npy")
    assert not os.path.exists("executed")


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, b"\x80\x04.", b"PK"]
)
def test_what_is_no_npy_is_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match="not a .npy of one plain array"):
        open_packed(tmp_path / "a.npy")


@pytest.mark.parametrize("change", [-1, -1000, 1])
def test_a_file_of_another_length_is_refused(tmp_path, images, change):
    np.save(tmp_path / "a.npy", images)
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:change] if change < 0 else whole + b"x")
    with pytest.raises(DataError, match="bytes follow its header"):
        open_packed(tmp_path / "a.npy")


def test_random_damage_to_a_header_is_an_error_of_ours_or_none(tmp_path):
    whole, random = npy_header(2, 4) + bytes(96), np.random.default_rng(0)
    letters = list(b"0123456789(),'{}<>|uifObTrue: \x00\xff")
    for _ in range(400):
        data = bytearray(whole)
        for position in random.integers(0, 80, 2):
            data[position] = random.choice(letters)
        (tmp_path / "a.npy").write_bytes(data)
        try:
            assert open_packed(tmp_path / "a.npy").images.nbytes == 96
        except DataError:
            continue


def test_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no packed file .*a\.npy \(looked for "):
        open_packed(tmp_path / "a.npy")


def test_a_json_that_describes_other_pixels_is_named(tmp_path, images):
    np.save(tmp_path / "a.npy", images)
    info = {"format": "packed pictures", "count": 6, "image_size": 16, "sha256": "0" * 64}
    (tmp_path / "a.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"damaged or not the file .* count 6 became 5, sha256 0+ became "):
        open_packed(tmp_path / "a.npy")


@pytest.mark.parametrize("text", ["{}", "[1]", '{"format": "mine"}', "not json", "[" * 100_000])
def test_a_json_of_somebody_else_is_no_claim(tmp_path, images, text):
    np.save(tmp_path / "a.npy", images)
    (tmp_path / "a.json").write_text(text)
    assert open_packed(tmp_path / "a.npy").info == {}


@pytest.mark.parametrize("change", ["cut", "emptied", "overwritten"])
@pytest.mark.parametrize("index", [0, slice(2), [4, 1], slice(None)])
def test_a_file_that_changes_while_it_is_used_is_an_error_and_no_crash(tmp_path, images, change, index):
    path = tmp_path / "a.npy"
    np.save(path, images)
    packed = open_packed(path)
    kept = packed.images[index]
    if change == "overwritten":
        path.write_bytes(npy_header(5, 16) + bytes(images.nbytes))
        os.utime(path, ns=(1, 1))
    else:
        os.truncate(path, 1000 if change == "cut" else 0)
    with pytest.raises(DataError, match=r"a\.npy was cut or overwritten while it was in use"):
        packed.images[index]
    assert np.array_equal(kept, images[index])  # it was a view of the mapped file: a bus error


@pytest.mark.parametrize("change", ["cut", "overwritten"])
def test_a_file_that_changes_between_two_images_of_a_batch_is_an_error_and_no_crash(
    tmp_path, images, monkeypatch, change
):
    path = tmp_path / "a.npy"
    np.save(path, images)
    packed, read, calls = open_packed(path), os.preadv, []

    def late(descriptor, buffers, offset):
        calls.append(offset)
        if len(calls) == 2 and change == "cut":
            os.truncate(path, 1000)
        if len(calls) == 2 and change == "overwritten":
            path.write_bytes(npy_header(5, 16) + bytes(images.nbytes))
            os.utime(path, ns=(1, 1))
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", late)
    with pytest.raises(DataError, match=r"a\.npy was cut or overwritten while it was in use"):
        packed.images[[0, 1, 4]]
    assert len(calls) >= 2


def test_a_file_that_is_renamed_over_it_leaves_what_is_in_use_as_it_was(tmp_path, images):
    np.save(tmp_path / "a.npy", images)
    packed = open_packed(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", images[:2])
    os.replace(tmp_path / "b.npy", tmp_path / "a.npy")
    assert np.array_equal(packed.images[[4, 0]], images[[4, 0]])
    assert type(packed.images[[4, 0]]) is np.ndarray


def test_a_pipe_or_device_in_place_of_a_packed_file_is_refused_and_does_not_block(tmp_path, images):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"a\.npy is not a packed file: it is a pipe"):
        open_packed(tmp_path / "a.npy")
    (tmp_path / "b.npy").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"b\.npy is not a packed file: it is a device"):
        open_packed(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", images)
    os.mkfifo(tmp_path / "c.json")
    assert open_packed(tmp_path / "c.npy").info == {}
