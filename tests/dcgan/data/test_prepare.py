"""Any source -> one packed file: rows are rows, nothing half used or left behind, reused only while it matches."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from dcgan.data import image_to_row
from dcgan.data.decode import Limits
from dcgan.data.packed import open_packed
from dcgan.data.prepare import cached_packed, prepare
from dcgan.errors import DataError
from deploy.files import Lock


def encode(rgb, suffix=".png"):
    return cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """37 images of different sizes; image i is of the colour (i, 2i, 3i)."""
    root = tmp_path / "faces"
    root.mkdir()
    for i in range(37):
        colour = np.array((i, 2 * i, 3 * i), np.uint8)
        (root / f"{i:02d}.png").write_bytes(encode(np.broadcast_to(colour, (16 + 7 * (i % 5), 16 + 3 * (i % 7), 3))))
    return root


@pytest.fixture
def never_decode(monkeypatch):
    """Call it, and from then on every decoded image is a failure of the test."""

    def forbid(*_):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(image_to_row, "fit_image", forbid)


def files(folder):
    """Names in a folder, but for the hidden lock files that stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# --- pixels


@pytest.mark.parametrize("crop", ["", "left", "1", "1,2,3", "-1,0", "1.5,2", "1;2"])
def test_unknown_crop_is_refused_before_anything_is_read(tmp_path, crop):
    with pytest.raises(ValueError, match="crop must be tutorial, center, or X,Y"):
        prepare(str(tmp_path / "missing"), tmp_path / "a.npy", crop=crop)


# --- the file


def test_order_is_that_of_the_names_whatever_the_number_of_workers(folder, tmp_path):
    contents = []
    for workers in (1, 2, 7, 0):
        packed = prepare(str(folder), tmp_path / f"{workers}.npy", image_size=16, workers=workers)
        contents.append((tmp_path / f"{workers}.npy").read_bytes())
        assert packed.images.shape == (37, 3, 16, 16)
        assert packed.images[:, :, 8, 8].tolist() == [[i, 2 * i, 3 * i] for i in range(37)]
    assert len(set(contents)) == 1


def test_packed_file_is_a_plain_npy_with_a_json_that_describes_it(folder, tmp_path):
    packed = prepare(str(folder), tmp_path / "new" / "a.npy", image_size=16, crop="center")
    assert files(tmp_path / "new") == ["a.json", "a.npy"]
    assert np.array_equal(np.load(tmp_path / "new" / "a.npy", allow_pickle=False), packed.images)
    info = json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8"))
    assert info == packed.info == open_packed(tmp_path / "new" / "a.npy").info
    assert (info["source"]["kind"], info["source"]["name"]) == ("folder", "faces")
    assert (info["settings"]["crop"], info["image_size"], info["count"], info["rejected"]) == ("center", 16, 37, [])
    assert info["sha256"] == packed.digest == open_packed(tmp_path / "new" / "a.npy").digest


def test_unusable_files_are_left_out_and_named(folder, tmp_path, caplog):
    whole = encode(noise(30, 30), ".jpg")
    bad = {
        "03a.jpg": (whole[:-300], "truncated JPEG"),
        "03b.png": (encode(noise(30, 30))[:-50], "truncated PNG"),
        "10a.bmp": (encode(noise(30, 30), ".bmp")[:-5], "truncated BMP"),
        "10b.webp": (encode(noise(30, 30), ".webp")[:-5], "truncated WEBP"),
        "99.jpg": (b"this is text", "not a JPEG"),
        "99a.jpg": (b"", "empty file"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    with caplog.at_level(logging.WARNING, "dcgan.data"):
        packed = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    assert packed.images[:, 0, 8, 8].tolist() == list(range(37))
    assert [each["name"] for each in packed.info["rejected"]] == list(bad)
    assert all(reason in each["reason"] for each, (_, reason) in zip(packed.info["rejected"], bad.values()))
    (message,) = caplog.messages
    assert message.startswith("6 of 43 files left out (all of them: ")
    assert "99.jpg: not a JPEG" in message
    assert "99a.jpg" not in message  # five are told


def test_a_file_that_cannot_be_read_is_named(folder, tmp_path):
    (folder / "05a.png").symlink_to("gone.png")
    packed = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    assert packed.info["rejected"] == [{"name": "05a.png", "reason": "cannot be read: No such file or directory"}]


def test_nothing_usable_says_how_many_were_tried_and_leaves_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(b"text")
    with pytest.raises(DataError, match=r"none of the 3 files of in is a usable image: 0\.jpg: not a JPEG.*; 1\.jpg"):
        prepare(str(tmp_path / "in"), tmp_path / "out" / "a.npy")
    assert files(tmp_path / "out") == []


def test_limits_reach_the_images(folder, tmp_path):
    packed = prepare(str(folder), tmp_path / "a.npy", image_size=16, limits=Limits(max_pixels=16 * 16))
    assert packed.images[:, 0, 8, 8].tolist() == [0, 35]
    assert "more than the limit 256" in packed.info["rejected"][0]["reason"]


def test_zip_and_folder_give_the_same_pixels(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(folder.iterdir(), reverse=True):
            archive.write(path, f"img/{path.name}")
    digests = {
        prepare(str(tmp_path / name), tmp_path / f"{name}.npy", image_size=16).digest for name in ("a.zip", "faces")
    }
    assert len(digests) == 1


def test_cartoon_is_packed_like_any_other_source(tmp_path):
    a, b = (prepare("cartoon:10", tmp_path / f"{seed}.npy", image_size=32, seed=seed) for seed in (0, 1))
    assert a.images.shape == (10, 3, 32, 32)
    assert a.digest != b.digest


def test_without_a_terminal_lines_say_how_far_it_is(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("dcgan.data.prepare.LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "dcgan.data"):
        prepare(str(folder), tmp_path / "a.npy", image_size=16)
    first, *rest = [message for message in caplog.messages if "left out" not in message]
    total = int(first.split()[1])
    assert first == f"Preparing {total} images into {tmp_path / 'a.npy'}"
    assert rest == [f"{i} of {total} images prepared" for i in range(1, total + 1)]


def test_progress_counts_every_file(folder, tmp_path, capfd):
    (folder / "bad.png").write_bytes(b"")
    calls = []
    prepare(str(folder), tmp_path / "a.npy", image_size=16, progress=lambda *call: calls.append(call))
    assert calls == [(i, 38) for i in range(1, 39)]
    assert capfd.readouterr() == ("", "")


def test_no_bar_where_stderr_is_no_terminal(folder, tmp_path, capfd):
    prepare(str(folder), tmp_path / "a.npy", image_size=16)
    assert capfd.readouterr() == ("", "")


def test_decoders_complaints_do_not_reach_the_screen(folder, tmp_path, capfd):
    whole = encode(noise(30, 30), ".jpg")
    (folder / "a.jpg").write_bytes(whole[:-2] + bytes(20) + whole[-2:])
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2] + whole[-2:])
    packed = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    assert [each["name"] for each in packed.info["rejected"]] == ["b.jpg"]
    assert capfd.readouterr().err == ""


# --- reuse


def test_second_start_reuses_the_file(folder, tmp_path, never_decode):
    first = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    never_decode()
    second = prepare(str(folder), tmp_path / "a.npy", image_size=16, seed=5, workers=3)  # they do not change files
    assert second.digest == first.digest
    assert second.info == first.info


def test_changed_source_is_prepared_again(folder, tmp_path):
    first = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    (folder / "00.png").write_bytes(encode(np.full((16, 16, 3), 99, np.uint8)))
    second = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    assert second.images[0, 0, 8, 8] == 99
    assert second.digest != first.digest
    assert first.images[0, 0, 8, 8] == 0  # what is open already does not change under its reader


@pytest.mark.parametrize(
    "setting", [{"image_size": 32}, {"crop": "center"}, {"crop": "1,1"}, {"limits": Limits(max_pixels=10**6)}]
)
def test_changed_settings_are_prepared_again(folder, tmp_path, setting):
    prepare(str(folder), tmp_path / "a.npy", image_size=16)
    packed = prepare(str(folder), tmp_path / "a.npy", **{"image_size": 16, **setting})
    assert packed.images.shape[-1] == packed.info["settings"]["image_size"] == setting.get("image_size", 16)
    assert packed.info["settings"]["crop"] == setting.get("crop", "tutorial")


def test_a_file_of_an_earlier_version_is_prepared_again_with_one_line(folder, tmp_path, caplog):
    first = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    info = {**first.info, "format": "packed pictures", "format_version": 1}
    (tmp_path / "a.json").write_text(json.dumps(info))
    assert open_packed(tmp_path / "a.npy").info == info  # by itself it is as good as ever
    again = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    assert (again.info, again.digest) == (first.info, first.digest)
    (line,) = caplog.messages
    assert line == f"{tmp_path / 'a.npy'} was packed by an earlier version of this project: preparing it again."


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing", "other"])
def test_damaged_packed_file_is_found_and_prepared_again(folder, tmp_path, damage, caplog):
    path = tmp_path / "a.npy"
    first = prepare(str(folder), path, image_size=16)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[5000] ^= 1
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        np.save(path, np.zeros((37, 3, 16, 16), np.uint8))
    else:
        replacement = {"flip": bytes(flipped), "cut": whole[:-1], "empty": b""}[damage]
        shutil.copy(path, tmp_path / "new")  # another inode: `first` keeps the one it opened
        (tmp_path / "new").write_bytes(replacement)
        os.replace(tmp_path / "new", path)
    assert prepare(str(folder), path, image_size=16).digest == first.digest
    assert path.read_bytes() == whole
    assert damage == "missing" or "Preparing it again" in caplog.text


def test_another_programs_file_is_never_overwritten(folder, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    (tmp_path / "b.json").write_text('{"name": "package"}')
    (tmp_path / "c.npy").mkdir()
    before = (tmp_path / "a.npy").read_bytes()
    for name, kept in (("a", "a.npy"), ("b", "b.json"), ("c", "c.npy")):
        with pytest.raises(FileExistsError, match="give another --out") as caught:
            prepare(str(folder), tmp_path / f"{name}.npy", image_size=16)
        assert caught.value.filename == str(tmp_path / kept)
    assert (tmp_path / "a.npy").read_bytes() == before
    assert files(tmp_path) == ["a.npy", "b.json", "c.npy", "faces"]


@pytest.mark.parametrize("name", ["a", "a.npz", "a.npy.txt"])
def test_the_file_must_be_called_npy(tmp_path, name):
    with pytest.raises(ValueError, match="must be called FILE.npy"):
        prepare("cartoon:1", tmp_path / name)


@pytest.mark.parametrize("setting", [{"image_size": 0}, {"workers": -1}])
def test_impossible_numbers_are_refused(tmp_path, setting):
    with pytest.raises(ValueError, match="image_size must be at least 1 and workers at least 0"):
        prepare("cartoon:1", tmp_path / "a.npy", **setting)


# --- faults


def test_ctrl_c_leaves_nothing_behind(folder, tmp_path):
    (tmp_path / "out").mkdir()

    def interrupt(done, _):
        if done == 5:
            raise KeyboardInterrupt

    stderr = os.fstat(2)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(folder), tmp_path / "out" / "a.npy", image_size=16, progress=interrupt)
    assert files(tmp_path / "out") == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]
    assert (os.fstat(2).st_dev, os.fstat(2).st_ino) == (stderr.st_dev, stderr.st_ino)


def test_ctrl_c_keeps_the_previous_file(folder, tmp_path):
    first = prepare(str(folder), tmp_path / "a.npy", image_size=16)

    def interrupt(done, _):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(str(folder), tmp_path / "a.npy", image_size=32, progress=interrupt)
    assert open_packed(tmp_path / "a.npy").digest == first.digest


def test_too_small_a_disk_is_told_before_anything_is_written(folder, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(DataError, match=r"a\.npy would take 0 MB, and its disk has 0 MB free"):
        prepare(str(folder), tmp_path / "out" / "a.npy", image_size=16)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("moment", ["pixels", "sync"])
def test_a_disk_that_becomes_full_is_told_and_leaves_nothing(folder, tmp_path, monkeypatch, moment):
    (tmp_path / "out").mkdir()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "sync":
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.npy'"):
        prepare(
            str(folder),
            tmp_path / "out" / "a.npy",
            image_size=16,
            progress=full if moment == "pixels" else lambda *_: None,
        )
    assert files(tmp_path / "out") == []


def test_a_crash_between_json_and_pixels_is_prepared_again(folder, tmp_path, monkeypatch):
    real = os.replace

    def crash(source, target):
        if str(target).endswith(".npy"):
            raise RuntimeError("power cut")
        real(source, target)

    first = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    (folder / "00.png").unlink()
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        prepare(str(folder), tmp_path / "a.npy", image_size=16)
    monkeypatch.undo()
    with pytest.raises(DataError, match="not the file that its .json describes"):
        open_packed(tmp_path / "a.npy")  # new claim, old pixels
    second = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    assert (len(first), len(second)) == (37, 36)


def test_what_a_killed_process_left_is_removed_and_what_one_writes_is_not(folder, tmp_path):
    abandoned, alive = (tmp_path / f".a.npy.{digit * 16}.part" for digit in "01")
    mine = tmp_path / ".a.npy.mine.part"
    for path in (abandoned, alive, mine):
        path.write_bytes(b"x")
    with Lock(alive):
        prepare(str(folder), tmp_path / "a.npy", image_size=16)
    assert (abandoned.exists(), alive.exists(), mine.exists()) == (False, True, True)


def test_of_several_that_prepare_the_same_file_one_does_it_and_the_others_use_it(folder, tmp_path, monkeypatch, caplog):
    real, calls = image_to_row.fit_image, []

    def counted(*args):
        calls.append(args)
        time.sleep(0.01)
        return real(*args)

    monkeypatch.setattr(image_to_row, "fit_image", counted)
    with ThreadPoolExecutor(4) as pool:  # a lock is of a file that is open, so threads stand for processes here
        found = list(pool.map(lambda _: prepare(str(folder), tmp_path / "a.npy", image_size=16, workers=1), range(4)))
    assert len(calls) == 37
    assert len({packed.digest for packed in found}) == 1
    assert all(np.array_equal(packed.images, found[0].images) for packed in found)
    assert files(tmp_path) == ["a.json", "a.npy", "faces"]
    assert "Another process is preparing" in caplog.text


def test_pixels_that_another_process_put_in_place_are_not_taken_for_its_own(folder, tmp_path, monkeypatch):
    """As where file systems know no locks: the digest is of what is read, not of what was written."""
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((37, 3, 16, 16), np.uint8))
    real = os.replace

    def replaced(source, target):
        real(source, target)
        if str(target).endswith(".npy"):
            real(other, target)

    monkeypatch.setattr(os, "replace", replaced)
    with pytest.raises(DataError, match="not the file that its .json describes: sha256"):
        prepare(str(folder), tmp_path / "a.npy", image_size=16)


# --- what training uses


def test_cache_keeps_one_file_for_each_source_and_settings(folder, tmp_path, never_decode):
    root = tmp_path / "work" / "data"
    small = cached_packed(str(folder), root, image_size=16)
    large = cached_packed(str(folder), root, image_size=32)
    assert small.path.name.startswith("faces-16-")
    assert small.path.parent == large.path.parent == root
    assert len(files(root)) == 4
    never_decode()
    assert cached_packed(str(folder), root, image_size=16, seed=9).path == small.path


def test_cache_replaces_the_file_of_a_changed_source(folder, tmp_path):
    cached_packed(str(folder), tmp_path / "data", image_size=16)
    (folder / "00.png").unlink()
    assert len(cached_packed(str(folder), tmp_path / "data", image_size=16)) == 36
    assert len(files(tmp_path / "data")) == 2


@pytest.mark.parametrize("text", [None, "{torn", '{"mine": 1}'])
def test_training_overwrites_no_file_that_has_the_name_of_its_own(folder, tmp_path, text):
    """Without a JSON of ours nothing shows whose the .npy is."""
    path = cached_packed(str(folder), tmp_path / "data", image_size=16).path
    path.with_suffix(".json").unlink()
    if text:
        path.with_suffix(".json").write_text(text)
    np.save(path, np.arange(3))
    before = [each.read_bytes() for each in sorted((tmp_path / "data").iterdir())]
    with pytest.raises(FileExistsError, match="move it away") as caught:
        cached_packed(str(folder), tmp_path / "data", image_size=16)
    assert caught.value.filename == str(path)
    assert before == [each.read_bytes() for each in sorted((tmp_path / "data").iterdir())]


def test_folders_of_the_same_name_do_not_share_a_file(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other" / "faces")
    (tmp_path / "other" / "faces" / "00.png").unlink()
    a = cached_packed(str(folder), tmp_path / "data", image_size=16)
    b = cached_packed(str(tmp_path / "other" / "faces"), tmp_path / "data", image_size=16)
    assert (len(a), len(b)) == (37, 36)
    assert a.path != b.path


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a b/..c*?", "a-b-..c-16-"),
        ("脸 图", "脸-图-16-"),
        ("\udcff\n\x1b", "images-16-"),
        ("n" * 200, "n" * 40 + "-16-"),
    ],
)
def test_any_name_becomes_a_file_name(tmp_path, name, start):
    source = tmp_path / name.replace("/", "-")
    source.mkdir()
    (source / "a.png").write_bytes(encode(noise(16, 16)))
    path = cached_packed(str(source), tmp_path / "data", image_size=16).path
    assert path.name.startswith(start)
    assert path.parent == tmp_path / "data"


def test_cartoons_of_two_seeds_are_two_files(tmp_path):
    a, b = (cached_packed("cartoon:3", tmp_path, image_size=16, seed=seed) for seed in (0, 1))
    assert a.path != b.path
    assert a.path.name.startswith("cartoon-16-")


def test_a_packed_file_is_used_as_it_is(folder, tmp_path):
    packed = prepare(str(folder), tmp_path / "a.npy", image_size=16)
    again = cached_packed(str(tmp_path / "a.npy"), tmp_path / "data", image_size=16)
    assert (again.path, again.digest) == (packed.path, packed.digest)
    assert not (tmp_path / "data").exists()
    with pytest.raises(DataError, match="images of 16 pixels, not 64. Give --image-size 16"):
        cached_packed(str(tmp_path / "a.npy"), tmp_path / "data")


def test_a_packed_file_is_no_source_of_images(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 16, 16), np.uint8))
    with pytest.raises(DataError, match="is packed already"):
        prepare(str(tmp_path / "a.npy"), tmp_path / "b.npy")
