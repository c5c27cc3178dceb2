"""Folders, archives and synthetic faces: what is listed, in which order, and what is refused by name."""

from __future__ import annotations

import inspect
import os
import re
import struct
import sys
import threading
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from dcgan.data.decode import Limits
from dcgan.data.sources import CARTOON_COUNT, open_source
from dcgan.data.synthetic_faces import draw_face
from dcgan.errors import DataError


def png(level, size=8):
    return cv2.imencode(".png", np.full((size, size, 3), level, np.uint8))[1].tobytes()


def names(source):
    return [source.name(i) for i in range(len(source))]


def levels(source):
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "faces"
    (root / "b" / "deep").mkdir(parents=True)
    for level, name in enumerate(("c.PNG", "b/2.jpeg", "b/deep/1.WebP", "a.bmp", "b/10.JPG")):
        (root / name).write_bytes(png(level))
    (root / "notes.txt").write_text("not an image")
    return root


def make_zip(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def patch_zip(path, name, local_offset, central_offset, value):
    """Overwrite a header field of the entry, in both of its headers."""
    data = bytearray(path.read_bytes())
    for start, name_start, offset in ((b"PK\x03\x04", 30, local_offset), (b"PK\x01\x02", 46, central_offset)):
        found = re.search(re.escape(start) + b".{%d}" % (name_start - 4) + name.encode(), bytes(data), re.DOTALL)
        data[found.start() + offset : found.start() + offset + len(value)] = value
    path.write_bytes(bytes(data))


# --- folders


def test_folder_is_searched_recursively_in_sorted_order_whatever_the_case_of_suffixes(folder):
    source = open_source(str(folder))
    assert names(source) == ["a.bmp", "b/10.JPG", "b/2.jpeg", "b/deep/1.WebP", "c.PNG"]
    assert levels(source) == [3, 4, 1, 2, 0]
    assert (source.kind, source.label) == ("folder", "faces")


def test_hidden_files_are_not_images(folder):
    (folder / "._a.bmp").write_bytes(b"macOS resource fork")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "x.png").write_bytes(png(9))
    assert len(open_source(str(folder))) == 5


def test_link_out_of_the_folder_is_refused_by_name_and_link_inside_is_read(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(77))
    (folder / "d.png").symlink_to(tmp_path / "secret.png")
    (folder / "e.png").symlink_to(folder / "c.PNG")
    (folder / "f.png").symlink_to("f.png")
    source = open_source(str(folder))
    assert names(source)[-3:] == ["d.png", "e.png", "f.png"]
    with pytest.raises(DataError, match="leads outside the folder"):
        source.image(5)
    assert source.image(6)[0, 0, 0] == 0
    with pytest.raises((OSError, DataError)):
        source.image(7)


def test_linked_folders_are_named_and_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").write_bytes(png(1))
    (folder / "z").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    source = open_source(str(folder))
    assert names(source)[-2:] == ["loop", "z"]
    for i in (5, 6):
        with pytest.raises(DataError, match="symbolic link"):
            source.image(i)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert levels(open_source(str(tmp_path / "link"))) == [3, 4, 1, 2, 0]


def test_folders_that_are_too_deep_are_one_line_or_are_read(folder):
    """Before Python 3.12, os.walk calls itself for each level: a traceback of a thousand lines."""
    deep = folder
    for _ in range(300):
        deep = deep / "d"
        deep.mkdir()
    depth, limit = len(inspect.stack()), sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 150)
    try:
        with open_source(str(folder), Limits()) as source:
            assert len(source) > 0
    except DataError as error:
        assert sys.version_info < (3, 12) and "folders within folders" in str(error)
    else:
        assert sys.version_info >= (3, 12)
    finally:
        sys.setrecursionlimit(limit)


def test_a_pipe_is_refused_and_does_not_block(folder):
    os.mkfifo(folder / "p.png")
    with pytest.raises(DataError, match="not a regular file"):
        open_source(str(folder)).image(5)


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_a_device_or_pipe_called_zip_is_refused_and_does_not_block(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.zip").symlink_to(target)
    with pytest.raises(DataError, match=r"x\.zip is not a \.zip: it is a (pipe|device)"):
        open_source(str(tmp_path / "x.zip"))


def test_runs_and_exports_of_this_project_are_no_training_data(folder, caplog):
    """As with --data . where work/ is."""
    for place, files in {
        "work/runs/00000-faces": ("config.json", "metrics.jsonl", "real.png", "samples/step-00000000.png"),
        "work/export": ("manifest.json", "generator.onnx", "sample.png"),
    }.items():
        for name in files:
            path = folder / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(9))
    source = open_source(str(folder))
    assert names(source) == ["a.bmp", "b/10.JPG", "b/2.jpeg", "b/deep/1.WebP", "c.PNG"]
    (line,) = caplog.messages
    assert line == "2 folders with runs or exports of this project left out: work/export, work/runs/00000-faces"
    assert names(open_source(str(folder / "work" / "export"))) == ["sample.png"]  # named by the user


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_of_kinds_that_are_not_read_are_counted_in_one_line_and_other_files_are_not(tmp_path, caplog, kind):
    content = ["a.png", "b.JFIF", "IMG_1.HEIC", "deep/IMG_2.heic", "scan.tif", "notes.txt", ".c.gif", ".cache/old.gif"]
    folder, archive = tmp_path / "faces", tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as written:
        for name in content:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(png(9))
            written.writestr(name, png(9))
    with open_source(str(folder if kind == "folder" else archive)) as source:
        assert names(source) == ["a.png", "b.JFIF"]
    assert caplog.messages == [
        "3 images of kinds that are not read left out (2 .heic, 1 .tif): save them as JPEG or PNG"
    ]


def test_a_changed_image_behind_a_link_changes_the_fingerprint(folder):
    """As with git-annex: the folder holds links into a hidden store inside it."""
    (folder / ".store").mkdir()
    (folder / ".store" / "1").write_bytes(png(50))
    (folder / "d.png").symlink_to(".store/1")
    source = open_source(str(folder))
    assert source.image(5)[0, 0, 0] == 50
    before = source.fingerprint()
    (folder / ".store" / "1").write_bytes(png(51, size=9))
    assert open_source(str(folder)).fingerprint() != before


def test_names_are_printable(folder):
    (folder / "z\x1b[31m\n.png").write_bytes(png(5))
    with open(os.fsencode(folder) + b"/z\xff.png", "wb") as stream:
        stream.write(png(6))
    (folder / "脸.png").write_bytes(png(7))
    source = open_source(str(folder))
    assert names(source)[5:] == ["z\\x1b[31m\\n.png", "z\\udcff.png", "脸.png"]
    assert levels(source)[5:] == [5, 6, 7]
    assert len(source.fingerprint()) == 64


def test_large_file_is_refused_before_it_is_read(folder):
    with open(folder / "d.png", "wb") as stream:
        stream.truncate(2**40)  # sparse: takes no space
    with pytest.raises(DataError, match="1099511627776 bytes, more than the limit .* --max-file-bytes 1099511627776"):
        open_source(str(folder)).image(5)


@pytest.mark.parametrize("change", ["content", "time", "added", "removed", "renamed"])
def test_folder_fingerprint_changes_with_the_folder(folder, change):
    before = open_source(str(folder)).fingerprint()
    assert open_source(str(folder)).fingerprint() == before
    if change == "content":
        (folder / "a.bmp").write_bytes(png(200, size=16))
    elif change == "time":
        os.utime(folder / "a.bmp", ns=(1, 1))
    elif change == "added":
        (folder / "d.png").write_bytes(png(1))
    elif change == "removed":
        (folder / "a.bmp").unlink()
    else:
        (folder / "a.bmp").rename(folder / "A.bmp")
    assert open_source(str(folder)).fingerprint() != before


def test_fingerprint_tells_images_apart_that_were_exchanged_under_equal_names_sizes_and_times(tmp_path):
    """As of two archives unpacked with fixed times, or of a photo edited by a program that puts its time back."""
    for name, level in (("a", 10), ("b", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.bmp").write_bytes(png(level))
        time.sleep(0.02)  # a kernel's clock for files ticks every few milliseconds
    sizes = {path.stat().st_size for path in tmp_path.rglob("0.bmp")}
    for path in tmp_path.rglob("0.bmp"):
        os.utime(path, ns=(1, 1))
        time.sleep(0.02)
    prints = {open_source(str(tmp_path / name)).fingerprint() for name in "ab"}
    before = open_source(str(tmp_path / "a")).fingerprint()
    (tmp_path / "a" / "0.bmp").write_bytes(png(30))
    os.utime(tmp_path / "a" / "0.bmp", ns=(1, 1))
    assert len(sizes | {len(png(30))}) == 1
    assert len(prints) == 2 and open_source(str(tmp_path / "a")).fingerprint() != before


def test_a_grid_of_generated_images_is_none_of_them(tmp_path):
    """As deploy/infer.py leaves it; a grid.png among other images is one of them."""
    entries = [(f"{folder}/{name}", png(1)) for folder in ("out", "in/out") for name in ("grid.png", "seed-000007.png")]
    entries += [("jpg/grid.png", png(1)), ("jpg/seed-000007.jpg", png(1)), ("mine/grid.png", png(1)), ("a.png", png(1))]
    for name, content in entries:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    expected = ["a.png", "in/out/seed-000007.png", "jpg/seed-000007.jpg", "mine/grid.png", "out/seed-000007.png"]
    assert names(open_source(str(tmp_path / "folder"))) == expected
    with open_source(str(make_zip(tmp_path / "x.zip", entries))) as source:
        assert names(source) == expected


# --- archives


def test_zip_is_read_in_place_in_sorted_order(tmp_path):
    path = make_zip(tmp_path / "Faces.ZIP", [("d/b.png", png(1)), ("a.JPG", png(2)), ("x.txt", b""), ("d/", b"")])
    before = sorted(os.walk(tmp_path))
    with open_source(str(path)) as source:
        assert names(source) == ["a.JPG", "d/b.png"]
        assert levels(source) == [2, 1]
        assert (source.kind, source.label) == ("zip", "Faces")
    assert sorted(os.walk(tmp_path)) == before


def test_entry_names_are_data_and_write_nothing(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    entries = ["../evil.png", "/etc/evil.png", "..\\evil.png", "C:\\evil.png", "a/../../evil.png", "\x1b[2J.png"]
    path = make_zip(inner / "evil.zip", [(name, png(i)) for i, name in enumerate(entries)])
    with open_source(str(path)) as source:
        assert sorted(levels(source)) == list(range(6))
        assert "\\x1b[2J.png" in names(source)
    assert [p.name for p in tmp_path.rglob("*")] == ["inner", "evil.zip"]


def test_what_macos_adds_to_a_zip_is_not_a_image(tmp_path):
    entries = [("a.png", png(1)), ("__MACOSX/._a.png", b"fork"), ("._b.png", b"fork")]
    with open_source(str(make_zip(tmp_path / "a.zip", entries))) as source:
        assert names(source) == ["a.png"]


def test_encrypted_entry_is_refused_and_the_others_are_read(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.png", png(1)), ("b.png", png(2))])
    patch_zip(path, "b.png", 6, 8, b"\x01\x00")
    with open_source(str(path)) as source:
        assert source.image(0)[0, 0, 0] == 1
        with pytest.raises(DataError, match="encrypted: unpack the archive with its password"):
            source.image(1)


def test_bomb_is_refused_by_its_ratio_unless_allowed(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.bmp", bytes(3_000_000))])
    with open_source(str(path)) as source, pytest.raises(DataError, match="more than the limit 100; ") as caught:
        source.image(0)
    needed = int(re.search(r"tools/prepare\.py --max-zip-ratio (\d+), then train on its \.npy$", str(caught.value))[1])
    with open_source(str(path), Limits(max_zip_ratio=needed - 1)) as source, pytest.raises(DataError, match="limit"):
        source.image(0)
    with open_source(str(path), Limits(max_zip_ratio=needed)) as source, pytest.raises(DataError, match="not a JPEG"):
        source.image(0)


def test_bomb_is_refused_by_its_size(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.bmp", bytes(5000))])
    with open_source(str(path), Limits(max_file_bytes=4999)) as source, pytest.raises(DataError, match="5000 bytes"):
        source.image(0)


def test_entry_that_lies_about_its_size_is_not_unpacked_further(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "a.zip", [("a.bmp", bytes(50_000_000))])
    patch_zip(path, "a.bmp", 22, 24, struct.pack("<I", 1000))
    unpacked = []
    monkeypatch.setattr("dcgan.data.sources.decode_image", lambda data, limits: unpacked.append(len(data)))
    tracemalloc.start()
    with open_source(str(path)) as source, pytest.raises(DataError, match="damaged archive entry"):
        source.image(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert not unpacked


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path, method):
    path = make_zip(tmp_path / "a.zip", [("a.png", png(1))], method)
    with open_source(str(path)) as source, pytest.raises(DataError, match=f"compressed by method {method}"):
        source.image(0)


def test_flipped_bit_in_an_entry_is_found(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.png", png(1))], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with open_source(str(path)) as source, pytest.raises(DataError, match="damaged archive entry"):
        source.image(0)


def test_many_threads_read_one_zip(tmp_path):
    path = make_zip(tmp_path / "a.zip", [(f"{i:03d}.png", png(i)) for i in range(200)])
    with open_source(str(path)) as source, ThreadPoolExecutor(8) as pool:
        start = threading.Barrier(8)

        def read(worker):
            start.wait()
            return [int(source.image(i)[0, 0, 0]) for i in range(200)]

        assert all(result == list(range(200)) for result in pool.map(read, range(8)))


def test_zip_fingerprint_changes_with_its_content(tmp_path):
    def fingerprint(entries):
        with open_source(str(make_zip(tmp_path / "a.zip", entries))) as source:
            return source.fingerprint()

    first = fingerprint([("a.png", png(1)), ("b.png", png(2))])
    assert first == fingerprint([("b.png", png(2)), ("a.png", png(1))])
    assert first != fingerprint([("a.png", png(1)), ("b.png", png(3))])
    assert first != fingerprint([("a.png", png(1)), ("c.png", png(2))])


@pytest.mark.parametrize("cut", [0, 3, 40, -30, -1])
def test_cut_zip_is_refused(tmp_path, cut):
    path = make_zip(tmp_path / "a.zip", [("a.png", png(1)), ("b.png", png(2))])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"a\.zip is damaged or not a \.zip"):
        open_source(str(path))


def test_random_damage_to_a_zip_is_an_error_of_ours_or_none(tmp_path):
    path = make_zip(tmp_path / "a.zip", [(f"{i}.png", png(i)) for i in range(3)])
    whole, random = path.read_bytes(), np.random.default_rng(3)
    for _ in range(300):
        data = bytearray(whole)
        for position in random.integers(len(data) - 220, len(data), 3):
            data[position] = random.integers(0, 256)
        path.write_bytes(data)
        try:
            with open_source(str(path)) as source:
                source.fingerprint()
                for i in range(len(source)):
                    try:
                        source.image(i)
                    except (DataError, OSError):
                        continue
        except DataError:
            continue


# --- synthetic faces


def test_cartoon_draws_the_faces_of_its_seed():
    source = open_source("cartoon:12", seed=5)
    assert len(source) == 12
    assert source.name(3) == "cartoon-000003"
    assert np.array_equal(source.image(3), draw_face(3, 5))
    assert source.image(3).shape == (218, 178, 3)
    assert len(open_source("cartoon")) == CARTOON_COUNT


def test_cartoon_fingerprint_is_of_count_and_seed():
    prints = {open_source(data, seed=seed).fingerprint() for data, seed in (("cartoon:2", 0), ("cartoon:3", 0))}
    assert len(prints | {open_source("cartoon:2", seed=1).fingerprint()}) == 3
    assert open_source("cartoon:2").fingerprint() in prints


@pytest.mark.parametrize(
    "data", ["cartoon:", "cartoon:0", "cartoon:-1", "cartoon:many", "cartoon:1e3", "cartoon:²", "cartoon:1000000000"]
)
def test_cartoon_count_must_be_a_whole_number(data):
    with pytest.raises(DataError, match="whole number of faces from 1 to 999999999, received cartoon:"):
        open_source(data)


# --- what is no source


def test_missing_path_says_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"no nowhere \(looked for {re.escape(str(tmp_path))}.nowhere\).*a \.zip"):
        open_source("nowhere")


def test_folder_without_images_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"no images in folder .* for \.jpg \.jpeg \.jpe \.jfif \.png \.bmp \.webp"):
        open_source(str(tmp_path))


def test_zip_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no images in .*a\.zip"):
        open_source(str(make_zip(tmp_path / "a.zip", [("a.txt", b"")])))


@pytest.mark.parametrize("name", ["a.tar.gz", "a.jpg", "a"])
def test_file_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"expected a folder of images, a \.zip"):
        open_source(str(tmp_path / name))


def test_no_name_is_not_the_current_folder():
    with pytest.raises(DataError, match="no data named"):
        open_source("")
