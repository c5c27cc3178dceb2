"""A path of unknown origin leads to a regular file inside its folder, or to one sentence at once."""

from __future__ import annotations

import os
import socket

import pytest

from deploy.untrusted import UnsafeFileError, is_file, open_file, read_file


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


KINDS = {
    "a pipe": make_pipe,
    "a socket": make_socket,
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once_by_its_kind(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    KINDS[kind](tmp_path / "x")
    for read in (open_file, lambda path: read_file(path, 10), lambda path: read_file(path, 10, within="/")):
        with pytest.raises(UnsafeFileError) as caught:
            read("x")
        assert caught.value.strerror == f"it is {kind}; a file is expected" and caught.value.filename == "x"
    assert not is_file("x")


def test_a_file_is_read_whole_up_to_the_limit(tmp_path):
    path = tmp_path / "x"
    for size in (0, 1, 10):
        path.write_bytes(b"a" * size)
        assert read_file(path, 10) == read_file(path, 10, within=tmp_path) == b"a" * size
    path.write_bytes(b"a" * 11)
    with pytest.raises(UnsafeFileError, match="it has 11 bytes, more than the 10 that are read"):
        read_file(path, 10)


def test_terabytes_of_nothing_are_not_read(tmp_path):
    with open(tmp_path / "x", "wb") as stream:
        stream.truncate(1 << 40)  # a hole
    with pytest.raises(UnsafeFileError, match="1,099,511,627,776 bytes"):
        read_file(tmp_path / "x", 1 << 20)


def test_links_may_lead_anywhere_inside_the_folder_and_not_out_of_it(tmp_path):
    inside, secret = tmp_path / "run" / "deep", tmp_path / "secret"
    inside.mkdir(parents=True)
    secret.write_text("mine")
    (tmp_path / "run.txt").write_text("beside it, with a name that begins alike")
    (inside / "real").write_text("ours")
    links = {"out": secret, "up": "../../secret", "beside": "../../run.txt", "in": "real", "loop": "loop"}
    for name, target in links.items():
        (inside / name).symlink_to(target)
    (tmp_path / "run" / "folder").symlink_to(tmp_path)
    for path in (inside / "out", inside / "up", inside / "beside", tmp_path / "run" / "folder" / "secret"):
        assert is_file(path)
        with pytest.raises(UnsafeFileError, match="a link that leads out of"):
            read_file(path, 100, within=tmp_path / "run")
    assert read_file(inside / "in", 100, within=inside) == b"ours"
    with pytest.raises(OSError):
        read_file(inside / "loop", 100, within=inside)
    link_to_run = tmp_path / "link to run"  # the folder itself may be reached by a link
    link_to_run.symlink_to(tmp_path / "run")
    assert read_file(link_to_run / "deep" / "real", 100, within=link_to_run) == b"ours"


def test_what_is_read_is_what_was_opened(tmp_path):
    """Exchanged for another file after it was opened: the first one's content, whole."""
    path = tmp_path / "x"
    path.write_bytes(b"first")
    with open_file(path) as stream:
        path.unlink()
        path.write_bytes(b"other")
        assert stream.read() == b"first"


@pytest.mark.parametrize("path", ["nowhere", "nul\0l", "a" * 5000])
def test_impossible_paths_are_no_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert not is_file(path)
