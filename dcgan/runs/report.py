"""`report.html`: everything a run folder shows, on one page that needs nothing beside it. Reads files, never Paddle.

This module collects the data and the page, `report.html` beside it, shows it. Missing files are left out, damaged
ones are listed on the page; all text reaches it as JSON data, never as markup.
"""

from __future__ import annotations

import base64
import datetime
import functools
import json
import math
import re
import reprlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deploy.files import PathLike, atomic_write, make_folders
from deploy.own_files import refuse_foreign
from deploy.untrusted import is_file, read_file

from ..config import TrainConfig
from ..data.decode import Limits, decode_image
from ..environment import command, export_command
from ..errors import DataError, ProjectError
from ..images import GAP, TITLE_HEIGHT
from ..metrics.evaluate_json import flat
from .find_checkpoint import run_folders
from .records import Record, is_of_training, read_records

REPORT_FILE = "report.html"
MAX_FRAMES, MAX_POINTS, MAX_EVENTS, MAX_STARTS = 40, 600, 100, 20
MAX_WIDTH = 700  # pixels of a grid on the page: 10 faces of 64, or larger ones made smaller
MAX_STEP = 2**53  # beyond, JavaScript no longer counts by ones

# How the pages of earlier versions begin, which bear no mark: their policy, then their title.
_EARLIER_PAGE = rb"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\s*" + (
    rb"<title>Run(s| report)</title>"
)
_PAGE = Path(__file__).with_name("report.html")
_LIMITS = Limits(max_pixels=2**25, max_file_bytes=2**26)
_MAX_TEXT_BYTES = 2**20
_NO_CURVES = {"step", "epoch", "elapsed_seconds", "remaining_seconds"}
_MAX_CURVES = 24


def write_report(folder: PathLike, records: Sequence[Record] | None = None) -> Path:
    """Write `report.html` into a run folder, atomically, and return its path.

    Args: records - those of `metrics.jsonl`, from the training that has them: it replaces whatever is there, for the
          folder is its own. Without them, FileExistsError is raised if a `report.html` is there and no page of ours.
    """
    path = Path(folder) / REPORT_FILE
    if records is None:
        refuse_foreign_page(path)
    write_page(path, [collect(folder, records)])
    return path


def write_comparison(folders: Sequence[PathLike], path: PathLike) -> Path:
    """Write one page that shows several runs side by side: curves overlaid, grids on one slider. Returns `path`.

    Raises ValueError unless it is called .html, FileExistsError if it is there and no page of ours.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"the page of a comparison must be called FILE.html, received {path}: give another --out")
    refuse_foreign_page(path)
    make_folders(path.parent)
    frames = max(MAX_FRAMES // max(len(folders), 1), 10)
    runs = [collect(folder, max_frames=frames) for folder in folders]
    if len({run["name"] for run in runs}) < len(runs):  # work/a/00000-cartoon and work/b/00000-cartoon
        for run, folder in zip(runs, folders):
            run["name"] = "/".join(Path(folder).resolve().parts[-2:])
    write_page(path, runs)
    return path


def refuse_foreign_page(path: Path) -> None:
    """Raise FileExistsError if there is something at `path` and it is no page of this or an earlier version."""
    refuse_foreign(path, _EARLIER_PAGE)


def find_run(path: PathLike) -> Path:
    """The run folder at `path`, or the newest one in it. Raises ProjectError when there is none."""
    path = Path(path)
    if any((path / name).exists() for name in ("metrics.jsonl", "config.json", "samples")):
        return path
    runs = run_folders(path)
    if not runs:
        raise ProjectError(
            f"no run at {path}: expected a run folder, or a folder of runs. Train first: {command('train')}"
        )
    return runs[-1]


def collect(folder: PathLike, records: Sequence[Record] | None = None, max_frames: int = MAX_FRAMES) -> dict[str, Any]:
    """What the page shows of one run, as JSON values. Whatever is missing is None or empty; `problems` says why."""
    folder = Path(folder)
    problems: list[str] = []
    try:
        records = read_records(folder / "metrics.jsonl") if records is None else records
    except OSError as error:
        records = []
        problems.append(f"metrics.jsonl: {error.strerror}")
    records = sorted((r for r in records if is_of_training(r) and 0 <= r["step"] <= MAX_STEP), key=lambda r: r["step"])
    config = _json_file(folder / "config.json", problems)
    quality = _json_file(folder / "evaluate.json", problems)
    latest = {name: _number(value) for record in records[-100:] for name, value in record.items()}
    if not isinstance(latest.get("state"), str):  # of another program; the page splits it
        latest.pop("state", None)
    return {
        "name": folder.resolve().name,
        "written": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "latest": latest,
        "trained_seconds": _trained_seconds(records),
        "curves": _curves(records),
        "events": _events(records),
        "frames": _frames(folder / "samples", max_frames, problems),
        "real": _image(folder / "real.png", problems),
        "nearest": _image(folder / "nearest.png", problems),
        "quality": None if quality is None else [[n[:200], _plain(v)] for n, v in flat(quality).items()][:200],
        "config": _settings(config),
        "starts": _starts(folder / "command.txt", problems),
        "commands": _commands(folder),
        "problems": problems[:20],
    }


def write_page(path: Path, runs: list[dict[str, Any]], template: Path = _PAGE) -> None:
    """Write `template` with `runs`, JSON values, in the place of its word __RUNS__; atomically."""
    # "<" is the only character with which text could leave a script element.
    data = json.dumps(runs, allow_nan=False).replace("<", "\\u003c")
    page = template.read_text("utf-8").replace("__RUNS__", data)
    with atomic_write(path, "w") as stream:
        stream.write(page)


# ---- numbers --------------------------------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    """A finite number of four digits, a short text, or None."""
    if isinstance(value, str):
        return value[:500]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:  # false for NaN, Inf
        return value if isinstance(value, int) and abs(value) <= MAX_STEP else float(f"{value:.4g}")
    return None


def _curves(records: Sequence[Record]) -> dict[str, Any]:
    """At most MAX_POINTS points per number: mean, smallest and largest of the records that a point stands for."""
    if not records:
        return {"steps": [], "series": {}}
    firsts = np.unique(np.linspace(0, len(records), min(len(records), MAX_POINTS), endpoint=False).astype(int))
    lasts = [*(firsts[1:] - 1), len(records) - 1]
    names = {name: None for r in (*records[:100], *records[-100:]) for name, v in r.items() if _is_curve(name, v)}
    series = {}
    for name in list(names)[:_MAX_CURVES]:
        values = np.array([_finite(record.get(name)) for record in records])
        known = np.isfinite(values)
        counts = np.add.reduceat(known.astype(int), firsts)
        sums = np.add.reduceat(np.where(known, values, 0.0), firsts)
        means = np.divide(sums, counts, out=np.full(len(firsts), math.nan), where=counts > 0)
        curve = {"mean": means}
        if len(firsts) < len(records):
            curve.update(low=np.fmin.reduceat(values, firsts), high=np.fmax.reduceat(values, firsts))
        series[name] = {kind: [_number(float(v)) for v in numbers] for kind, numbers in curve.items()}
    return {"steps": [records[last]["step"] for last in lasts], "series": series}


def _is_curve(name: str, value: Any) -> bool:
    return name not in _NO_CURVES and len(name) <= 60 and math.isfinite(_finite(value))


def _finite(value: Any) -> float:
    """The value as float, NaN if it is no finite number."""
    number = _number(value)
    return math.nan if number is None or isinstance(number, str) else float(number)


def _trained_seconds(records: Sequence[Record]) -> float:
    """Over all sessions: each starts to count at 0."""
    total = last = 0.0
    for record in records:
        now = _finite(record.get("elapsed_seconds"))
        if now < last:
            total += last
        last = now if math.isfinite(now) else last
    return round(total + last, 1)


def _events(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Where the watchdog's state changed: the latest MAX_EVENTS of them."""
    events, before = [], "OK"
    for record in records:
        state = record.get("state", before)
        if isinstance(state, str) and state != before:
            reason = record.get("reason")
            reason = reason[:500] if isinstance(reason, str) else ""
            events.append({"step": record["step"], "state": state[:40], "reason": reason})
            before = state
    return events[-MAX_EVENTS:]


# ---- images -------------------------------------------------------------------------------------------------------


def _frames(folder: Path, count: int, problems: list[str]) -> list[dict[str, Any]]:
    """At most `count` sample grids, evenly over time, the newest among them.

    Which ones changes only when their number doubles, so that those of the last report need not be encoded again.
    """
    found = {}
    for path in folder.glob("step-*.png") if folder.is_dir() else ():
        match = re.fullmatch(r"step-([0-9]{1,15})\.png", path.name)
        if match:
            found[int(match.group(1))] = path
    steps = sorted(found)
    stride = 1
    while math.ceil(len(steps) / stride) > count - 1:
        stride *= 2
    chosen = sorted({*steps[::stride], *steps[-1:]})
    images = {step: _image(found[step], problems, TITLE_HEIGHT) for step in chosen}
    return [{"step": step, **image} for step, image in images.items() if image]


def _image(path: Path, problems: list[str], title_height: int = 0) -> dict[str, Any] | None:
    """An image file as {"source": data URI, "grid": where its faces are, or None}; None if it is not there."""
    if not is_file(path):
        return None
    try:
        facts = path.stat()
        return _encoded(path, facts.st_mtime_ns, facts.st_size, title_height)
    except (DataError, OSError) as error:
        problems.append(f"{path.name}: {error.strerror if isinstance(error, OSError) else error}")
        return None


def _run_of(path: Path) -> Path:
    """The run folder of an image: what the page shows must really lie in it, for pages are given to others."""
    return path.parent.parent if path.parent.name == "samples" else path.parent


@functools.lru_cache(maxsize=64)
def _encoded(path: Path, modified: int, size: int, title_height: int) -> dict[str, Any]:
    """As JPEG of quality 75, 2 ms for a grid of 100; WebP would be a tenth smaller and takes 30 times as long."""
    image = decode_image(read_file(path, _LIMITS.max_file_bytes, within=_run_of(path)), _LIMITS)[title_height:]
    height, width = image.shape[:2]
    if not height:
        raise DataError("it has no rows below its title")
    if width > MAX_WIDTH:
        shrunk = MAX_WIDTH, max(1, round(height * MAX_WIDTH / width))
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    if not done:
        raise DataError(f"OpenCV could not encode its {width} x {height} pixels as JPEG")
    source = "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
    return {"source": source, "grid": _geometry(width, height)}


def _geometry(width: int, height: int, columns: int = 10) -> dict[str, int] | None:
    """Columns, rows, and face size and gap in pixels of the original of a grid of 100; None if it is no such grid."""
    pitch, rest = divmod(width - GAP, columns)
    rows, other_rest = divmod(height - GAP, pitch) if pitch > GAP else (0, 1)
    if rest or other_rest or not rows:
        return None
    return {"columns": columns, "rows": rows, "face": pitch - GAP, "gap": GAP}


# ---- text -----------------------------------------------------------------------------------------------------------


def _text(path: Path, problems: list[str]) -> str | None:
    if not is_file(path):
        return None
    try:
        return read_file(path, _MAX_TEXT_BYTES, within=path.parent).decode("utf-8", "replace")
    except OSError as error:
        problems.append(f"{path.name}: {error.strerror}")
        return None


def _json_file(path: Path, problems: list[str]) -> dict[str, Any] | None:
    text = _text(path, problems)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict):
        return values
    problems.append(f"{path.name}: no JSON object")
    return None


def _plain(value: Any) -> Any:
    """A number, or a text of at most 300 characters."""
    number = _number(value)
    if number is not None and not isinstance(number, str):
        return number
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return value[:300] if isinstance(value, str) else reprlib.repr(value)[:300]


def _settings(config: Mapping[str, Any] | None) -> list[dict[str, Any]] | None:
    """Each setting with its default and its help; settings that this version does not know have neither."""
    if config is None:
        return None
    known = {field.name: field for field in fields(TrainConfig)}
    return [
        {
            "name": name[:100],
            "value": _plain(value),
            "default": _plain(known[name].default) if name in known else None,
            "help": known[name].metadata["help"] if name in known else "",
        }
        for name, value in list(config.items())[:200]
    ]


def _starts(path: Path, problems: list[str]) -> list[dict[str, str]]:
    """Each start of the run: its command and the versions it ran with."""
    lines = (_text(path, problems) or "").splitlines()[-MAX_STARTS:]
    parts = [line[:2000].partition("  # ") for line in lines if line.strip()]
    return [{"command": words, "versions": versions} for words, _, versions in parts]


def _commands(folder: Path) -> dict[str, str]:
    run = shlex.quote(str(folder))
    return {
        "continue": f"{command('train')} --resume {run}",
        "measure": f"{command('evaluate')} --checkpoint {run}",
        "export": export_command(run),
    }
