"""The report in a real browser: what it shows, and that its controls do what they say."""

import dataclasses
import json

import numpy as np
import pytest

from dcgan.config import TrainConfig
from dcgan.runs.gallery import write_gallery
from dcgan.runs.report import write_comparison, write_report


def test_slider_clicks_keys_and_language_do_what_they_say(open_page, make_run):
    script = """
      const slider = document.querySelector('input[type=range]'), box = document.querySelector('.grid');
      const face = () => document.querySelector('.face > canvas').getContext('2d').getImageData(80, 80, 1, 1).data[0];
      const caption = () => document.querySelector('.face figcaption').textContent;
      const slid = [], chosen = [];
      for (const index of [0, 1, 2]) {
        slider.value = index; slider.oninput(); await wait(200);
        slid.push([face(), document.querySelector('.legend b').textContent,
          document.querySelector('output').textContent, document.querySelector('.grid img').src.slice(-40)]);
      }
      const area = box.getBoundingClientRect();
      const at = { clientX: area.left + 0.75 * area.width, clientY: area.top + 0.55 * area.height };
      const say = async () => { await wait(200); chosen.push([caption(), face()]); };
      const press = (key) => box.dispatchEvent(new KeyboardEvent('keydown', { key }));
      box.dispatchEvent(new MouseEvent('click', at)); await say();
      press('ArrowRight'); await say();
      press('ArrowUp'); await say();
      document.querySelector('.strip button').click(); await say();
      const titles = () => [...document.querySelectorAll('h2')].map((node) => node.textContent);
      const english = titles(); document.querySelector('.language').click();
      return { slid, chosen, english, chinese: titles(), last: slider.max };
    """
    found = open_page(write_report(make_run("00000-faces")), script)
    faces, losses, steps, grids = zip(*found["slid"])
    assert found["last"] == "2" and np.abs(np.subtract(faces, (0, 60, 120))).max() < 20 and len(set(grids)) == 3
    assert losses == ("0.1", "1", "2") and steps == ("step 0", "step 100", "step 200")
    captions, greys = zip(*found["chosen"])
    assert captions == ("Seed 57 at step 200", "Seed 58 at step 200", "Seed 48 at step 200", "Seed 48 at step 0")
    assert greys[0] > 235 and np.abs(np.subtract(greys[1:], (120, 120, 0))).max() < 20
    assert "Curves" in found["english"] and "曲线" in found["chinese"]
    assert not set(found["english"]) & set(found["chinese"])


def test_runs_side_by_side_share_the_slider_and_overlay_their_curves(open_page, make_run, tmp_path):
    runs = [make_run("00000-a"), make_run("00001-b", grey=(10, 70, 130, 200))]
    script = """
      const slider = document.querySelector('input[type=range]');
      slider.value = 3; slider.oninput(); await wait(100);
      return [slider.max, [...document.querySelectorAll('.grid img')].map((image) => image.alt),
        document.querySelector('.chart').querySelectorAll('svg[role=img] path').length];
    """
    last, captions, lines = open_page(write_comparison(runs, tmp_path / "compare.html"), script)
    assert last == "3" and lines == 4
    assert [caption.rpartition(" ")[2] for caption in captions] == ["200", "300"]


def test_a_run_without_records_is_not_called_healthy_nor_its_faces_clickable(open_page, tmp_path):
    run = tmp_path / "00000-a"
    run.mkdir()
    (text,) = open_page(write_report(run), "return [document.getElementById('page').textContent];")
    assert "There are no sample grids" in text and "OK throughout" not in text and "Click a face" not in text


def test_the_rows_of_an_evaluation_are_words_in_both_languages_and_checksums_are_folded(open_page, make_run):
    run = make_run("00000-faces")
    report = {
        "figures": {"swd": 30.0, "swd_64": 40.0, "nearest_ratio": 1.1},
        "protocol": {"version": 1, "n_real": 500, "crop": "tutorial", "data": "0123456789abcdef", "features": None},
        "target": {"kind": "checkpoint", "pixels_sha256": "f" * 64},
    }
    (run / "evaluate.json").write_text(json.dumps(report))
    script = """
      const sections = () => [...document.querySelectorAll('section')];
      const table = () => sections().find((s) => s.querySelector('td')?.closest('.pair'));
      const labels = (all) => [...table().querySelectorAll(all)].map((tr) => tr.cells[0].textContent);
      const english = labels('tr'), folded = labels('details tr');
      document.querySelector('.language').click();
      return { english, folded, chinese: labels('tr') };
    """
    found = open_page(write_report(run), script)
    assert found["english"][:2] == ["sliced Wasserstein distance, mean", "sliced Wasserstein distance, 64 pixels"]
    assert len(found["english"]) == 10 and not [label for label in found["english"] if "_" in label or "." in label]
    assert found["folded"] == ["version", "data", "pixels sha256"]
    assert found["chinese"][:2] == ["sliced Wasserstein 距离，平均", "sliced Wasserstein 距离，64 像素"]


AXE = """
  const faults = (await axe.run()).violations.map((f) => [f.impact, f.id, f.nodes.map((n) => n.html)]);
  return [matchMedia('(prefers-color-scheme: dark)').matches, faults];
"""


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("report", "light"), ("gallery", "dark"), ("comparison", "light"), ("comparison", "dark")],
)
def test_axe_finds_no_serious_fault(open_page, make_run, tmp_path, kind, scheme):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    runs = [make_run(f"0000{i}-run", grey=(10 * i, 70, 130)) for i in range(6)]  # one of every colour
    (runs[0] / "evaluate.json").write_text(json.dumps({"figures": {"swd": 30.0}, "protocol": {"n_real": 500}}))
    page = {
        "report": lambda: write_report(runs[0]),
        "comparison": lambda: write_comparison(runs, tmp_path / "compare.html"),
        "gallery": lambda: write_gallery(tmp_path),
    }[kind]()
    is_dark, faults = open_page(
        page,
        f"{axe.AXE_SCRIPT}; {AXE}",
        flags=[f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"],
    )
    assert is_dark == (scheme == "dark")
    assert [fault for fault in faults if fault[0] in ("serious", "critical")] == []


def test_every_setting_is_words_and_its_flag_in_both_languages(open_page, make_run):
    run = make_run("00000-faces")
    (run / "config.json").write_text(json.dumps({**TrainConfig(lr=0.001).to_json(), "of_another_version": 3}))
    script = """
      const cells = () => [...document.querySelectorAll('td:first-child')].filter((td) => td.querySelector('code'));
      const texts = () => cells().map((td) => [td.querySelector('code').textContent, td.firstChild.textContent.trim()]);
      const english = texts();
      document.querySelector('.language').click();
      return { english, chinese: texts() };
    """
    found = open_page(write_report(run), script)
    english, chinese = (dict(found[language]) for language in ("english", "chinese"))
    flags = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(TrainConfig)}
    assert set(english) == set(chinese) == {*flags, "--of-another-version"}
    assert next(iter(english.items())) == ("--lr", "learning rate") and chinese["--lr"] == "学习率"
    assert [flag for flag in flags if not english[flag] or "_" in english[flag] or not chinese[flag]] == []
    assert english["--of-another-version"] == ""


def test_hostile_text_stays_text_and_what_is_missing_is_said(open_page, tmp_path):
    attack = "</script><img src=x onerror='window.hit=1'><script>window.hit=1</script>"
    run = tmp_path / "00000-<b>bold"
    run.mkdir()
    record = {"step": 300, "loss_d": 1.0, "state": attack, "reason": attack, attack[:50]: 1.0}
    (run / "metrics.jsonl").write_text(json.dumps(record))
    (run / "config.json").write_text(json.dumps({"data": attack, attack: attack}))
    (run / "command.txt").write_text(f"{attack}  # {attack}")
    script = "return [window.hit ?? 0, document.querySelectorAll('img, #page b b').length, document.body.textContent,"
    script += " [...document.querySelectorAll('.tile b')].map((one) => one.textContent)];"
    hit, made, text, figures = open_page(write_report(run), script)
    assert hit == 0 and made == 0 and text.count("onerror='window.hit=1'") >= 5
    assert "There are no sample grids" in text and "tools/evaluate.py --checkpoint" in text
    assert figures == ["300", "0:00"]  # the step and the time; what is unknown has no place among the figures
