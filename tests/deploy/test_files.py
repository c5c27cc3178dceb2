"""A file is the old one or the new one, never half of it, whatever goes wrong in between."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.files import Lock, LockedError, atomic_write, make_folders, remove_leftovers, write_json

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bytes_and_text_arrive_and_nothing_else_does(tmp_path):
    with atomic_write(tmp_path / "a.bin") as stream:
        stream.write(b"\x00\xff\r\n")
    with atomic_write(str(tmp_path / "b.txt"), "w") as stream:
        stream.write("Gesicht 人脸\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff\r\n"
    assert (tmp_path / "b.txt").read_text("utf-8") == "Gesicht 人脸\n"
    assert names(tmp_path) == ["a.bin", "b.txt"]


def test_a_thousand_folders_in_one_another_are_made(tmp_path):
    """Path.mkdir and os.makedirs, which call themselves for each folder above, ended in a RecursionError."""
    depth = sys.getrecursionlimit() + 100
    deepest = tmp_path.joinpath(*["d"] * depth)
    try:
        make_folders(deepest)
        make_folders(deepest)
        with atomic_write(deepest / "a.bin") as stream:
            stream.write(b"a")
        assert (deepest / "a.bin").read_bytes() == b"a"
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own way calls itself, too


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file"):
        make_folders(tmp_path / "file" / "folder")
    with pytest.raises(FileExistsError, match="file"):
        make_folders(tmp_path / "file")


@pytest.mark.parametrize("is_link", [False, True])
def test_a_device_or_pipe_is_never_replaced_by_a_file(tmp_path, is_link):
    """As root, `--out /dev/null` made a file of it: a machine without /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = tmp_path / "link" if is_link else pipe
    if is_link:
        path.symlink_to(pipe)
    with pytest.raises(OSError, match="a device, a pipe or a socket; a file is expected"), atomic_write(path):
        pass
    assert stat.S_ISFIFO(pipe.stat().st_mode) and path.is_symlink() == is_link
    assert names(tmp_path) == (["link", "pipe"] if is_link else ["pipe"])


def test_old_file_is_there_until_the_block_ends(tmp_path):
    (tmp_path / "a").write_text("old")
    with atomic_write(tmp_path / "a", "w") as stream:
        stream.write("new")
        stream.flush()
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_error_in_the_block_leaves_the_old_file_alone(tmp_path, error):
    (tmp_path / "a").write_text("old")
    with pytest.raises(error), atomic_write(tmp_path / "a") as stream:
        stream.write(b"half")
        raise error
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_is_an_oserror_and_leaves_the_old_file_alone(tmp_path, monkeypatch, call):
    (tmp_path / "a").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"deploy.files.os.{call}", full)
    with pytest.raises(OSError, match="No space left"), atomic_write(tmp_path / "a") as stream:
        stream.write(b"new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_content_is_flushed_to_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("deploy.files.os.fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr("deploy.files.os.replace", lambda a, b: (order.append("replace"), replace(a, b)))
    with atomic_write(tmp_path / "a") as stream:
        stream.write(b"x" * 100_000)
    assert order[:2] == ["fsync", "replace"]
    assert order[2:] == ([] if os.name == "nt" else ["fsync"])  # the folder


def test_killed_process_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from deploy.files import atomic_write\n"
        "with atomic_write(sys.argv[2]) as stream: stream.write(b'half'); stream.flush(); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ROOT), str(tmp_path / "a")], timeout=60, check=False)
    assert done.returncode == 9
    assert (tmp_path / "a").read_text() == "old"
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["a"]


def test_folder_must_exist_and_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_write(tmp_path / "nowhere" / "a"):
        pass


def test_file_gets_the_permissions_that_any_new_file_gets(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "ours"):
        pass
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_readable_by_people_and_machines(tmp_path):
    value = {"数据": "人脸.zip", "lr": 2e-4, "flip": False, "steps": [1, 2], "none": None}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text("utf-8")
    assert json.loads(text) == value
    assert "人脸.zip" in text and text.endswith("}\n") and "\n  " in text


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), {1, 2}])
def test_what_is_not_json_is_refused_and_the_old_file_stays(tmp_path, wrong):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"loss": wrong})
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert names(tmp_path) == ["a.json"]


# ---- several writers ------------------------------------------------------------------------------------------------


def test_two_writers_of_one_path_both_write_whole_files_though_both_are_process_1(tmp_path, monkeypatch):
    """As in two containers that share a folder: there every process may have the number 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with atomic_write(tmp_path / "a") as first, atomic_write(tmp_path / "a") as second:
        first.write(b"1" * 10)
        second.write(b"2" * 20)
        assert len(names(tmp_path)) == 2
    assert (tmp_path / "a").read_bytes() == b"1" * 10  # the last to end
    assert names(tmp_path) == ["a"]


def test_leftovers_of_dead_writers_go_and_nothing_else_does(tmp_path):
    leftover = tmp_path / ".a.0123456789abcdef.part"
    leftover.write_bytes(b"half")
    mine = [
        tmp_path / name for name in (".a.part", ".a.123.part", "a.0123456789abcdef.part", ".a.0123456789abcdef.old")
    ]
    for path in mine:
        path.write_text("not of atomic_write")
    (tmp_path / ".link.0123456789abcdef.part").symlink_to(mine[0])
    (tmp_path / ".folder.0123456789abcdef.part").mkdir()
    os.mkfifo(tmp_path / ".pipe.0123456789abcdef.part")
    kept = sorted(set(names(tmp_path)) - {leftover.name})
    with atomic_write(tmp_path / "b") as stream:  # at work while the other cleans up
        stream.write(b"whole")
        remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([*kept, "b"])
    assert (tmp_path / "b").read_bytes() == b"whole" and mine[0].read_text() == "not of atomic_write"


def test_names_as_long_as_a_file_system_allows_can_be_written(tmp_path):
    for name in ("a" * 255, "脸" * 85):
        with atomic_write(tmp_path / name) as stream:
            stream.write(b"x")
        assert (tmp_path / name).read_bytes() == b"x"


# ---- locks ----------------------------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_and_dies_with_it(tmp_path):
    lock, other = Lock(tmp_path / ".lock"), Lock(tmp_path / ".lock")
    lock.acquire()
    lock.acquire()  # it is held: nothing to do
    with pytest.raises(LockedError), other:
        pytest.fail("two hold it")
    lock.release()
    with other:
        assert other.is_locked and not lock.is_locked
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from deploy.files import Lock\n"
        "lock = Lock(sys.argv[2]); lock.acquire(); os._exit(9)"
    )
    command = [sys.executable, "-c", script, str(ROOT), str(tmp_path / ".lock")]
    assert subprocess.run(command, timeout=60, check=False).returncode == 9
    with lock:
        assert lock.is_locked


def test_a_lock_that_is_a_link_or_a_pipe_is_refused_and_what_it_points_to_stays(tmp_path):
    """filelock 3.12 truncates the target."""
    (tmp_path / "precious.txt").write_text("years of work")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious.txt")
    with pytest.raises(OSError, match="must be a plain file, this is a link"):
        Lock(tmp_path / ".lock").acquire()
    assert (tmp_path / "precious.txt").read_text() == "years of work"
    os.mkfifo(tmp_path / ".pipe")
    with pytest.raises(OSError, match="must be a plain file"):
        Lock(tmp_path / ".pipe").acquire()


def test_a_file_system_without_locks_is_a_warning_and_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    """As some mounts of Lustre answer."""

    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("deploy.files.fcntl.flock", unsupported)
    with Lock(tmp_path / ".lock") as lock, atomic_write(tmp_path / "a") as stream:
        stream.write(b"x")
        remove_leftovers(tmp_path)
        assert lock.is_locked
    assert names(tmp_path) == [".lock", "a"]
    assert [record.message.split(" of ")[0] for record in caplog.records] == ["The file system"]
