"""Every path argument of every tool, given what no path should lead to: an answer or one line, at once.

The arguments are found by walking the parsers, so that a new flag is covered on the day it comes; a new flag that takes
text must be listed below or count as a path.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import shutil
import signal
from pathlib import Path

import pytest

from deploy.infer import named_path
from tools import console

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {"crop", "device", "diffaugment", "host", "inception_output", "kernels"}  # flags whose text is no path
SECONDS = 15  # for one call, most take milliseconds: whoever is still waiting then waits for a pipe
# What a tool needs besides, so that it comes to look at the path.
BASE = {
    "train": "--image-size 16 --base-channels 4 --latent-dim 4 --batch-size 4 --dry-run",
    "prepare": "--image-size 16",
    "export": "--format onnx",
    "serve": "--port 0",
    "infer": "--n 1",
    "doctor": "--no-measure",
    "benchmark --model": "infer --rounds 1 --against none",
    "benchmark --data": "data --rounds 1 --against none",
}
NEEDED = {"train": {"data": "cartoon:8"}, "prepare": {"data": "cartoon:4", "out": "packed.npy"}}


class _FoundParser(BaseException):
    pass


def tool_modules():
    scripts = sorted([*(ROOT / "tools").glob("*.py"), *(ROOT / "deploy").glob("*.py")])
    scripts = [path for path in scripts if '__name__ == "__main__"' in path.read_text("utf-8")]
    return {path.stem: importlib.import_module(f"{path.parent.name}.{path.stem}") for path in scripts}


def parser_of(module) -> argparse.ArgumentParser:
    """The parser that the tool's `main` builds, taken at the moment when it would parse."""

    def stop(self, *_, **__):
        raise _FoundParser(self)

    before = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = stop
    try:
        module.main([])
    except _FoundParser as found:
        return found.args[0]
    finally:
        argparse.ArgumentParser.parse_args = before
    raise AssertionError(f"{module.__name__} parses nothing")


def path_arguments():
    """(tool, the flag or "" for a positional argument, its name) of every argument that takes a path."""
    for tool, module in tool_modules().items():
        for action in parser_of(module)._actions:
            takes_text = action.type in (None, str, Path, named_path) and action.nargs != 0 and not action.choices
            if takes_text and action.dest not in TEXTS:
                yield tool, (action.option_strings or [""])[0], action.dest


def make_pipe(path):
    os.mkfifo(path)


def make_huge(path):
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)  # a hole


JUNK = bytes(range(256)) * 8
KINDS = {
    "pipe": make_pipe,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "huge": make_huge,
    "empty": lambda path: path.touch(),
    "junk": lambda path: path.write_bytes(JUNK),
    "folder": lambda path: path.mkdir(),
}
SUFFIXES = ("", ".npy", ".zip", ".json", ".params", ".onnx")
FOLDER_FILES = ("manifest.json", "config.json", "metrics.jsonl", "state.json", "evaluate.json", "a.png")


def odd_paths(folder):
    for kind, make in KINDS.items():
        for suffix in SUFFIXES:
            path = folder / f"{kind}{suffix}"
            make(path)
            yield path
        if kind != "folder":  # a folder in which every file that a tool looks for is of this kind
            path = folder / f"of {kind}"
            path.mkdir()
            for name in FOLDER_FILES:
                make(path / name)
            yield path
    for name in ("nowhere", "", "a" * 300, "caf\udce9", "x\0y", str(folder / "empty" / "below a file")):
        yield name


def call(module, arguments) -> int:
    """The exit code, as a process would have it. Whatever is not an expected error is raised."""

    def late(*_):
        raise AssertionError(f"{module.__name__} {arguments} still waits after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return module.main(arguments) or 0
    except SystemExit as end:
        return end.code
    except console.EXPECTED as error:
        said = console.one_line(error)
        assert said and "\n" not in said
        return 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def quiet(monkeypatch):
    """No handlers of a tool remain, and no page is served: an odd path must have ended the tool before."""
    monkeypatch.setattr("socketserver.BaseServer.serve_forever", lambda *_, **__: None)
    # serve.py loads its model while uvicorn runs, which looks ten times a second whether to stop.
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(min(seconds, 0.001)))


def test_every_tool_is_found_and_has_paths():
    found = list(path_arguments())
    assert {tool for tool, _, _ in found} >= {
        *"train prepare export evaluate report infer serve benchmark doctor".split()
    }
    assert len(found) >= 20


@pytest.mark.parametrize(("tool", "flag", "name"), list(path_arguments()), ids=lambda value: str(value))
def test_odd_paths_are_an_answer_or_one_line(tool, flag, name, tmp_path, monkeypatch, quiet):
    module = tool_modules()[tool]
    work = tmp_path / "work here"
    work.mkdir()
    monkeypatch.chdir(work)
    (tmp_path / "odd").mkdir()
    needed = {f"--{n.replace('_', '-')}": value for n, value in NEEDED.get(tool, {}).items() if n != name}
    words = BASE.get(f"{tool} {flag}", BASE.get(tool, ""))
    base = [*words.split(), *(part for pair in needed.items() for part in pair)]
    for path in list(odd_paths(tmp_path / "odd")):
        arguments = [*base, *([flag] if flag else []), str(path)]
        assert call(module, arguments) in (0, 1, 2), arguments
        for left in work.iterdir():  # what an accepted path led to
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    for suffix in SUFFIXES:  # nothing of the user's is changed, but by an output that replaces it as a whole
        huge, junk = (tmp_path / "odd" / f"{kind}{suffix}" for kind in ("huge", "junk"))
        is_as_it_was = huge.stat().st_size == 1 << 40 and junk.read_bytes() == JUNK
        assert is_as_it_was or name in ("out", "work"), suffix
