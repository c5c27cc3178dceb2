"""What the READMEs print must work: commands name flags that exist, links lead somewhere, the library example runs."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "README.zh.md",
    "deploy/README.md",
    "deploy/web/README.md",
    "docs/reliability.md",
    "docs/quality.md",
    "docs/performance.md",
    "docs/scale.md",
    "docs/tutorial.en.md",
    "docs/tutorial.zh.md",
)
TOOLS = {
    "tools/train.py": ("tools.train", "build_parser"),
    "tools/prepare.py": ("tools.prepare", "parser"),
    "tools/export.py": ("tools.export", "parser"),
    "tools/evaluate.py": ("tools.evaluate", "parser"),
    "tools/report.py": ("tools.report", "parser"),
    "tools/benchmark.py": ("tools.benchmark", "parser"),
    "tools/benchmark_scale.py": ("tools.benchmark_scale", "parser"),
    "docs/make_figures.py": ("docs.make_figures", "parser"),
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Every command of this project in the page's shell blocks and code spans, as words."""
    text = (ROOT / page).read_text("utf-8")
    lines = "\n".join(blocks(page, "bash")).splitlines() + re.findall(r"`(python [^`]+)`", text)
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True) for part in parts if part.startswith("python ")]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_names_a_tool_and_flags_that_exist(page):
    checked = 0
    for words in commands(page):
        if words[1:3] == ["-m", "paddle.distributed.launch"]:
            words = ["python", *words[words.index("tools/train.py") :]]
        if words[1] in TOOLS:
            module, parser = TOOLS[words[1]]
            flags = getattr(importlib.import_module(module), parser)()
            if words[2:] != ["--help"]:
                flags.parse_args(words[2:])
            checked += 1
        elif words[1] == "deploy/infer.py":
            importlib.import_module("deploy.infer").parse(words[2:])
            checked += 1
        else:
            assert words[1] == "-m" and words[2] in ("pytest", "pip", "http.server"), words
    assert checked


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_image_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text("utf-8"))
    missing = [t for t in targets if not t.startswith("http") and not (ROOT / page).parent.joinpath(t).exists()]
    assert missing == []


def test_both_languages_print_the_same_commands_and_the_same_code():
    def bare(text: str) -> str:
        return re.sub(r"\s*#.*", "", text)

    for language in ("bash", "python"):
        english, chinese = (list(map(bare, blocks(page, language))) for page in PAGES[:2])
        assert english == chinese


def test_the_library_example_runs(work_folder, capsys):
    code = blocks("README.md", "python")[0]
    small = code.replace('data="cartoon"', 'data="cartoon:40"').replace("base_channels=32", "base_channels=4")
    assert small != code
    names: dict = {}
    small = small.replace("batch_size=32", "batch_size=20").replace("range(1000)", "range(30)")
    exec(compile(small, "README.md", "exec"), names)
    assert names["images"].shape == (30, 3, 64, 64) and np.abs(names["images"]).max() <= 1
    assert names["report"]["figures"]["swd"] > 0
    assert (work_folder / "checkpoint" / "state.json").is_file()
    assert (work_folder / "work" / "export" / "generator.onnx").is_file()


def test_requirements_of_all_machines_agree_but_for_the_gpu_builds():
    def lines(name: str) -> set[str]:
        found = (ROOT / name).read_text("utf-8").splitlines()
        return {line.replace("-gpu", "") for line in found if line and not line.startswith(("#", "-"))}

    assert lines("requirements.txt") == lines("requirements-gpu.txt")
    names = {re.split(r"[<>=]", line)[0] for line in lines("requirements.txt")}
    assert {re.split(r"[<>=]", line)[0] for line in lines("deploy/requirements.txt")} <= names
