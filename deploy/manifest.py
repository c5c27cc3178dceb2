"""What an exported model is: `manifest.json`, read with suspicion, checked, and written. Standard library only.

An export folder holds one manifest and the files it names: models of a generator (and of a discriminator, if exported),
their checksums, the checkpoint they come from, and the figures that prove that they compute what it computes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from deploy.files import PathLike, atomic_write, json_bytes
from deploy.untrusted import MAX_JSON_BYTES, open_file, parse_json, read_file

EXPORT = Path("work/export")  # where tools/export.py writes to
DEMO = Path(__file__).resolve().parent / "demo"  # a generator of synthetic faces, to begin with
FORMAT = 1
FILE_NAME = "manifest.json"
NETWORKS = ("generator", "discriminator")
KINDS = {"onnx": 1, "paddle": 2}  # runtime family -> files per model (Paddle: the program, then its parameters)
PRECISIONS = ("fp32", "fp16-weights", "fp16")  # best first; fp16-weights: stored as float16, computed with as float32
OUTPUT_DTYPES = ("float32", "float16", "uint8")
SEED_SENTENCE = (
    "Value i of the latent of a seed is the inverse normal distribution (AS 241) of (b + 1/2) / 2^32, where b are the "
    "32 bits that two rounds of the triple32 mixer make of (seed, i); see deploy/seeds.py."
)
# What input and output mean, where a manifest says it: pixels read otherwise would be another image.
_MEANINGS: dict[str, dict[str, Any]] = {
    "input": {"distribution": "standard normal"},
    "output": {"range": [-1, 1], "colour": "RGB"},
}
_LARGEST_FILE = 4 << 30  # bytes; a file is checked and run from memory
_LARGEST_LATENT, _LARGEST_IMAGE = 65536, 4096
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelError(Exception):
    """An exported model is missing, damaged, of another format or shape, or cannot be run here."""


class Signature(NamedTuple):
    """One input and one output of a model; shapes are without the batch axis, the input is float32."""

    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    output_shape: tuple[int, ...]
    output_dtype: str = "float32"


class FileEntry(NamedTuple):
    """What a file must contain: hexadecimal SHA-256 and size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class ModelEntry:
    """One model that can be run. `files` are plain names: one for ONNX, program and parameters for Paddle."""

    network: str
    kind: str
    files: tuple[str, ...]
    precision: str = "fp32"
    output_dtype: str = "float32"
    opset: int | None = None
    ir_version: int | None = None


@dataclass(frozen=True)
class Manifest:
    """An export folder: generators map `z` float32 [batch, latent_dim] to `image` [batch, 3, image_size, image_size].

    `files` has an entry for every file that a model names. The dictionaries are JSON values, free in form:
    `checkpoint` - step, run, network.  `config` - the training configuration.  `versions` - library -> version.
    `precise_bn` and `parity` - what was measured, or None; `parity["reference"]` is what `infer.py --verify` repeats.
    """

    latent_dim: int
    image_size: int
    models: tuple[ModelEntry, ...]
    files: dict[str, FileEntry]
    checkpoint: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    precise_bn: dict[str, Any] | None = None
    parity: dict[str, Any] | None = None
    seed: str = SEED_SENTENCE

    def signature(self, model: ModelEntry) -> Signature:
        """Names, shapes and types that `model` must have."""
        image = (3, self.image_size, self.image_size)
        if model.network == "generator":
            return Signature("z", (self.latent_dim,), "image", image, model.output_dtype)
        return Signature("image", image, "logit", (1,), model.output_dtype)

    def find(self, network: str, kind: str) -> ModelEntry | None:
        """The model of `network` for runtime family `kind` whose output is a float, the most precise, or None."""
        found = [m for m in self.models if (m.network, m.kind) == (network, kind) and m.output_dtype != "uint8"]
        return min(found, key=lambda m: PRECISIONS.index(m.precision), default=None)


def default_folder() -> Path:
    """The export folder to use where none is named: `work/export`, or the demo as long as that does not exist."""
    return EXPORT if os.path.lexists(EXPORT) or not DEMO.is_dir() else DEMO


def read_manifest(folder: PathLike) -> Manifest:
    """The manifest of an export folder. Raises ModelError if it is missing, damaged, newer, or makes no sense."""
    path = Path(folder) / FILE_NAME
    if not os.path.lexists(path):
        what = "has no manifest.json" if path.parent.is_dir() else "does not exist or is a file"
        raise ModelError(
            f"the model folder {path.parent} {what}. Run `python tools/export.py --format onnx` first, "
            "or name an export folder with --model."
        )
    try:
        text = read_file(path, MAX_JSON_BYTES, within=path.parent)
        value = parse_json(text)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: not JSON ({error}). Export the model again.") from error
    try:
        return _from_json(value)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def write_manifest(folder: PathLike, manifest: Manifest) -> None:
    """Write `manifest.json`, atomically. Raises ModelError for one that `read_manifest` would refuse.

    Raises ValueError for values that are not JSON, NaN and infinity among them.
    """
    content = json_bytes(to_json(manifest))
    _from_json(json.loads(content))
    with atomic_write(Path(folder) / FILE_NAME) as stream:
        stream.write(content)


def describe_files(folder: PathLike, names: Iterable[str]) -> dict[str, FileEntry]:
    """The `files` of a manifest for plain file names in `folder`, which must be there (OSError)."""
    return describe_content({name: (Path(folder) / name).read_bytes() for name in names})


def describe_content(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """The `files` of a manifest for contents by name."""
    return {name: FileEntry(hashlib.sha256(content).hexdigest(), len(content)) for name, content in files.items()}


def read_verified(folder: PathLike, manifest: Manifest, name: str) -> bytes:
    """The content of a file of the manifest: exactly the bytes that were checked. Raises ModelError if they differ."""
    path, expected = Path(folder) / name, manifest.files[name]
    if not os.path.lexists(path):
        raise ModelError(f"{path} is missing, though the manifest names it. Copy the whole export folder.")
    try:
        with open_file(path, within=folder) as stream:
            size = os.fstat(stream.fileno()).st_size
            content = stream.read(size) if size == expected.bytes else b""
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}. Copy the whole export folder.") from error
    if size == expected.bytes:
        digest = hashlib.sha256(content).hexdigest()
        if digest == expected.sha256:
            return content
        found = f"its SHA-256 is {digest[:12]}..., the manifest says {expected.sha256[:12]}..."
    else:
        found = f"it has {size:,} bytes, the manifest says {expected.bytes:,}"
    raise ModelError(f"{path} is damaged or was exchanged: {found}. Copy or export it again.")


def verify_files(folder: PathLike, manifest: Manifest) -> None:
    """Check size and SHA-256 of every file of the manifest. Raises ModelError naming the first that differs."""
    for name in manifest.files:
        read_verified(folder, manifest, name)


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The content of `manifest.json`."""
    size = manifest.image_size
    models = []
    for m in manifest.models:
        entry = {"network": m.network, "kind": m.kind, "precision": m.precision, "files": list(m.files)}
        entry["output_dtype"] = m.output_dtype
        entry.update({k: v for k, v in (("opset", m.opset), ("ir_version", m.ir_version)) if v is not None})
        models.append(entry)
    return {
        "format": FORMAT,
        "input": {**_port("z", [manifest.latent_dim]), **_MEANINGS["input"]},
        "output": {**_port("image", [3, size, size]), **_MEANINGS["output"]},
        "seed": manifest.seed,
        "models": models,
        "files": {name: entry._asdict() for name, entry in manifest.files.items()},
        "checkpoint": manifest.checkpoint,
        "config": manifest.config,
        "versions": manifest.versions,
        "precise_bn": manifest.precise_bn,
        "parity": manifest.parity,
    }


def _port(name: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": ["batch", *shape]}


def _from_json(value: Any) -> Manifest:
    """A checked Manifest. Messages of the ModelError start with the key at fault; the caller adds the path."""
    _need(isinstance(value, dict), "expected a JSON object")
    version = value.get("format")
    _need(_is_int(version) and version >= 1, f"format must be a whole number from 1, received {_short(version)}")
    _need(version <= FORMAT, f"format {_short(version)} is newer than {FORMAT}, which is read here. Update deploy/.")
    latent_dim = _shape(value, "input", ["dim"], "z", _LARGEST_LATENT)
    image_size = _shape(value, "output", [3, "dim", "dim"], "image", _LARGEST_IMAGE)
    measured = "precise_bn" if "precise_bn" in value else "calibration"  # as it was called at first
    files = {name: _file(name, entry) for name, entry in _object(value, "files").items()}
    entries = value.get("models")
    _need(isinstance(entries, list) and entries, "models must be a list of at least one model")
    models = tuple(_model(entry, files) for entry in entries)
    names = [name for model in models for name in model.files]
    _need(len(set(names)) == len(names), "models: two of them have the same file")
    return Manifest(
        latent_dim=latent_dim,
        image_size=image_size,
        models=models,
        files=files,
        checkpoint=_object(value, "checkpoint"),
        config=_object(value, "config"),
        versions=_object(value, "versions"),
        precise_bn=None if value.get(measured) is None else _object(value, measured),
        parity=None if value.get("parity") is None else _object(value, "parity"),
        seed=str(value.get("seed", "")),
    )


def _shape(value: dict[str, Any], key: str, pattern: list[Any], name: str, largest: int) -> int:
    """Check the block `input` or `output` and return the one free number of its shape, "dim" in `pattern`."""
    port = _object(value, key)
    shape = port.get("shape")
    _need(isinstance(shape, list) and len(shape) == len(pattern) + 1, f"{key}.shape has {_short(shape)}")
    dim = shape[-1]
    in_range = _is_int(dim) and 1 <= dim <= largest
    _need(in_range, f"{key}.shape ends in {_short(dim)}; a whole number of 1 .. {largest} is expected")
    given = {**_MEANINGS[key], **port}
    expected = {**_port(name, [dim if n == "dim" else n for n in pattern]), **_MEANINGS[key]}
    for part, wanted in expected.items():
        found = given.get(part)
        _need(found == wanted, f"{key}.{part} must be {wanted}, received {_short(found)}")
    return dim


def _file(name: str, entry: Any) -> FileEntry:
    _need(
        _PLAIN_NAME.fullmatch(name) is not None and name != FILE_NAME,
        f"files: {_short(name)} is not a plain file name (letters, digits, '.', '_' and '-', no folders)",
    )
    _need(isinstance(entry, dict), f"files: {name} must have a sha256 and a number of bytes")
    sha256, size = entry.get("sha256"), entry.get("bytes")
    is_digest = isinstance(sha256, str) and _SHA256.fullmatch(sha256)
    _need(is_digest, f"files: {name} has no valid sha256 ({_short(sha256)})")
    _need(_is_int(size) and 0 < size <= _LARGEST_FILE, f"files: {name} has an impossible size ({_short(size)} bytes)")
    return FileEntry(sha256, size)


def _model(entry: Any, files: dict[str, FileEntry]) -> ModelEntry:
    _need(isinstance(entry, dict), f"models: expected objects, received {_short(entry)}")
    choices = {"network": NETWORKS, "kind": tuple(KINDS), "precision": PRECISIONS, "output_dtype": OUTPUT_DTYPES}
    for key, allowed in choices.items():
        found = entry.get(key)
        _need(found in allowed, f"models: {key} must be one of {allowed}, received {_short(found)}")
    names, kind = entry.get("files"), entry["kind"]
    in_number = isinstance(names, list) and len(names) == KINDS[kind]
    _need(in_number, f"models: {kind} has {KINDS[kind]} file(s), received {_short(names)}")
    for name in names:
        _need(isinstance(name, str) and name in files, f"models: file {_short(name)} is not listed under files")
    numbers = {key: entry.get(key) for key in ("opset", "ir_version")}
    for key, number in numbers.items():
        _need(number is None or (_is_int(number) and 0 < number < 1000), f"models: {key} cannot be {_short(number)}")
    return ModelEntry(entry["network"], kind, tuple(names), entry["precision"], entry["output_dtype"], **numbers)


def _object(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key, {})
    _need(isinstance(found, dict), f"{key} must be an object, received {_short(found)}")
    return found


def _need(condition: object, message: str) -> None:
    if not condition:
        raise ModelError(message)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
