from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest

from deploy.manifest import (
    Manifest,
    ModelEntry,
    ModelError,
    Signature,
    read_manifest,
    read_verified,
    verify_files,
    write_manifest,
)


def edit(export, change) -> None:
    """Change the JSON of the manifest as somebody else would."""
    path = export.folder / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_what_is_written_is_read_again(export):
    manifest = dataclasses.replace(
        read_manifest(export.folder), checkpoint={"step": 7}, versions={"numpy": "2"}, precise_bn={"batches": 3}
    )
    write_manifest(export.folder, manifest)
    assert read_manifest(export.folder) == manifest


def test_the_file_states_what_another_program_needs(export):
    value = json.loads((export.folder / "manifest.json").read_text())
    assert value["format"] == 1
    assert value["input"] == {
        "name": "z", "dtype": "float32", "shape": ["batch", 8], "distribution": "standard normal",
    }  # fmt: skip
    assert value["output"] == {
        "name": "image", "dtype": "float32", "shape": ["batch", 3, 16, 16], "range": [-1, 1], "colour": "RGB",
    }  # fmt: skip
    content = (export.folder / "generator.onnx").read_bytes()
    assert value["files"]["generator.onnx"] == {
        "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content),
    }  # fmt: skip
    assert "triple32" in value["seed"]


def test_signatures_of_generator_and_discriminator():
    manifest = Manifest(100, 64, (), {})
    image = (3, 64, 64)
    assert manifest.signature(ModelEntry("generator", "onnx", ("g",))) == Signature("z", (100,), "image", image)
    found = manifest.signature(ModelEntry("discriminator", "paddle", ("d", "p")))
    assert found == Signature("image", image, "logit", (1,), "float32")


def test_find_prefers_fp32_and_never_takes_uint8():
    entries = (
        ModelEntry("generator", "onnx", ("u",), output_dtype="uint8"),
        ModelEntry("generator", "onnx", ("h",), precision="fp16"),
        ModelEntry("generator", "onnx", ("f",)),
        ModelEntry("discriminator", "onnx", ("d",)),
    )
    manifest = Manifest(8, 16, entries, {})
    assert manifest.find("generator", "onnx").files == ("f",)
    assert manifest.find("generator", "paddle") is None
    assert Manifest(8, 16, entries[:2], {}).find("generator", "onnx").files == ("h",)


def test_missing_folder_and_missing_manifest_say_how_to_get_one(tmp_path):
    with pytest.raises(ModelError, match=r"does not exist.*tools/export.py --format onnx"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no manifest.json.*tools/export.py"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"format": NaN}', "\x00\x01", "9" * 5000, '{"format": 1e999999}']
)
def test_damaged_json_is_one_sentence(export, text):
    (export.folder / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match=r"manifest.json") as caught:
        read_manifest(export.folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_bytes_that_are_no_text_are_refused(export):
    (export.folder / "manifest.json").write_bytes(b"\xff\xfe{}\xd8")
    with pytest.raises(ModelError, match="damaged"):
        read_manifest(export.folder)


def test_an_endless_manifest_is_not_read_to_its_end(export):
    with open(export.folder / "manifest.json", "r+b") as stream:
        stream.truncate(1 << 33)  # sparse
    with pytest.raises(ModelError, match="more than the 16,777,216 that are read"):
        read_manifest(export.folder)


def test_newer_format_is_refused_by_name(export):
    edit(export, lambda value: value.update(format=2))
    with pytest.raises(ModelError, match=r"format 2 is newer than 1.*Update"):
        read_manifest(export.folder)


ABSURD = {
    "no object": lambda v: v.clear(),
    "format text": lambda v: v.update(format="1"),
    "format true": lambda v: v.update(format=True),
    "format 0": lambda v: v.update(format=0),
    "input list": lambda v: v.update(input=[]),
    "input name": lambda v: v["input"].update(name="noise"),
    "input dtype": lambda v: v["input"].update(dtype="float64"),
    "latent 0": lambda v: v["input"].update(shape=["batch", 0]),
    "latent huge": lambda v: v["input"].update(shape=["batch", 10**12]),
    "latent float": lambda v: v["input"].update(shape=["batch", 8.0]),
    "fixed batch": lambda v: v["input"].update(shape=[1, 8]),
    "image not square": lambda v: v["output"].update(shape=["batch", 3, 16, 32]),
    "image grey": lambda v: v["output"].update(shape=["batch", 1, 16, 16]),
    "image huge": lambda v: v["output"].update(shape=["batch", 3, 1 << 20, 1 << 20]),
    "another colour": lambda v: v["output"].update(colour="BGR"),
    "another range": lambda v: v["output"].update(range=[0, 1]),
    "other latents": lambda v: v["input"].update(distribution="uniform"),
    "image missing": lambda v: v.pop("output"),
    "models none": lambda v: v.update(models=[]),
    "models dict": lambda v: v.update(models={}),
    "models twice": lambda v: v.update(models=v["models"] * 2),
    "model text": lambda v: v.update(models=["generator.onnx"]),
    "network": lambda v: v["models"][0].update(network="classifier"),
    "network list": lambda v: v["models"][0].update(network=["generator"]),
    "kind": lambda v: v["models"][0].update(kind="torch"),
    "precision": lambda v: v["models"][0].update(precision="int4"),
    "output dtype": lambda v: v["models"][0].update(output_dtype="object"),
    "file count": lambda v: v["models"][0].update(files=["generator.onnx", "generator.onnx"]),
    "file unlisted": lambda v: v["models"][0].update(files=["other.onnx"]),
    "file number": lambda v: v["models"][0].update(files=[3]),
    "opset": lambda v: v["models"][0].update(opset="17"),
    "files list": lambda v: v.update(files=[]),
    "sha short": lambda v: v["files"]["generator.onnx"].update(sha256="00"),
    "sha upper": lambda v: v["files"]["generator.onnx"].update(sha256="A" * 64),
    "bytes negative": lambda v: v["files"]["generator.onnx"].update(bytes=-1),
    "bytes huge": lambda v: v["files"]["generator.onnx"].update(bytes=1 << 60),
    "bytes of a model that fits no memory": lambda v: v["files"]["generator.onnx"].update(bytes=(4 << 30) + 1),
    "entry none": lambda v: v["files"].update({"generator.onnx": None}),
    "parity list": lambda v: v.update(parity=[]),
    "config NaN": lambda v: v["config"].update(lr=float("nan")),
    "config text": lambda v: v.update(config="x"),
}


def test_a_number_that_no_float_can_hold_is_refused(export):
    path = export.folder / "manifest.json"
    path.write_text(path.read_text("utf-8").replace('"config": {', '"config": {"huge": 1e999, '), "utf-8")
    with pytest.raises(ModelError, match=r"manifest.json is damaged: .*1e999 is larger than a number can be"):
        read_manifest(export.folder)


@pytest.mark.parametrize("change", ABSURD.values(), ids=ABSURD.keys())
def test_absurd_values_are_refused_with_the_path(export, change):
    edit(export, change)
    with pytest.raises(ModelError, match=r"manifest\.json(: | is damaged)") as caught:
        read_manifest(export.folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../generator.onnx", "/etc/passwd", "a/b", "a\\b", ".hidden", "..", "", "a\nb", "a\x1b[2J", "é", "manifest.json"],
)
def test_file_names_with_folders_or_oddities_are_refused(export, name):
    entry = {"sha256": "0" * 64, "bytes": 1}
    edit(export, lambda value: value["files"].update({name: entry}))
    with pytest.raises(ModelError, match=r"manifest\.json: files: .*not a plain file name") as caught:
        read_manifest(export.folder)
    assert "\x1b" not in str(caught.value)


def test_verified_bytes_are_the_files_bytes(export):
    manifest = read_manifest(export.folder)
    verify_files(export.folder, manifest)
    path = export.folder / "generator.onnx"
    assert read_verified(export.folder, manifest, path.name) == path.read_bytes()


def test_one_flipped_bit_a_cut_and_a_missing_file_are_told_apart(export):
    manifest = read_manifest(export.folder)
    path = export.folder / "generator.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"generator.onnx is damaged or was exchanged: its SHA-256 is"):
        verify_files(export.folder, manifest)
    path.write_bytes(content[:-1])
    with pytest.raises(ModelError, match=rf"it has {len(content) - 1:,} bytes, the manifest says {len(content):,}"):
        verify_files(export.folder, manifest)
    path.unlink()
    with pytest.raises(ModelError, match="missing, though the manifest names it"):
        verify_files(export.folder, manifest)


def test_write_refuses_what_read_would_refuse_and_leaves_the_old_one(export):
    manifest = read_manifest(export.folder)
    before = (export.folder / "manifest.json").read_bytes()
    with pytest.raises(ModelError, match="not listed under files"):
        write_manifest(export.folder, dataclasses.replace(manifest, files={}))
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(export.folder, dataclasses.replace(manifest, parity={"max": float("nan")}))
    assert (export.folder / "manifest.json").read_bytes() == before
    assert not list(export.folder.glob(".*"))
