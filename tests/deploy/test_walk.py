from __future__ import annotations

import base64
import io
import logging
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from deploy import walk
from deploy.manifest import ModelError
from deploy.own_files import MARK
from deploy.runtimes import load_generator
from deploy.seeds import latents
from deploy.walk import encode_gif, slerp, walk_latents, write_walk


def test_an_arc_keeps_its_radius_and_its_speed():
    a, b = np.array([3.0, 0, 0]), np.array([0, 3.0, 0])
    path = np.array([slerp(a, b, t) for t in np.linspace(0, 1, 7)])
    assert np.allclose(np.linalg.norm(path, axis=1), 3, atol=1e-6)
    angles = np.degrees(np.arctan2(path[:, 1], path[:, 0]))
    assert np.allclose(angles, np.linspace(0, 90, 7), atol=1e-4)


def test_ends_are_met_whatever_the_lengths():
    a, b = latents([3, 14], 100)
    assert np.allclose(slerp(a, b, 0), a, atol=1e-6) and np.allclose(slerp(a, b, 1), b, atol=1e-6)


@pytest.mark.parametrize("b", [[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]])
def test_parallel_latents_go_straight_instead_of_dividing_by_nothing(b):
    a = np.array([1.0, 2.0])
    assert np.allclose(slerp(a, np.array(b), 0.25), 0.75 * a + 0.25 * np.array(b), atol=1e-5)


def test_the_walk_is_a_closed_loop_of_even_steps_through_the_seeds():
    z = walk_latents([3, 14, 15], 60, 100)
    assert z.shape == (60, 100) and z.dtype == np.float32
    assert np.allclose(z[[0, 20, 40]], latents([3, 14, 15], 100), atol=1e-6)
    steps = np.linalg.norm(np.diff(np.concatenate([z, z[:1]]), axis=0), axis=1)
    assert steps.max() < 1.3 * steps.min()


def test_frames_that_do_not_divide_are_even_all_the_same():
    z = walk_latents([1, 2, 3], 10, 4)
    a, b = latents([1, 2], 4)
    assert np.allclose(z[1], slerp(a, b, 0.3), atol=1e-6)


def read_video(path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, frame = video.read()
        if not found:
            return frames
        frames.append(frame[..., ::-1])


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_the_video_shows_the_faces_enlarged(export, make_generator, tmp_path, suffix):
    weights = np.repeat(export.weights.mean((2, 3), keepdims=True) * 20, 16, axis=2).repeat(16, axis=3)  # plain colours
    export.weights = weights.astype(np.float32)
    export.replace_generator(make_generator(export.weights))
    path = tmp_path / "videos" / f"walk{suffix}"
    generator = load_generator(export.folder, device="cpu")
    write_walk(generator, [3, 14], path, frames=12, fps=20, scale=4, batch_size=5)
    frames = read_video(path)
    assert len(frames) == 12 and frames[0].shape == (64, 64, 3)
    z = walk_latents([3, 14], 12, 8).astype(np.float64)
    expected = (np.tanh(np.einsum("ni,ichw->nchw", z, export.weights.astype(np.float64))) + 1) * 127.5
    for frame, image in zip(frames, expected):
        assert np.abs(frame.mean((0, 1)) - image.mean((1, 2))).max() < 12  # lossy, but no channel is exchanged
    assert [p.name for p in path.parent.iterdir()] == [path.name]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PLAY = """address => new Promise(done => {
    const video = document.createElement("video");
    video.muted = true;
    video.onerror = () => done(video.error.message);
    video.onended = () => done([video.videoWidth, video.videoHeight, video.duration]);
    video.src = address;
    video.play().catch(error => done(String(error)));
})"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: no video can be played")
def test_a_browser_plays_the_video_to_its_end(export, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = tmp_path / "walk.mp4"
    write_walk(load_generator(export.folder), [3, 14], path, frames=12, fps=24, scale=4, batch_size=5)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        address = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
        assert browser.new_page().evaluate(PLAY, address) == [64, 64, pytest.approx(0.5, abs=0.05)]
        browser.close()


def test_a_video_that_no_browser_plays_is_said_to_be_one(export, tmp_path, monkeypatch, caplog, capfd):
    path = tmp_path / "walk.mp4"
    monkeypatch.setattr(walk, "CODECS", ("av01", "mp4v"))  # as where the first is missing
    write_walk(load_generator(export.folder), [3, 14], path, frames=4, fps=20, scale=4, batch_size=5)
    assert len(read_video(path)) == 4
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.WARNING, f"Browsers do not play {path}: this OpenCV writes no VP9. A .gif plays everywhere.")
    ]
    assert "VideoWriter" not in capfd.readouterr().err  # nothing of OpenCV's own about a codec that it has not


def test_a_video_that_could_not_be_written_leaves_the_old_one(export, tmp_path, monkeypatch):
    path = tmp_path / "walk.mp4"
    path.write_bytes(b"old, " + MARK.encode())
    monkeypatch.setattr(walk, "_frame_count", lambda path: 3)
    with pytest.raises(OSError, match="could not be written whole"):
        write_walk(load_generator(export.folder), [3, 14], path, frames=4, fps=20, scale=1, batch_size=5)
    assert path.read_bytes().startswith(b"old") and [p.name for p in tmp_path.glob("*walk*")] == ["walk.mp4"]


@pytest.mark.parametrize("fps", [15, 24, 30, 50])
def test_a_gif_lasts_as_long_as_asked_to_a_hundredth_of_a_second(fps):
    """OpenCV cuts off what is less than a hundredth: 24 frames a second became 25, 30 became 33."""
    content = encode_gif((np.full([8, 8, 3], 9 * i, np.uint8) for i in range(24)), fps)
    gif = Image.open(io.BytesIO(content))
    durations = []
    for i in range(gif.n_frames):
        gif.seek(i)
        durations.append(gif.info["duration"])
    assert gif.n_frames == 24 and abs(sum(durations) - 24000 / fps) <= 10


def test_an_old_opencv_refuses_gif_before_anything_is_made(export, tmp_path, monkeypatch):
    monkeypatch.delattr(cv2, "imencodeanimation")
    with pytest.raises(ModelError, match=r"OpenCV .* cannot write .gif, 4.12 and newer can"):
        write_walk(
            load_generator(export.folder), [3, 14], tmp_path / "x/w.gif", frames=4, fps=20, scale=1, batch_size=5
        )
    assert not (tmp_path / "x").exists()


def test_a_gif_that_would_fill_the_memory_is_refused(export, tmp_path):
    with pytest.raises(ValueError, match="at most 2000 frames"):
        write_walk(load_generator(export.folder), [3, 4], tmp_path / "w.gif", frames=2001, fps=9, scale=1, batch_size=5)
