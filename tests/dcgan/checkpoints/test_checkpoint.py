"""Checkpoints are whole or refused by name, survive every crash and full disk, and nothing hostile gets past them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import random
import re
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from dcgan.checkpoints import checkpoint
from dcgan.checkpoints.checkpoint import (
    folder_name,
    list_checkpoints,
    read_checkpoint,
    read_newest,
    read_state,
    remove_checkpoint,
    remove_leftovers,
    write_checkpoint,
)
from dcgan.errors import CheckpointError
from deploy.untrusted import read_file

STATE = {"global_step": 7, "config": {"data": "人脸", "lr": 2e-4}, "extra": {"list": [1, 2.5, None, True]}}


def groups() -> dict:
    draw = np.random.default_rng(0)
    return {
        "generator": {"conv_1.weight": draw.normal(size=(3, 2, 4, 4)).astype(np.float32), "bn_1._mean": np.ones(3)},
        "generator_optimizer": {"conv_1.weight/moment1": np.arange(6, dtype=np.int64).reshape(2, 3)},
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "run" / folder_name(7), groups(), STATE)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def state_digest(state: dict) -> str:
    rest = {name: value for name, value in state.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def forge(folder: Path, **changes) -> None:
    """Change `state.json` as somebody would who knows the format: checksum included."""
    state = {**json.loads((folder / "state.json").read_text("utf-8")), **changes}
    state["checksum"] = state_digest(state)
    (folder / "state.json").write_text(json.dumps(state), "utf-8")


def forge_group(folder: Path, content: bytes) -> None:
    """Replace the generator's file by any bytes, with matching size and SHA-256."""
    (folder / "generator.safetensors").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    forge(folder, files={"generator.safetensors": entry})


# ---- round trip -----------------------------------------------------------------------------------------------------


def test_a_state_with_names_that_are_no_utf8_is_written_and_read(tmp_path):
    """A run with such a name in --data or --out ended at its first checkpoint, and nothing was saved."""
    state = {"extra": {"config": {"data": "caf\udce9", "out": "人脸"}}}
    found = read_checkpoint(write_checkpoint(tmp_path / "step-00000001", {"generator": {}}, state))
    assert found.state["extra"] == state["extra"]


def test_what_is_written_is_read_to_the_bit(folder):
    found = read_checkpoint(folder)
    assert found.folder == folder
    assert {name: found.state[name] for name in STATE} == STATE
    assert set(found.groups) == set(groups())
    for group, tensors in groups().items():
        assert set(found.groups[group]) == set(tensors)
        for name, tensor in tensors.items():
            assert found.groups[group][name].dtype == tensor.dtype
            assert np.array_equal(found.groups[group][name], tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        np.float32(3.5),
        np.zeros((), np.int64),
        np.zeros((0, 3), np.float32),
        np.arange(24.0, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(10, dtype=np.float32)[::-2],
        np.arange(5, dtype=">f4"),
        np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
        np.array([True, False]),
        np.arange(4, dtype=np.float16),
        np.array([2**32 - 1], np.uint32),
    ],
    ids=str,
)
def test_any_array_keeps_shape_type_and_values(tmp_path, tensor):
    path = write_checkpoint(tmp_path / "step-00000001", {"a": {"t": tensor}}, {})
    found = read_checkpoint(path).groups["a"]["t"]
    assert found.shape == np.shape(tensor)
    assert found.dtype == tensor.dtype.newbyteorder("=")
    assert np.array_equal(found, tensor, equal_nan=found.dtype.kind == "f")


def test_only_files_that_nothing_can_be_run_from(folder):
    assert names(folder) == ["generator.safetensors", "generator_optimizer.safetensors", "state.json"]
    assert set(load_file(folder / "generator.safetensors")) == {"conv_1.weight", "bn_1._mean"}  # by the library alone
    state = json.loads((folder / "state.json").read_text("utf-8"))
    assert state["checksum"] == state_digest(state)
    for name, entry in state["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_files_get_the_permissions_that_any_new_file_gets(folder):
    (folder.parent / "plain").write_text("")
    expected = (folder.parent / "plain").stat().st_mode
    assert {path.name: path.stat().st_mode for path in folder.iterdir()} == dict.fromkeys(names(folder), expected)


def test_state_whose_keys_are_numbers_can_be_read_again(tmp_path):
    path = write_checkpoint(tmp_path / "step-00000001", groups(), {"extra": {2: "a", 10: "b", 1: "c"}, "t": (1, 2)})
    state = read_state(path)
    assert state["extra"] == {"2": "a", "10": "b", "1": "c"}
    assert state["t"] == [1, 2]


def test_state_of_a_read_checkpoint_can_be_written_again(folder):
    again = write_checkpoint(folder.parent / "step-00000008", groups(), read_checkpoint(folder).state)
    assert read_state(again)["extra"] == STATE["extra"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "Caps", "", "a.b", "a" * 65, "a\n", "..", "a\\b", "état"])
def test_group_that_could_not_be_read_again_is_not_written(tmp_path, name):
    with pytest.raises(ValueError, match="group"):
        write_checkpoint(tmp_path / "run" / "step-00000001", {"good": {}, name: {"a": np.ones(1)}}, {})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list_checkpoints(tmp_path / "run") == []


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["generator.safetensors", "generator_optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("where", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_flipped_bit_anywhere_is_refused_by_the_files_name(folder, name, where):
    content = bytearray((folder / name).read_bytes())
    for bit in (0, 5):
        changed = content.copy()
        changed[int(where * (len(content) - 1))] ^= 1 << bit
        (folder / name).write_bytes(changed)
        if name == "state.json" and _same_json(changed, content):
            continue  # a blank became another blank
        with pytest.raises(CheckpointError, match=re.escape(name)):
            read_checkpoint(folder)


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["generator.safetensors", "generator_optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("keep", [0, 1, 8, 100, -3])
def test_truncated_file_is_refused_by_name(folder, name, keep):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=re.escape(name)):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["generator.safetensors", "state.json"])
def test_longer_file_is_refused_by_name(folder, name):
    with open(folder / name, "ab") as stream:
        stream.write(b"x")
    with pytest.raises(CheckpointError, match=re.escape(name)):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["generator.safetensors", "generator_optimizer.safetensors", "state.json"])
def test_missing_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["generator.safetensors", "state.json"])
def test_folder_in_place_of_a_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        read_checkpoint(folder)


def test_two_exchanged_files_are_refused(folder):
    one, other = folder / "generator.safetensors", folder / "generator_optimizer.safetensors"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.raises(CheckpointError, match="generator"):
        read_checkpoint(folder)


@pytest.mark.parametrize("path", ["nowhere", "file", ""])
def test_what_is_no_checkpoint_says_so(tmp_path, path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="not a checkpoint: it holds no state.json"):
        read_checkpoint(tmp_path / path)


# ---- hostile state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2, 99, "1"])
def test_newer_format_says_what_to_do(folder, value):
    forge(folder, format=value)
    with pytest.raises(CheckpointError, match=r"state.json"):
        read_checkpoint(folder)


def test_newer_format_names_both_versions(folder):
    forge(folder, format=2)
    with pytest.raises(CheckpointError, match="has format 2; this version reads format 1. Use the version that wrote"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../generator.safetensors",
        "/etc/passwd",
        "a/../generator.safetensors",
        "..\\generator.safetensors",
        "C:generator.safetensors",
        "generator.pickle",
        "generator.safetensors\n",
        ".safetensors",
        "",
        "Generator.safetensors",
        "gen\x00erator.safetensors",
    ],
)
def test_file_name_that_leaves_the_folder_is_refused_unopened(folder, name, monkeypatch):
    secret = folder.parent / "generator.safetensors"
    shutil.copy(folder / "generator.safetensors", secret)
    entry = read_state(folder)["files"]["generator.safetensors"]
    forge(folder, files={name: entry})
    opened = []
    monkeypatch.setattr(checkpoint, "load_safetensors", lambda content: opened.append(content))
    with pytest.raises(CheckpointError, match="lists a file that no checkpoint has"):
        read_checkpoint(folder)
    assert not opened


@pytest.mark.parametrize(
    "entry",
    [None, 3, [], "x", {}, {"bytes": None, "sha256": None}, {"bytes": -1}, {"bytes": 1e300}, {"bytes": [[0]]}],
)
def test_absurd_entry_of_a_file_is_refused(folder, entry):
    forge(folder, files={"generator.safetensors": entry})
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "3",
        "[]",
        '"x"',
        "{}",
        '{"files": []}',
        '{"files": {}}',
        '{"format": 1}',
        '{"files": {}, "format": 1}',
        '{"files": {}, "format": 1, "checksum": null}',
        '{"files": {}, "format": [1], "checksum": ""}',
        "NaN",
        '{"files": {}, "format": NaN}',
        '{"files": {}, "format": 1, "extra": {"swd": Infinity}}',
        "1" * 5000,
        '{"files": {}, "format": ' + "1" * 5000 + "}",
        '{"files": {}, "format": 1, "x": "\\ud800"}',
        "\ufeff{}",
    ],
    ids=lambda value: repr(value)[:60],
)
def test_absurd_state_is_refused_by_name(folder, text):
    (folder / "state.json").write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match=r"state\.json") as caught:
        read_checkpoint(folder)
    assert len(str(caught.value)) < 1000


def test_nesting_of_any_depth_is_refused_not_a_crash(folder):
    """Somewhere near the recursion limit reading still works and the checksum no longer does."""
    for depth in [*range(900, 1005), 5000, 100_000]:
        nested = "[" * depth + "]" * depth
        for text in ('{"files":{},"format":1,"x":%s}', '{"files":{},"format":%s}', '{"files":%s,"format":1}'):
            (folder / "state.json").write_text(text % nested)
            with pytest.raises(CheckpointError):
                read_checkpoint(folder)


def test_state_of_absurd_size_is_not_read(folder):
    with open(folder / "state.json", "r+b") as stream:
        stream.truncate(1 << 40)  # a hole, not a terabyte
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read: .* more than the 16,777,216 that are read"):
        read_checkpoint(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes and no /dev/zero on this system")
@pytest.mark.parametrize("name", ["generator.safetensors", "state.json"])
@pytest.mark.parametrize("kind", ["pipe", "endless device"])
def test_pipe_or_device_is_refused_unopened(folder, name, kind, monkeypatch):
    forge(folder, files={"generator.safetensors": {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}})
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    opened, open_ = [], os.open
    monkeypatch.setattr(
        os, "open", lambda path, *flags: (opened.append(os.path.basename(path)), open_(path, *flags))[1]
    )
    with pytest.raises(CheckpointError, match=re.escape(name)):
        read_checkpoint(folder)
    assert name not in opened and opened == ([] if name == "state.json" else ["state.json"])


def test_file_larger_than_memory_is_refused_by_name(folder, monkeypatch):
    def no_memory(path, *arguments, **how):
        if path.suffix == ".safetensors":
            raise MemoryError
        return read_file(path, *arguments, **how)

    monkeypatch.setattr("dcgan.checkpoints.checkpoint.read_file", no_memory)
    with pytest.raises(CheckpointError, match=r"generator\.safetensors"):
        read_checkpoint(folder)


def test_pickle_in_place_of_a_group_is_refused_and_not_run(folder, tmp_path):
    canary = tmp_path / "canary"
    forge_group(folder, b"cposix\nsystem\n(Vtouch " + str(canary).encode() + b"\ntR.")
    with pytest.raises(CheckpointError, match="generator.safetensors is not a safetensors file"):
        read_checkpoint(folder)
    assert not canary.exists()


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**63).to_bytes(8, "little"),
        safetensors_bytes(b""),
        safetensors_bytes(b"[]"),
        safetensors_bytes(b"[" * 50_000),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_malformed_group_with_a_right_digest_is_refused_by_name(folder, content):
    forge_group(folder, content)
    with pytest.raises(CheckpointError, match=r"generator\.safetensors is not a safetensors file that numpy can hold"):
        read_checkpoint(folder)


# ---- fuzz: an answer or a CheckpointError, nothing else -------------------------------------------------------------


def outcome(folder: Path) -> str:
    try:
        found = read_checkpoint(folder)
    except CheckpointError as error:
        assert str(error)
        return "refused"
    assert all(isinstance(t, np.ndarray) for tensors in found.groups.values() for t in tensors.values())
    return "read"


def mutated(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            changed[at:at] = rng.choice([b"[", b"{", b'"', b"\\u", b"9" * 30, b"-", b"1e999", b"null,", bytes(8)])
        elif kind == 2:
            del changed[at : at + rng.choice([1, 3, 40])]
        else:
            start = rng.randrange(len(content))
            changed[at:at] = content[start : start + rng.randrange(60)]
    return bytes(changed)


def test_mutated_state_never_does_anything_but_be_refused(folder):
    original = (folder / "state.json").read_bytes()
    rng = random.Random(1)
    for _ in range(300):
        changed = mutated(original, rng)
        (folder / "state.json").write_bytes(changed)
        assert outcome(folder) == "refused" or _same_json(changed, original)


def _odd_value(rng: random.Random):
    plain = [None, True, -1, 0, 2**63, 10**300, 1.5, -0.0, "", "../x", "\x00", [], {}, [[]], {"": {}}, "a" * 5000]
    return rng.choice([*plain, "".join(rng.choices(string.printable, k=9))])


def _replace_somewhere(value, rng: random.Random):
    """A copy of a JSON value in which one part, at any depth, is something odd, or under an odd name."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(sorted(value))
        changed = {**value, name: _replace_somewhere(value[name], rng)}
        if rng.random() < 0.15:
            changed["".join(rng.choices("./\\abc\n", k=4)) + ".safetensors"] = changed.pop(name)
        return changed
    return _odd_value(rng)


def test_forged_state_with_a_right_checksum_is_refused_or_read(folder):
    original = json.loads((folder / "state.json").read_text("utf-8"))
    rng = random.Random(2)
    seen = set()
    for _ in range(300):
        state = _replace_somewhere(original, rng)
        if isinstance(state, dict):
            state["checksum"] = state_digest(state)
        (folder / "state.json").write_text(json.dumps(state), "utf-8")
        seen.add(outcome(folder))
    assert seen == {"refused", "read"}


def test_mutated_tensors_with_a_right_digest_are_refused_or_read(folder):
    original = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((2, 0), np.int64)})
    rng = random.Random(3)
    seen = set()
    for _ in range(300):
        forge_group(folder, mutated(original, rng))
        seen.add(outcome(folder))
    assert seen == {"refused", "read"}


# ---- newest, listing, leftovers -------------------------------------------------------------------------------------


def test_newest_is_by_step_not_by_name_or_time(tmp_path):
    for step in (99999999, 100000000, 5):
        write_checkpoint(tmp_path / folder_name(step), {}, {"global_step": step})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000005", "step-99999999", "step-100000000"]
    assert read_newest(tmp_path).state["global_step"] == 100000000


def test_damaged_newest_is_named_and_passed_over(tmp_path, caplog):
    for step in (1, 2, 3):
        write_checkpoint(tmp_path / folder_name(step), groups(), {"global_step": step})
    (tmp_path / "step-00000003" / "state.json").write_bytes(b"torn")
    with open(tmp_path / "step-00000002" / "generator.safetensors", "r+b") as stream:
        stream.truncate(50)
    with caplog.at_level(logging.WARNING, "dcgan.checkpoints.checkpoint"):
        assert read_newest(tmp_path).state["global_step"] == 1
    told = caplog.text
    assert str(Path("step-00000003", "state.json")) in told
    assert str(Path("step-00000002", "generator.safetensors")) in told
    assert len(caplog.records) == 2


def test_no_checkpoint_and_no_whole_checkpoint_are_told_apart(tmp_path, folder):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match="no checkpoint under"):
            read_newest(root)
    (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint under"):
        read_newest(folder.parent)


def test_other_names_are_no_checkpoints(tmp_path):
    for name in ("step-1", "step-0000000x", ".step-00000001.5.part", "xstep-00000001", "step-00000001.old"):
        (tmp_path / name).mkdir()
    assert list_checkpoints(tmp_path) == []
    assert list_checkpoints(tmp_path / "step-1") == list_checkpoints(tmp_path / "none") == []


def test_leftovers_go_and_everything_else_stays(folder):
    root = folder.parent
    for name in (".step-00000009.123.part", ".step-00000001.123.old"):
        (root / name).mkdir()
        (root / name / "generator.safetensors").write_bytes(b"half")
    (root / ".step-00000008.0123456789abcdef.old").symlink_to(folder)  # of a link that was half removed
    for name in (".hidden", "notes", ".other.part"):
        (root / name).mkdir()
    thesis = root / ".step-00000007.123.part" / "thesis.tex"  # a name of ours, with something else inside
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    remove_leftovers(root)
    remove_leftovers(root / "nowhere")
    assert names(root) == [".hidden", ".other.part", thesis.parent.name, "notes", folder.name]
    assert thesis.exists()
    assert read_checkpoint(folder)


def test_removed_checkpoint_is_gone(folder):
    remove_checkpoint(folder)
    assert names(folder.parent) == []


def test_of_a_checkpoint_that_is_a_link_to_another_disk_only_the_link_is_removed_or_replaced(folder, tmp_path):
    """Seen as `training stopped: None` with --keep 1."""
    other = tmp_path / "other disk"
    other.mkdir()
    for step in (2, 3):
        elsewhere = write_checkpoint(other / f"step-{step:08d}", groups(), STATE)
        (folder.parent / elsewhere.name).symlink_to(elsewhere)
    assert read_checkpoint(folder.parent / "step-00000002").folder.is_symlink()
    remove_checkpoint(folder.parent / "step-00000002")
    write_checkpoint(folder.parent / "step-00000003", groups(), STATE)
    assert names(folder.parent) == ["step-00000003", folder.name]
    assert not (folder.parent / "step-00000003").is_symlink()
    for path in other.iterdir():
        assert read_checkpoint(path).state["global_step"] == STATE["global_step"]


def test_same_step_is_replaced(folder):
    write_checkpoint(folder, {"generator": {"a": np.ones(2)}}, {"global_step": 8})
    assert names(folder) == ["generator.safetensors", "state.json"]
    assert read_checkpoint(folder).state["global_step"] == 8
    assert names(folder.parent) == [folder.name]


# ---- crashes and full disks -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9: from here on not even the cleaning up happens."""


@contextlib.contextmanager
def killed_at(call: int):
    """Die at the `call`-th change of the file system, and let nothing change it after that. Yields a list of calls."""
    calls: list[str] = []

    def wrapped(name, real):
        def change(*args, **kwargs):
            calls.append(name)
            if len(calls) >= call:
                raise Killed
            return real(*args, **kwargs)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "mkdir"), (os, "rename"), (os, "rmdir"), (os, "unlink")):
            patch.setattr(owner, name, wrapped(name, getattr(owner, name)))
        patch.setattr(shutil, "rmtree", wrapped("rmtree", shutil.rmtree))
        patch.setattr(Path, "rename", wrapped("rename", Path.rename))
        patch.setattr(Path, "mkdir", wrapped("mkdir", Path.mkdir))
        yield calls


def test_killed_at_any_call_leaves_whole_checkpoints_only(tmp_path):
    """Both for a new step and for one that is there already; the one before it is never touched."""
    for same_step in (False, True):
        for call in range(1, 100):
            root = tmp_path / f"{same_step}-{call}"
            write_checkpoint(root / folder_name(1), groups(), {"global_step": 1})
            if same_step:
                write_checkpoint(root / folder_name(2), groups(), {"global_step": 2})
            with killed_at(call) as calls, contextlib.suppress(Killed):
                write_checkpoint(root / folder_name(2), groups(), {"global_step": 3})
            for path in list_checkpoints(root):
                read_checkpoint(path)
            assert (root / folder_name(1)).exists()
            remove_leftovers(root)
            write_checkpoint(root / folder_name(2), groups(), {"global_step": 4})
            assert names(root) == [folder_name(1), folder_name(2)]
            if len(calls) < call:
                break
        assert 8 < call < 99  # it was killed many times, and once not at all
        assert "fsync" in calls and "rename" in calls


def test_old_checkpoint_of_the_same_step_is_not_deleted_before_the_new_one_has_its_name(folder, monkeypatch):
    """Deleting takes a while. A kill within it must find one of the two under its name."""
    found = []
    real = shutil.rmtree

    def watching(path, *args, **kwargs):
        found.append((Path(path).exists(), folder.exists()))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", watching)
    write_checkpoint(folder, {}, {})
    assert any(is_there for is_there, _ in found)
    assert all(named for is_there, named in found if is_there)


def test_everything_is_on_the_disk_before_the_folder_gets_its_name(tmp_path, monkeypatch):
    order = []
    fsync, rename = os.fsync, Path.rename

    def inode_of(path):
        return os.stat(path).st_ino

    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(os.fstat(fd).st_ino), fsync(fd)))
    monkeypatch.setattr(Path, "rename", lambda a, b: (order.append("rename"), rename(a, b)))
    folder = write_checkpoint(tmp_path / "step-00000001", groups(), STATE)
    before, after = order[: order.index("rename")], order[order.index("rename") + 1 :]
    assert {inode_of(path) for path in folder.iterdir()} | {inode_of(folder)} == set(before)
    assert inode_of(tmp_path) in after


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_full_disk_is_an_oserror_and_older_checkpoints_stay(folder, monkeypatch, call):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "rename")), full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(folder.parent / folder_name(8), groups(), STATE)
    monkeypatch.undo()
    assert names(folder.parent) == [folder.name]
    assert read_newest(folder.parent).state["global_step"] == 7


@pytest.mark.parametrize("replaced", [False, True])
def test_file_system_that_takes_no_more_bytes_is_an_oserror_and_older_checkpoints_stay(folder, replaced):
    """A real refusal by the system, in the middle of the tensors' file."""
    resource = pytest.importorskip("resource", reason="only Unix can limit the size of a file")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"generator": {"a": np.zeros(100_000, np.float32)}}
    target = folder if replaced else folder.parent / folder_name(8)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(OSError):
            write_checkpoint(target, big, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(folder.parent) == [folder.name]
    assert set(read_checkpoint(folder).groups) == set(groups())


def test_what_a_desktop_leaves_in_a_folder_that_it_shows_keeps_no_checkpoint_from_being_replaced(folder):
    (folder / ".DS_Store").write_bytes(b"Bud1")
    assert checkpoint.holds_nothing_else(folder)
    write_checkpoint(folder, groups(), {})
    assert not (folder / ".DS_Store").exists()


@pytest.mark.parametrize("value", [float("nan"), {1}, np.float32(1)])
def test_state_that_is_not_json_leaves_nothing_behind(folder, value):
    with pytest.raises((ValueError, TypeError)):
        write_checkpoint(folder.parent / folder_name(8), groups(), {"x": value})
    assert names(folder.parent) == [folder.name]


@pytest.mark.parametrize("name", ["state.json", "generator.safetensors"])
def test_what_may_not_be_read_is_not_called_damaged_nor_passed_over(tmp_path, monkeypatch, name):
    """A wrong permission or an error of the disk; the newest checkpoint was renamed, and training went on before it."""
    for step in (1, 2):
        write_checkpoint(tmp_path / f"step-0000000{step}", {"generator": {"w": np.ones(3, np.float32)}}, {})

    def read(path, max_bytes, within):
        if path.name == name and path.parent.name == "step-00000002":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return read_file(path, max_bytes, within)

    monkeypatch.setattr(checkpoint, "read_file", read)
    with pytest.raises(PermissionError) as caught:
        checkpoint.read_newest(tmp_path)
    assert caught.value.filename == str(tmp_path / "step-00000002" / name)
    assert not checkpoint.holds_nothing_else(tmp_path / "step-00000002") or name != "state.json"


def test_a_folder_or_file_of_somebody_else_is_never_replaced(tmp_path):
    for name, is_folder in (("results", True), ("old.pdparams", False)):
        path = tmp_path / name
        if is_folder:
            path.mkdir()
        content = path / "thesis.tex" if is_folder else path
        content.write_text("years of work")
        with pytest.raises(FileExistsError, match="is not replaced: give a new path"):
            write_checkpoint(path, {"generator": {"weight": np.ones(2, np.float32)}}, {})
        assert content.read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.pdparams", "results"]
