"""metrics.jsonl: what a killed process, another program or another person left in it loses no record."""

import json

import pytest

from dcgan.runs.records import MAX_BYTES, append_record, read_records


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl" if (tmp_path / "run").mkdir() is None else None


def test_a_record_after_half_a_line_is_a_line_of_its_own(path):
    """As after a kill -9: the next record was glued to the half line, and lost."""
    append_record(path, {"step": 1, "loss_d": 0.5})
    with open(path, "a") as stream:
        stream.write('{"step": 2, "lo')
    append_record(path, {"step": 2, "evaluate": {"swd": 3.0}})
    append_record(path, {"step": 3, "loss_d": float("nan")})
    assert read_records(path) == [
        {"step": 1, "loss_d": 0.5},
        {"step": 2, "evaluate": {"swd": 3.0}},
        {"step": 3, "loss_d": None},
    ]


def test_a_record_is_not_appended_through_a_link(path, tmp_path):
    (tmp_path / "precious.txt").write_text("years of work")
    path.symlink_to(tmp_path / "precious.txt")
    with pytest.raises(OSError):
        append_record(path, {"step": 1})
    assert (tmp_path / "precious.txt").read_text() == "years of work"


def test_records_are_not_read_from_outside_the_run_nor_without_end(path, tmp_path):
    (tmp_path / "other.jsonl").write_text(json.dumps({"step": 1, "secret": "mine"}) + "\n")
    path.symlink_to(tmp_path / "other.jsonl")
    with pytest.raises(OSError, match="leads out of"):
        read_records(path)
    path.unlink()
    with open(path, "wb") as stream:
        stream.truncate(MAX_BYTES + 1)  # a hole
    with pytest.raises(OSError, match="more than the .* that are read"):
        read_records(path)


def test_one_endless_line_and_other_nonsense_are_passed_over(path):
    lines = [
        b'{"step": 1}',
        b"[" * (2 << 20),
        b"\xff\xfe",
        b'{"step": "2"}',
        b"null",
        b'{"step": true}',
        b'{"step": 7}',
    ]
    path.write_bytes(b"\n".join(lines))
    assert [record["step"] for record in read_records(path)] == [1, 7]
