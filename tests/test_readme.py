"""What the pages print must work: commands name flags that exist, links lead somewhere, the library example runs."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "deploy", "deploy/web")
    for path in (ROOT / folder).glob("*.md")
)
# The tutorial's outline is compared in tests/docs; these Chinese pages are the first screen of a longer English one.
FIRST_SCREENS = ("quality", "scale", "reliability", "performance", "deploy/README", "deploy/web/README")
PAIRS = {page: page.replace(".zh.md", ".md") for page in PAGES if page.endswith(".zh.md") and "tutorial" not in page}
TOOLS = {
    "tools/train.py": ("tools.train", "build_parser"),
    "tools/prepare.py": ("tools.prepare", "parser"),
    "tools/export.py": ("tools.export", "parser"),
    "tools/evaluate.py": ("tools.evaluate", "parser"),
    "tools/report.py": ("tools.report", "parser"),
    "tools/benchmark.py": ("tools.benchmark", "parser"),
    "tools/doctor.py": ("tools.doctor", "parser"),
    "docs/make_figures.py": ("docs.make_figures", "parser"),
    "docs/make_images.py": ("docs.make_images", "parser"),
    "tests/soak/one_run.py": ("tests.soak.one_run", "parser"),
    "tests/soak/shared_folders.py": ("tests.soak.shared_folders", "parser"),
}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Widths, sizes and distances of GitHub's own page.
STYLE = """
body { margin: 0; font: 16px/1.5 "Noto Sans", "Noto Sans CJK SC", Helvetica, Arial, sans-serif; color: #1f2328 }
main { max-width: 980px; margin: 0 auto; padding: 32px 16px; overflow-wrap: break-word }
h1, h2 { margin: 24px 0 16px; padding-bottom: .3em; border-bottom: 1px solid #d1d9e0b3; line-height: 1.25 }
h1 { margin-top: 0; font-size: 2em } h2 { font-size: 1.5em } a { color: #0969da; text-decoration: none }
p, ul, table, pre { margin: 0 0 16px } ul { padding-left: 2em } li + li { margin-top: .25em } img { max-width: 100% }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse }
th, td { padding: 6px 13px; border: 1px solid #d1d9e0 } tr:nth-child(2n) { background: #f6f8fa }
code { padding: .2em .4em; font: 85% ui-monospace, "DejaVu Sans Mono", monospace; background: #818b981f }
pre { padding: 16px; overflow: auto; font-size: 85%; line-height: 1.45; background: #f6f8fa; border-radius: 6px }
pre code { padding: 0; font-size: 100%; background: none }
"""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Every command of this project in the page's shell blocks and code spans, as words."""
    text = (ROOT / page).read_text("utf-8")
    shell = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = shell.splitlines() + re.findall(r"`(python [^`]+)`", text)
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True) for part in parts if part.startswith("python ")]


def check_flags(words: list[str]) -> None:
    """Raise or exit where a command names a tool or a flag that does not exist."""
    if words[1:3] == ["-m", "paddle.distributed.launch"]:
        words = ["python", *words[words.index("tools/train.py") :]]
    if words[1] in TOOLS:
        module, parser = TOOLS[words[1]]
        flags = getattr(importlib.import_module(module), parser)()
        if not {"--help", "--help-all"} & set(words[2:]):
            flags.parse_args(words[2:])
    elif words[1:3] == ["-m", "dcgan.selftest"]:
        importlib.import_module("dcgan.selftest").parser().parse_args(words[3:])
    elif words[1] in ("deploy/infer.py", "deploy/serve.py"):
        importlib.import_module(f"deploy.{Path(words[1]).stem}").parse(words[2:])
    else:
        assert words[1] == "-m" and words[2] in ("pytest", "pip", "venv", "http.server"), words


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command_names_a_tool_and_flags_that_exist(page):
    for words in commands(page):
        check_flags(words)


def test_every_pytest_command_of_the_pages_selects_tests_that_exist():
    """By the names of files and functions: that the tests pass is another matter."""
    found = [
        (page, c)
        for page in PAGES
        for c in re.findall(r"`(?:\w+=\d+ )?(pytest [^`]+)`", (ROOT / page).read_text("utf-8"))
    ]
    assert len(found) >= 20
    empty = []
    for page, command in found:
        words = shlex.split(command)
        wanted = words[words.index("-k") + 1].lower().split(" or ") if "-k" in words else [""]
        paths = [ROOT / word for word in words if word.startswith("tests/")] or [ROOT / "tests"]
        files = [file for path in paths for file in ([path] if path.suffix else path.rglob("test_*.py"))]
        names = [
            f"{file} {name}".lower()
            for file in files
            for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.M)
        ]
        empty += [] if all(any(word in name for name in names) for word in wanted) else [f"{page}: {command}"]
    assert empty == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_source_that_a_page_names_is_there(page):
    named = re.findall(r"\b((?:dcgan|export|deploy|tools|tests|docs)/[\w/]+\.py)\b", (ROOT / page).read_text("utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_commands_of_the_pages_are_found():
    assert len(commands("README.md")) >= 15 and len(commands("docs/quality.md")) >= 10


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`: the headings, in lower case, without punctuation, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_image_leads_to_a_file_and_a_heading_in_it(page):
    text, missing = (ROOT / page).read_text("utf-8"), []
    for target in re.findall(r"\]\(([^)]+)\)", text) + re.findall(r' src="([^"]+)"', text):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not target.startswith("http") and (not path.exists() or (anchor and anchor not in anchors(path))):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize(("chinese", "english"), PAIRS.items(), ids=list(PAIRS))
def test_both_languages_print_the_same_commands_and_the_same_code(chinese, english):
    def bare(page: str, language: str) -> list[str]:
        """The lines of the page's blocks without their comments."""
        text = "\n".join(blocks(page, language)).replace("\\\n", " ")
        lines = (" ".join(re.sub(r"\s*#.*", "", line).split()) for line in text.splitlines())
        return [line for line in lines if line]

    first_screen = chinese.removesuffix(".zh.md").removeprefix("docs/") in FIRST_SCREENS
    for language in ("bash", "python"):
        found, expected = bare(chinese, language), bare(english, language)
        if first_screen:
            assert set(found) <= set(expected), language
        else:
            assert found == expected, language


@pytest.mark.parametrize("page", PAGES)
def test_no_line_of_a_code_block_is_wider_than_its_box(page):
    code = "\n".join(re.findall(r"```\w*\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL))
    assert [line for line in code.splitlines() if len(line) > 90] == []


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_readme_is_short(page):
    assert len((ROOT / page).read_text("utf-8").splitlines()) <= 120


def rendered(page: str) -> str:
    """A page as HTML, its images by their addresses on this machine."""
    markdown = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed: README cannot be rendered")
    body = markdown.MarkdownIt("commonmark", {"html": True}).enable("table").render((ROOT / page).read_text("utf-8"))
    base = f'<base href="{(ROOT / page).parent.as_uri()}/">'
    return f'<!doctype html><meta charset="utf-8">{base}<style>{STYLE}</style><main>{body}</main>'


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed: README cannot be opened")
@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_readme_is_at_most_2500_pixels_high_and_its_first_commands_need_no_scrolling(page, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    (tmp_path / "page.html").write_text(rendered(page), "utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.set_default_timeout(120_000)
        opened.goto((tmp_path / "page.html").as_uri())
        assert opened.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 100)")
        assert opened.evaluate("document.documentElement.scrollHeight") <= 2500
        assert opened.evaluate("document.querySelector('pre').getBoundingClientRect().bottom") <= 900
        boxes = "[...document.querySelectorAll('pre, table')].filter((box) => box.scrollWidth > box.clientWidth)"
        assert opened.evaluate(f"{boxes}.map((box) => box.textContent)") == []
        browser.close()


def test_the_library_example_runs(work_folder, capsys):
    code = blocks("docs/library.md", "python")[0]
    small = code.replace('data="cartoon"', 'data="cartoon:40"').replace("base_channels=32", "base_channels=4")
    assert small != code
    names: dict = {}
    small = small.replace("batch_size=16", "batch_size=20").replace("range(1000)", "range(30)")
    exec(compile(small, "docs/library.md", "exec"), names)
    assert names["images"].shape == (30, 3, 64, 64) and np.abs(names["images"]).max() <= 1
    assert names["report"]["figures"]["swd"] > 0
    assert (work_folder / "checkpoint" / "state.json").is_file()
    assert (work_folder / "work" / "export" / "generator.onnx").is_file()
