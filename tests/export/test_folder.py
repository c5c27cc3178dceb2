import json
import subprocess
import sys
from pathlib import Path

import pytest

from dcgan.errors import ExportError
from deploy.files import Lock
from deploy.manifest import Manifest, ModelEntry, describe_files, write_manifest
from export.folder import replacing

ROOT = Path(__file__).resolve().parents[2]


def fill(folder, text):
    """A folder that reads as an export, whose model holds `text`."""
    (folder / "generator.onnx").write_text(text)
    models = (ModelEntry("generator", "onnx", ("generator.onnx",)),)
    write_manifest(folder, Manifest(8, 16, models, describe_files(folder, ["generator.onnx"])))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def exported(tmp_path):
    with replacing(tmp_path / "export") as part:
        fill(part, "old")
    return tmp_path / "export"


def left_behind(folder):
    return sorted(
        path.name for path in folder.parent.iterdir() if path.name not in (folder.name, f".{folder.name}.lock")
    )


def test_a_name_that_is_not_utf8_is_refused_in_one_line(tmp_path):
    """In Paddle it was a TypeError."""
    with pytest.raises(ExportError, match="not UTF-8"), replacing(tmp_path / "caf\udce9" / "out"):
        pass


def test_the_folder_appears_when_the_block_ends_and_not_before(tmp_path):
    out = tmp_path / "deep" / "export"
    with replacing(out) as part:
        fill(part, "new")
        assert not out.exists() and part.parent == out.parent
    assert (out / "generator.onnx").read_text() == "new" and left_behind(out) == []


def test_an_older_export_is_replaced_as_a_whole(exported):
    with replacing(exported) as part:
        fill(part, "new")
        assert (exported / "generator.onnx").read_text() == "old"
    assert (exported / "generator.onnx").read_text() == "new"
    assert sorted(content(exported)) == ["generator.onnx", "manifest.json"] and left_behind(exported) == []


def test_a_generator_params_beside_the_export_is_kept(exported):
    (exported / "generator.params").write_text("beside it")
    with replacing(exported) as part:
        fill(part, "new")
    assert sorted(content(exported)) == ["generator.onnx", "generator.params", "manifest.json"]
    assert (exported / "generator.params").read_text() == "beside it" and left_behind(exported) == []


def test_a_failure_leaves_the_older_export_to_the_byte(exported):
    before = content(exported)
    with pytest.raises(KeyError), replacing(exported) as part:
        fill(part, "new")
        raise KeyError
    assert content(exported) == before and left_behind(exported) == []


@pytest.mark.parametrize("moment", ["in the block", "before the swap", "after the first rename"])
def test_a_killed_process_leaves_the_older_export_for_the_next_one(exported, moment):
    before = content(exported)
    script = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from export import folder\n"
        f"moment = {moment!r}\n"
        "if moment == 'before the swap': folder._swap = lambda *a: os._exit(9)\n"
        "if moment == 'after the first rename':\n"
        "    folder.sync_folder = lambda f: None\n"
        "    rename, calls = folder.Path.rename, []\n"
        "    def once(self, target): calls.append(os._exit(9) if calls else rename(self, target))\n"
        "    folder.Path.rename = once\n"
        f"with folder.replacing({str(exported)!r}) as part:\n"
        "    (part / 'half').write_text('written')\n"
        "    if moment == 'after the first rename':\n"
        "        os.unlink(part / 'half')\n"
        f"        sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "        __import__('test_folder').fill(part, 'new')\n"
        "    if moment == 'in the block': os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 9
    assert (moment == "after the first rename") != exported.exists()
    with pytest.raises(KeyError), replacing(exported):
        assert content(exported) == before
        raise KeyError
    assert content(exported) == before and left_behind(exported) == []


@pytest.mark.parametrize(
    "kind", ["foreign file", "folder", "link inside", "damaged manifest", "no manifest", "a file", "a link"]
)
def test_what_no_export_wrote_is_never_deleted(exported, kind):
    if kind == "foreign file":
        (exported / "thesis.tex").write_text("years of work")
    elif kind == "folder":
        (exported / "generator.params").mkdir()
    elif kind == "link inside":
        (exported / "generator.params").symlink_to(exported.parent)
    elif kind == "damaged manifest":
        (exported / "manifest.json").write_text("{")
    elif kind == "no manifest":
        (exported / "manifest.json").unlink()
    else:
        exported.rename(exported.with_name("kept"))
        exported.write_text("mine") if kind == "a file" else exported.symlink_to(exported.with_name("kept"))
    before = sorted(exported.parent.rglob("*"))
    with pytest.raises(ExportError, match=r"give another --out|Give another --out"), replacing(exported):
        pytest.fail("nothing may be built")
    assert sorted(exported.parent.rglob("*")) == before


def test_what_a_desktop_leaves_in_a_folder_that_it_shows_keeps_no_export_from_being_replaced(exported):
    (exported / "Thumbs.db").write_bytes(b"")
    with replacing(exported) as part:
        fill(part, "new")
    assert not (exported / "Thumbs.db").exists()


@pytest.mark.parametrize("text", ["mine", "old and my own lines"])
def test_a_file_that_was_changed_after_the_export_is_never_deleted(exported, text):
    """A page for the browser that its user edited was replaced without a word, by the next export."""
    (exported / "generator.onnx").write_text(text)
    before = content(exported)
    told = r"generator\.onnx changed since.*Give another --out|generator\.onnx changed since.*give another --out"
    with pytest.raises(ExportError, match=told), replacing(exported):
        pytest.fail("nothing may be built")
    assert content(exported) == before and left_behind(exported) == []


def test_a_note_in_the_manifest_is_never_lost(exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    (exported / "manifest.json").write_text(json.dumps({**manifest, "note": "for the customer"}))
    before = content(exported)
    with pytest.raises(ExportError, match=r"manifest\.json with note.*ive another --out"), replacing(exported):
        pytest.fail("nothing may be built")
    assert content(exported) == before
    (exported / "manifest.json").write_text(json.dumps(manifest))
    with replacing(exported) as part:
        fill(part, "new")


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "export").mkdir()
    with replacing(tmp_path / "export") as part:
        fill(part, "new")
    assert (tmp_path / "export" / "manifest.json").exists()


def test_two_exports_at_the_same_time_are_refused(exported):
    lock = Lock(exported.with_name(".export.lock"))
    with lock, pytest.raises(ExportError, match="another process is exporting"), replacing(exported):
        pytest.fail("nothing may be built")
    assert (exported / "generator.onnx").read_text() == "old"


@pytest.mark.parametrize(
    "manifest", ['{"name": "My app", "icons": []}', '{"manifest_version": 3}', "[]", '{"format": 1}']
)
def test_a_manifest_of_another_program_vouches_for_nothing(tmp_path, manifest):
    """A web app, a browser extension: the folder was deleted, with exit code 0."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(ExportError, match="holds what no export wrote"), replacing(folder):
        pytest.fail("nothing may be built")
    assert (folder / "manifest.json").read_text() == manifest


@pytest.mark.parametrize("is_there", [True, False], ids=["beside an export", "beside nothing"])
def test_folders_that_only_have_the_name_of_a_leftover_are_not_touched(tmp_path, is_there):
    """`--out site` deleted the user's own .site.part, and renamed his .site.old."""
    out = tmp_path / "site"
    if is_there:
        with replacing(out) as part:
            fill(part, "old")
    mine = [tmp_path / name / "thesis.tex" for name in (".site.old", ".site.part", ".site.0123456789abcdef.old")]
    for path in mine:
        path.parent.mkdir()
        path.write_text("years of work")
    with replacing(out) as part:
        fill(part, "new")
    assert [path.read_text() for path in mine] == ["years of work"] * 3
    assert (out / "generator.onnx").read_text() == "new"


def test_the_working_directory_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    """`--out .` was exit 1 after a good export."""
    monkeypatch.chdir(tmp_path)
    for out in (".", "", tmp_path):
        with pytest.raises(ExportError, match="holds the working directory"), replacing(out):
            pytest.fail("nothing may be built")
    assert list(tmp_path.iterdir()) == []
