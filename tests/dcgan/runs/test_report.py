import base64
import dataclasses
import json
import re

import cv2
import numpy as np
import pytest

from dcgan import TrainConfig
from dcgan.callbacks.plots import ReportWriter
from dcgan.errors import ProjectError
from dcgan.images import grid, with_title, write_png
from dcgan.runs.report import MAX_FRAMES, MAX_POINTS, collect, find_run, write_comparison, write_report


def record(step, **changes):
    values = {"step": step, "epoch": 1, "loss_d": 1.0, "loss_g": 2.0, "elapsed_seconds": float(step), "state": "OK"}
    return {**values, "reason": "", **changes}


def write_metrics(run, records):
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def write_grid(run, step, images):
    (run / "samples").mkdir(exist_ok=True)
    write_png(run / "samples" / f"step-{step:08d}.png", with_title(grid(images, columns=10), f"step {step}"))


def decoded(image):
    data = base64.b64decode(image["source"].partition("base64,")[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def runs_on(page):
    """The data inside a page, as its own script reads it."""
    text = page.read_text("utf-8")
    return json.loads(re.search(r'<script type="application/json" id="runs">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "00000-faces"
    folder.mkdir()
    return folder


@pytest.fixture
def flat_images():
    """30 images of one grey each, uint8 [30, 3, 16, 16]: JPEG keeps them."""
    return np.repeat(np.arange(30, dtype=np.uint8) * 8, 3 * 16 * 16).reshape(30, 3, 16, 16)


def test_an_empty_run_folder_still_gives_a_page(run):
    page = write_report(run)
    (shown,) = runs_on(page)
    assert page == run / "report.html" and shown["name"] == "00000-faces"
    assert shown["frames"] == [] and shown["curves"]["steps"] == [] and shown["quality"] is None


def test_the_page_needs_nothing_beside_it(run, flat_images):
    write_grid(run, 0, flat_images)
    text = write_report(run).read_text("utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import|\bfetch\(|\bimport\(""", text)
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in text


def test_curves_are_the_numbers_of_the_records_and_gaps_where_there_is_none(run):
    write_metrics(run, [record(10, loss_d=0.5), record(20, loss_d=None), record(30, loss_d=0.25, fid=7)])
    curves = collect(run)["curves"]
    assert curves["steps"] == [10, 20, 30]
    assert curves["series"]["loss_d"] == {"mean": [0.5, None, 0.25]}
    assert curves["series"]["fid"]["mean"] == [None, None, 7]  # a measure that this page does not know
    assert not {"step", "epoch", "elapsed_seconds", "state"} & set(curves["series"])


def test_reports_of_the_meter_are_no_points_of_the_curves(run):
    shown = collect(run, [record(10), {"step": 10, "evaluate": {"figures": {"fid": 1.0}}}, record(20, epoch=2)])
    assert shown["curves"]["steps"] == [10, 20] and shown["latest"]["epoch"] == 2


def test_a_long_run_is_thinned_to_means_between_smallest_and_largest(run):
    values = np.linspace(0, 1, 100_000)
    values[54_321] = 50.0
    shown = collect(run, [record(i, loss_d=float(v)) for i, v in enumerate(values)])
    curve = shown["curves"]["series"]["loss_d"]
    steps = shown["curves"]["steps"]
    assert len(steps) == MAX_POINTS and steps[-1] == 99_999
    at = next(i for i, step in enumerate(steps) if step >= 54_321)
    assert curve["high"][at] == 50.0 and max(curve["mean"]) < 2 and curve["low"][0] == 0
    first = values[: steps[0] + 1]
    assert curve["mean"][0] == pytest.approx(first.mean(), rel=1e-3)
    assert len(json.dumps(shown)) < 300_000


def test_training_time_is_added_up_over_sessions(run):
    shown = collect(
        run, [record(1, elapsed_seconds=60.0), record(2, elapsed_seconds=90.0), record(3, elapsed_seconds=5.0)]
    )
    assert shown["trained_seconds"] == 95.0


def test_events_are_the_changes_of_the_watchdogs_state(run):
    states = ["OK", "WARN", "WARN", "OK", "COLLAPSED"]
    shown = collect(run, [record(i, state=s, reason=f"why {i}") for i, s in enumerate(states)])
    assert [(e["step"], e["state"], e["reason"]) for e in shown["events"]] == [
        (1, "WARN", "why 1"),
        (3, "OK", "why 3"),
        (4, "COLLAPSED", "why 4"),
    ]


def test_frames_show_the_grid_without_its_title_and_say_where_each_face_is(run, flat_images):
    write_grid(run, 100, flat_images)
    (frame,) = collect(run)["frames"]
    shown, place = decoded(frame), frame["grid"]
    assert frame["step"] == 100 and place == {"columns": 10, "rows": 3, "face": 16, "gap": 2}
    pitch = place["face"] + place["gap"]
    for index in (0, 9, 10, 29):
        row, column = divmod(index, place["columns"])
        face = shown[place["gap"] + row * pitch :, place["gap"] + column * pitch :][4:12, 4:12]
        assert np.abs(face.astype(int) - index * 8).max() < 12


def test_large_grids_are_made_smaller_and_keep_the_places_of_their_faces(run):
    write_grid(run, 0, np.zeros([20, 3, 128, 128], np.uint8))
    (frame,) = collect(run)["frames"]
    assert decoded(frame).shape[1] == 700 and frame["grid"] == {"columns": 10, "rows": 2, "face": 128, "gap": 2}


def test_the_number_of_frames_is_bounded_even_over_time_and_has_the_newest(run, flat_images):
    for count in (39, 40, 41, 130):
        for step in range(count):
            write_grid(run, step * 100, flat_images[:1])
        steps = [frame["step"] for frame in collect(run)["frames"]]
        assert MAX_FRAMES / 2 <= len(steps) <= MAX_FRAMES and steps[0] == 0 and steps[-1] == (count - 1) * 100
        gaps = np.diff(steps)
        assert len(set(gaps[:-1])) == 1 and gaps[-1] <= gaps[0]


def test_a_second_report_encodes_only_what_is_new(run, flat_images, monkeypatch):
    for step in (0, 100):
        write_grid(run, step, flat_images)
    collect(run)
    encoded, imencode = [], cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda *args: (encoded.append(args[0]), imencode(*args))[1])
    write_grid(run, 200, flat_images)
    encoded.clear()  # writing the PNG
    assert len(collect(run)["frames"]) == 3 and encoded == [".jpg"]


def test_settings_have_their_defaults_and_unknown_ones_none(run):
    config = dataclasses.replace(TrainConfig(), base_channels=32).to_json()
    (run / "config.json").write_text(json.dumps({**config, "from_the_future": [1, {"a": 2}]}))
    settings = {s["name"]: s for s in collect(run)["config"]}
    assert (settings["base_channels"]["value"], settings["base_channels"]["default"]) == (32, 64)
    assert settings["lr"]["value"] == settings["lr"]["default"] == 5e-4 and "Adam" in settings["lr"]["help"]
    assert settings["from_the_future"]["default"] is None and isinstance(settings["from_the_future"]["value"], str)


def test_quality_figures_are_shown_with_their_protocol(run):
    report = {"figures": {"kid": 0.5}, "protocol": {"n_real": 500, "crop": "tutorial", "features": None}}
    (run / "evaluate.json").write_text(json.dumps(report))
    expected = [["figures.kid", 0.5], ["protocol.n_real", 500], ["protocol.crop", "tutorial"]]
    expected.append(["protocol.features", "null"])
    assert collect(run)["quality"] == expected


def test_starts_are_commands_and_versions(run):
    (run / "command.txt").write_text("tools/train.py --steps 5  # python 3.11, paddle 3\ntools/train.py --resume\n")
    assert collect(run)["starts"] == [
        {"command": "tools/train.py --steps 5", "versions": "python 3.11, paddle 3"},
        {"command": "tools/train.py --resume", "versions": ""},
    ]


def test_commands_name_the_run_quoted_for_a_shell(tmp_path):
    run = tmp_path / "00000-my faces; rm"
    run.mkdir()
    assert collect(run)["commands"]["continue"] == f"python tools/train.py --resume '{run}'"


# ---- hostile and odd folders ----------------------------------------------------------------------------------------


def test_markup_in_names_and_texts_stays_text(tmp_path):
    attack = "</script><img src=x onerror=alert(1)>"
    run = tmp_path / attack.replace("/", "_")
    run.mkdir()
    write_metrics(run, [record(1, state="<b>", reason=attack), record(2, **{attack: 1.0})])
    (run / "config.json").write_text(json.dumps({"data": attack, attack: attack}))
    (run / "evaluate.json").write_text(json.dumps({attack: {attack: attack}}))
    (run / "command.txt").write_text(f"{attack}  # {attack}\n")
    page = write_report(run)
    text = page.read_text("utf-8")
    assert "<img src=x" not in text and text.count("</script>") == 2
    (shown,) = runs_on(page)
    assert shown["events"][0]["reason"] == attack and shown["starts"][0]["command"] == attack


def test_broken_records_are_passed_over(run):
    lines = [
        json.dumps(record(1)),
        '{"step": 2, "loss_d": NaN, "loss_g": Infinity}',
        '{"step": 3, "loss_d": "low", "loss_g": [1], "state": {"a": 1}}',
        '{"step": 4, "loss_d": 1e400, "loss_g": ' + "9" * 400 + "}",
        '{"step": true}',
        '{"step": -5}',
        '{"step": ' + "9" * 40 + "}",
        "[1]",
        "[" * 100_000,
        "\x00\x01",
        '{"step": 5, "lo',
    ]
    (run / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff\xfe")
    shown = runs_on(write_report(run))[0]
    assert shown["curves"]["steps"] == [1, 2, 3, 4]
    assert shown["curves"]["series"]["loss_d"]["mean"] == [1, None, None, None]
    assert shown["events"] == []


def test_damaged_images_are_named_and_the_others_shown(run, flat_images):
    write_grid(run, 0, flat_images)
    whole = (run / "samples" / "step-00000000.png").read_bytes()
    (run / "samples" / "step-00000100.png").write_bytes(whole[: len(whole) // 2])
    (run / "samples" / "step-00000200.png").write_bytes(b"")
    (run / "samples" / "step-00000300.png").mkdir()
    (run / "samples" / "step-x.png").write_bytes(whole)
    (run / "real.png").write_text("<html>")
    write_png(run / "samples" / "step-00000400.png", np.zeros([3, 10, 10], np.uint8))  # no rows below a title
    shown = collect(run)
    assert [frame["step"] for frame in shown["frames"]] == [0] and shown["real"] is None
    named = [problem.partition(":")[0] for problem in shown["problems"]]
    assert sorted(named) == ["real.png", "step-00000100.png", "step-00000200.png", "step-00000400.png"]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe\x00", b'{"a":' * 50_000, b" " * (2**20 + 1)])
def test_damaged_settings_and_figures_are_named(run, content):
    for name in ("config.json", "evaluate.json"):
        (run / name).write_bytes(content)
    shown = runs_on(write_report(run))[0]
    assert shown["config"] is None and shown["quality"] is None
    assert [problem.partition(":")[0] for problem in shown["problems"]] == ["config.json", "evaluate.json"]


def test_deeply_nested_and_very_long_values_are_cut(run):
    deep: dict = {}
    for _ in range(100):
        deep = {"a": deep, "long": "x" * 2000, "list": [[[[[[[[1]]]]]]]] * 50}
    (run / "evaluate.json").write_text(json.dumps(deep))
    (run / "config.json").write_text(json.dumps({f"s{i}": "y" * 1000 for i in range(900)}))
    shown = collect(run)
    assert len(shown["quality"]) < 30 and len(shown["config"]) == 200
    assert max(len(str(value)) for _, value in shown["quality"]) <= 300


# ---- several runs ---------------------------------------------------------------------------------------------------


def test_a_comparison_holds_every_run_and_fewer_frames_of_each(tmp_path, flat_images):
    folders = [tmp_path / f"0000{i}-faces" for i in range(3)]
    for folder in folders:
        folder.mkdir()
        for step in range(0, 2000, 100):
            write_grid(folder, step, flat_images[:1])
    shown = runs_on(write_comparison(folders, tmp_path / "new" / "compare.html"))
    assert [run["name"] for run in shown] == [folder.name for folder in folders]
    assert all(6 <= len(run["frames"]) <= 13 for run in shown)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [tmp_path / parent / "00000-cartoon" for parent in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
    shown = runs_on(write_comparison(folders, tmp_path / "compare.html"))
    assert [run["name"] for run in shown] == ["a/00000-cartoon", "b/00000-cartoon"]


def test_find_run_takes_a_run_or_the_newest_of_a_folder(tmp_path):
    for name in ("00000-a", "00002-b", "00001-c"):
        (tmp_path / name).mkdir()
    assert find_run(tmp_path).name == "00002-b"
    (tmp_path / "00001-c" / "config.json").write_text("{}")
    assert find_run(tmp_path / "00001-c").name == "00001-c"
    with pytest.raises(ProjectError, match="Train first: python tools/train.py"):
        find_run(tmp_path / "nothing")


# ---- while training -------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_report_is_written_at_sample_steps_unless_it_would_take_too_much_of_the_time(run, monkeypatch):
    from dcgan.callbacks import plots as callbacks

    clock, written = Clock(), []

    def write(folder, records):
        written.append(model.global_step)
        clock.now += 2.0

    monkeypatch.setattr(callbacks, "write_report", write)
    writer = ReportWriter(10, run, [], clock)
    model = type("Model", (), {"global_step": 0})()
    writer.set_model(model)
    for model.global_step in range(1, 51):
        writer.on_train_batch_end(0)
        clock.now += 4.0  # two seconds of writing in forty of training: more than a fiftieth, until 100 have passed
    assert written == [10, 40]
    writer.on_train_end()
    assert written == [10, 40, 50]


def test_a_page_shows_nothing_that_a_link_brings_from_outside_the_run(run, tmp_path, flat_images):
    """Pages are given to others: somebody else's run, reported by you, must not hold your files."""
    secret = tmp_path / "secrets.txt"
    secret.write_text('{"password": "hunter2"}\n{"step": 1, "password": "hunter2"}\n')
    for name in ("command.txt", "config.json", "evaluate.json", "metrics.jsonl"):
        (run / name).symlink_to(secret)
    write_png(tmp_path / "passport.png", flat_images[0])
    (run / "samples").mkdir()
    for path in (run / "real.png", run / "samples" / "step-00000001.png"):
        path.symlink_to(tmp_path / "passport.png")
    page = write_report(run).read_text("utf-8")
    shown = collect(run)
    assert "hunter2" not in page and not shown["frames"] and not shown["real"]
    assert len([problem for problem in shown["problems"] if "leads out of" in problem]) == 6
