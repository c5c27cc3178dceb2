import json
import re
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

from dcgan.errors import ProjectError
from tools import report

TOOL = Path(__file__).resolve().parents[2] / "tools" / "report.py"


@pytest.fixture
def runs(work_folder):
    folders = [work_folder / "work" / "train" / f"0000{i}-faces" for i in range(2)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss_d": 0.5}) + "\n")
    return folders


def test_without_arguments_all_runs_are_listed_newest_first_and_every_link_leads_to_a_report(runs, capsys):
    assert report.main([]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == Path("work/train/index.html")
    links = re.findall(r'"report": "([^"]+)"', page.read_text("utf-8"))
    assert links == ["00001-faces/report.html", "00000-faces/report.html"]
    assert all((page.parent / link).is_file() for link in links)


def test_a_folder_of_runs_means_its_newest(runs, capsys):
    assert report.main(["work/train"]) == 0
    assert capsys.readouterr().out.strip().endswith("00001-faces/report.html")
    assert (runs[1] / "report.html").is_file() and not (runs[0] / "report.html").exists()


def test_compare_writes_one_page_of_all(runs, work_folder, capsys):
    assert report.main(["--compare", *map(str, runs)]) == 0
    assert Path(capsys.readouterr().out.strip()) == Path("work/compare.html")
    page = (work_folder / "work" / "compare.html").read_text("utf-8")
    assert all(folder.name in page for folder in runs)


@pytest.mark.parametrize("name", ["state.json", "notes.md", "page.htm", "page"])
def test_a_comparison_is_written_to_html_alone(runs, name):
    """`--out .../state.json` made the last checkpoint unreadable."""
    (runs[0] / name).write_text("mine")
    with pytest.raises(ValueError, match=r"FILE\.html.*another --out"):
        report.main(["--compare", *map(str, runs), "--out", str(runs[0] / name)])
    assert (runs[0] / name).read_text() == "mine"


PAGES = {
    "work/compare.html": ["--compare", "work/train/00000-faces"],
    "work/train/index.html": [],
    "work/train/00001-faces/report.html": ["work/train"],
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_users_own_is_kept_and_one_of_ours_replaced(runs, name):
    page = Path(name)
    page.write_text("<!doctype html><title>My thesis</title>")
    with pytest.raises(FileExistsError, match="move it away") as caught:
        report.main(PAGES[name])
    assert caught.value.filename == name and page.read_text() == "<!doctype html><title>My thesis</title>"
    page.unlink()
    assert report.main(PAGES[name]) == report.main(PAGES[name]) == 0
    earlier = re.sub(r'<meta name="generator".*\n', "", page.read_text("utf-8"))
    assert "written by" not in earlier[:4096]
    page.write_text(earlier, "utf-8")  # as versions without the mark left it
    assert report.main(PAGES[name]) == 0 and "written by" in page.read_text("utf-8")


def test_open_shows_the_page_and_says_so_where_there_is_no_browser(runs, monkeypatch, capsys):
    shown = []

    class Browser:
        open = staticmethod(shown.append)  # returns None: it could not

    monkeypatch.setattr(webbrowser, "get", Browser)
    assert report.main([str(runs[0]), "--open"]) == 0
    assert shown == [(runs[0] / "report.html").resolve().as_uri()]
    assert "No browser found: open " in capsys.readouterr().err
    monkeypatch.setattr(webbrowser, "get", lambda: webbrowser.GenericBrowser("false"))  # would take the terminal
    assert report.main([str(runs[0]), "--open"]) == 0
    assert "No browser found: open " in capsys.readouterr().err


def test_a_folder_without_runs_is_an_error(work_folder):
    with pytest.raises(ProjectError, match="no run at work/train"):
        report.main([])


def test_the_tool_runs_from_another_folder_without_importing_paddle(runs, tmp_path):
    probe = f"import runpy, sys; sys.argv = ['report.py', {str(runs[0])!r}]\n" + (
        f"try: runpy.run_path({str(TOOL)!r}, run_name='__main__')\n"
        "except SystemExit as ended: print(ended.code, 'paddle' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert answer.stdout.splitlines()[-1] == "0 False", answer.stderr
