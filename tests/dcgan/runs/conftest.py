"""Runs that were never trained, and their pages in a real browser."""

import html
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from dcgan.images import grid, with_title, write_png

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def make_run(tmp_path):
    def make(name, grey=(0, 60, 120)):
        run = tmp_path / name
        (run / "samples").mkdir(parents=True)
        for step, level in enumerate(grey):
            images = np.full([100, 3, 16, 16], level, np.uint8)
            images[57] = 255  # one face that is not as the others
            write_png(run / "samples" / f"step-{step * 100:08d}.png", with_title(grid(images), "title"))
        records = [{"step": s, "loss_d": s / 100, "loss_g": 1.0, "state": "OK"} for s in range(10, 210, 10)]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
        return run

    return make


@pytest.fixture
def open_page(tmp_path):
    """open_page(page, script): what `script`, the body of an async function, returns in the page, as JSON values."""
    if BROWSER is None:
        pytest.skip("needs Chromium: apt-get install chromium")

    def opened(page, script, flags=()):
        probe = (
            "<script>(async () => { const errors = []; window.onerror = (m) => errors.push(m);"
            "const wait = (ms) => new Promise((done) => setTimeout(done, ms)); await wait(300);"
            f"let found; try {{ found = await (async () => {{ {script} }})(); }} "
            "catch (e) { errors.push(String(e)); }"
            "const box = document.createElement('pre'); box.id = 'probe';"
            "box.textContent = JSON.stringify({ found, errors });"
            "document.body.append(box); })()</script></body>"
        )
        copy = page.with_name("probed.html")
        copy.write_text(page.read_text("utf-8").replace("</body>", probe), "utf-8")
        profile = tmp_path / "profile"
        answer = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--lang=en-US"]
            + ["--virtual-time-budget=20000", "--window-size=1200,900", *flags, "--dump-dom", copy.as_uri()],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "HOME": str(tmp_path)},
            check=False,
        )
        match = re.search(r'<pre id="probe">(.*?)</pre>', answer.stdout, re.DOTALL)
        assert match, answer.stderr[-2000:]
        result = json.loads(html.unescape(match[1]))
        assert result["errors"] == []
        return result["found"]

    return opened
