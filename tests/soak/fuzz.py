"""Coverage-guided fuzzing of everything that reads a file of unknown origin, with atheris (`pip install atheris`).

    python tests/soak/fuzz.py params tests/fixtures/fuzz/params -max_total_time=600

The first argument names a target below, the rest is libFuzzer's: folders of inputs (new ones are added to the first)
and its flags. A target takes bytes and returns; any exception is a finding. tests/test_fuzz_corpus.py runs the inputs
that are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def params(data: bytes) -> None:
    """`generator.params`: a dict of arrays no larger than the file, or CheckpointError. Nothing is executed."""
    path = _file("generator.params", data)
    with contextlib.suppress(CheckpointError):
        arrays = read_params(path)
        assert all(isinstance(name, str) and type(array) is numpy.ndarray for name, array in arrays.items())
        assert sum(array.nbytes for array in arrays.values()) <= len(data)


def pickle(data: bytes) -> None:
    """The same behind a valid head, so that instructions rather than the first bytes are tried."""
    params(b"\x80\x02}q\x00(" + data + b"u.")


def state(data: bytes) -> None:
    """A checkpoint's state.json, its checksum made right, so that what comes after the checksum is reached."""
    folder = _file("state.json", data).parent
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
        if isinstance(value, dict):
            value["checksum"] = checkpoint._state_checksum(value)
            (folder / "state.json").write_text(json.dumps(value))
    with contextlib.suppress(CheckpointError):
        found = checkpoint.read_checkpoint(folder)
        with contextlib.suppress(KeyError, TypeError, ValueError):  # as dcgan.resume.saved_config does
            TrainConfig.from_mapping({**found.state["extra"]["config"]}).validate()


def safetensors(data: bytes) -> None:
    """A group of a checkpoint whose size and digest are right."""
    folder = _file("generator.safetensors", data).parent
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with contextlib.suppress(CheckpointError):
        checkpoint._read_group(folder / "generator.safetensors", entry)


def seeds(data: bytes) -> None:
    """`--seeds`: what was parsed is in range, each once, and costs nothing however long."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(ValueError):
        found = Seeds.parse(text)
        assert 0 < sum(map(len, found.parts)) <= 2**32
        assert all(0 <= part[0] <= part[-1] < 2**32 for part in found.parts)


def manifest(data: bytes) -> None:
    """manifest.json of an export: what is accepted is written and read again as the same."""
    folder = _file("manifest.json", data).parent
    with contextlib.suppress(ModelError):
        found = read_manifest(folder)
        write_manifest(folder, found)
        assert to_json(read_manifest(folder)) == to_json(found)


def onnx(data: bytes) -> None:
    """The check that comes before any runtime sees an ONNX file."""
    with contextlib.suppress(ModelError):
        check_onnx(data)


def program(data: bytes) -> None:
    """The same for a Paddle program, with parameters enough for any."""
    with contextlib.suppress(ModelError):
        check_paddle(data, b"\0" * 1_000_000)


def npy(data: bytes) -> None:
    """A packed file: what is accepted holds as many images as it says, all of which can be read."""
    path = _file("a.npy", data)
    with contextlib.suppress(DataError):
        found = open_images(path)
        assert found.nbytes <= len(data) and found[:].shape == found.shape
        assert found[[0, len(found) - 1]].shape == (2, *found.shape[1:])


def records(data: bytes) -> None:
    """metrics.jsonl: records, and a report of a run that holds nothing else."""
    folder = _file("metrics.jsonl", data).parent
    read_records(folder / "metrics.jsonl")
    with contextlib.suppress(OSError, ProjectError):
        write_report(folder)


TARGETS = (params, pickle, state, safetensors, seeds, manifest, onnx, program, npy, records)
_work = tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def _file(name: str, data: bytes) -> Path:
    """A file of this content, alone in its folder."""
    folder = Path(_work.name) / name
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def main() -> None:
    import atheris

    target = {each.__name__: each for each in TARGETS}[sys.argv.pop(1)]
    with atheris.instrument_imports(include=["dcgan", "deploy", "pickletools", "json"]):
        _import_deploy()
        if target not in (onnx, program, seeds, manifest):
            _import_dcgan()
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


def _import_deploy() -> None:
    """What the targets use, as globals: under atheris it must be imported where its coverage is counted."""
    global ModelError, Seeds, check_onnx, check_paddle, read_manifest, to_json, write_manifest
    sys.path.insert(0, str(ROOT))
    from deploy.manifest import ModelError, read_manifest, to_json, write_manifest
    from deploy.model_check import check_onnx, check_paddle
    from deploy.seed_ranges import Seeds


def _import_dcgan() -> None:
    global CheckpointError, DataError, ProjectError, TrainConfig, checkpoint, numpy, open_images, read_params
    global read_records, write_report
    import numpy

    from dcgan.checkpoints import checkpoint
    from dcgan.checkpoints.params import read_params
    from dcgan.config import TrainConfig
    from dcgan.data.packed import open_images
    from dcgan.errors import CheckpointError, DataError, ProjectError
    from dcgan.runs.records import read_records
    from dcgan.runs.report import write_report


if __name__ == "__main__":
    main()
else:
    _import_deploy()
    _import_dcgan()
