"""The gallery of runs in a real browser."""

import json

from dcgan.config import TrainConfig
from dcgan.runs.gallery import write_gallery


def test_the_gallery_lists_runs_with_image_and_figures_in_both_languages(open_page, make_run, tmp_path):
    config = json.dumps(TrainConfig(data="cartoon", base_channels=32).to_json())
    (make_run("00000-a") / "config.json").write_text(config), (tmp_path / "00001-b<i> #2").mkdir()
    (tmp_path / "00001-b<i> #2" / "metrics.jsonl").write_text('{"step": 1, "state": 5}\n')
    script = """
      const cards = () => [...document.querySelectorAll('a')].map((a) =>
        [a.getAttribute('href'), a.querySelector('h2').textContent, a.querySelectorAll('img').length, a.textContent]);
      const english = cards(); document.querySelector('button').click();
      return { english, chinese: cards() };
    """
    found = open_page(write_gallery(tmp_path), script)
    assert [card[:3] for card in found["english"]] == [
        ["00001-b%3Ci%3E%20%232/report.html", "00001-b<i> #2", 0],
        ["00000-a/report.html", "00000-a", 1],
    ]
    assert found["english"][1][3].endswith("--data cartoon · --base-channels 32")  # as one would type it
    assert "step200" in found["english"][1][3] and "步数200" in found["chinese"][1][3]
