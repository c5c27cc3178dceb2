from __future__ import annotations

import json
import threading
import time

import cv2
import numpy as np
import pytest

from deploy import generate, images
from deploy.files import aside_name
from deploy.generate import write_images
from deploy.manifest import ModelError
from deploy.runtimes import load_discriminator, load_generator
from deploy.seed_ranges import Seeds


@pytest.fixture
def generator(export):
    return load_generator(export.folder, device="cpu")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "deep" / "out"


def pixels(path) -> np.ndarray:
    """uint8 [3, H, W] RGB of a file."""
    return cv2.imread(str(path))[..., ::-1].transpose(2, 0, 1)


def stamps(folder) -> dict:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def count_runs(generator, monkeypatch) -> list:
    """The seeds that the model is asked for, batch by batch."""
    asked, make = [], generator.generate
    monkeypatch.setattr(generator, "generate", lambda seeds, size: asked.append(list(seeds)) or make(seeds, size))
    return asked


def test_every_seed_becomes_its_image_under_its_name(export, generator, out):
    seeds = Seeds.parse("7,0,1000000-1000002")
    written, scores = write_images(generator, seeds, out, batch_size=2)
    assert written == 5 and scores is None
    names = ["seed-000007.png", "seed-000000.png", *(f"seed-100000{i}.png" for i in range(3))]
    assert {path.name for path in out.iterdir()} == {*names, "grid.png"}
    for seed, name in zip(seeds, names):
        assert np.abs(pixels(out / name).astype(int) - export.expected_levels(seed)).max() <= 1
    grid = pixels(out / "grid.png")
    assert np.array_equal(grid, images.grid(np.stack([pixels(out / name) for name in names])))


def test_no_grid_if_not_wanted_and_never_more_than_100_in_it(generator, out):
    write_images(generator, Seeds(range(3)), out, with_grid=False)
    assert not (out / "grid.png").exists()
    write_images(generator, Seeds(range(103)), out)
    assert pixels(out / "grid.png").shape == (3, 10 * 18 + 2, 10 * 18 + 2)


def test_images_that_are_there_are_neither_made_nor_touched(generator, out, monkeypatch):
    write_images(generator, Seeds(range(40)), out, with_grid=False)
    before = stamps(out)
    asked = count_runs(generator, monkeypatch)
    assert write_images(generator, Seeds(range(40)), out, with_grid=False)[0] == 0
    assert asked == [] and stamps(out) == before


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_what_is_missing_or_cut_short_is_made_again_and_nothing_else(generator, out, monkeypatch, suffix):
    write_images(generator, Seeds(range(10)), out, suffix=suffix, with_grid=False)
    original = {path.name: path.read_bytes() for path in out.iterdir()}
    before = stamps(out)
    (out / f"seed-000003{suffix}").unlink()
    cut = out / f"seed-000005{suffix}"
    cut.write_bytes(cut.read_bytes()[:-20])
    (out / f"seed-000006{suffix}").write_bytes(b"")
    (out / f"seed-000008{suffix}").write_bytes((out / f"seed-000009{suffix}").read_bytes())  # another seed's
    asked = count_runs(generator, monkeypatch)
    written, _ = write_images(generator, Seeds(range(10)), out, suffix=suffix, with_grid=False, batch_size=4)
    assert written == 4 and asked == [[3, 5, 6, 8]]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == original
    after = stamps(out)
    assert {name for name in after if after[name] != before[name]} == {f"seed-00000{i}{suffix}" for i in (3, 5, 6, 8)}


def test_the_grid_needs_its_images_again_but_whole_files_stay(generator, out):
    write_images(generator, Seeds(range(5)), out)
    before = stamps(out)
    (out / "grid.png").unlink()
    assert write_images(generator, Seeds(range(5)), out)[0] == 0
    after = stamps(out)
    assert {name for name in after if after[name] != before[name]} == {"grid.png"}


def test_images_of_another_model_are_replaced(export, generator, out, make_generator):
    write_images(generator, Seeds(range(3)), out)
    export.weights = export.weights[::-1].copy()
    export.replace_generator(make_generator(export.weights))
    written, _ = write_images(load_generator(export.folder), Seeds(range(3)), out)
    assert written == 3
    assert np.abs(pixels(out / "seed-000002.png").astype(int) - export.expected_levels(2)).max() <= 1


def test_images_of_two_models_are_not_left_mixed_without_a_word(generator, out, monkeypatch):
    """Another process, of another model, writes to the same folder at the same time."""
    make = generator.generate

    def generate_beside_another(seeds, size):
        if 4 in seeds:
            other = images.encode(np.zeros((3, 16, 16), np.uint8), ".png", "seed 1, model 0123456789abcdef")
            while not (out / "seed-000001.png").exists():  # a thread of ours writes it first
                time.sleep(0.001)
            (out / "seed-000001.png").write_bytes(other)
        return make(seeds, size)

    monkeypatch.setattr(generator, "generate", generate_beside_another)
    with pytest.raises(FileExistsError, match="replaced or removed 1 of the 6 images here. Give each its own --out"):
        write_images(generator, Seeds(range(6)), out, batch_size=2)
    monkeypatch.undo()
    assert write_images(generator, Seeds(range(6)), out)[0] == 1


def test_images_do_not_depend_on_the_batch_size(generator, tmp_path):
    contents = []
    for batch_size in (1, 3, 32):
        write_images(generator, Seeds(range(7)), tmp_path / str(batch_size), batch_size=batch_size)
        contents.append({p.name: pixels(p) for p in (tmp_path / str(batch_size)).iterdir()})
    for other in contents[1:]:
        assert all(np.array_equal(other[name], contents[0][name]) for name in contents[0])


def test_npz_holds_images_and_seeds_and_needs_no_pickle(export, generator, out):
    seeds = Seeds.parse("5,9-20,3")
    assert write_images(generator, seeds, out, suffix=".npz", batch_size=4)[0] == 14
    assert {path.name for path in out.iterdir()} == {"images.npz", "grid.png"}
    with np.load(out / "images.npz", allow_pickle=False) as arrays:
        assert arrays["images"].dtype == np.uint8 and arrays["images"].shape == (14, 3, 16, 16)
        assert arrays["seeds"].dtype == np.uint32 and arrays["seeds"].tolist() == list(seeds)
        for seed, image in zip(arrays["seeds"], arrays["images"]):
            assert np.abs(image.astype(int) - export.expected_levels(int(seed))).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".npz"])
def test_scores_of_every_image_by_seed(export, generator, out, suffix):
    seeds = Seeds.parse("12,0-9")
    for _ in range(2):  # the second time most files are there; the scores are complete all the same
        _, scores = write_images(
            generator, seeds, out, suffix=suffix, batch_size=4, discriminator=load_discriminator(export.folder)
        )
        found = json.loads((out / "scores.json").read_text())
        del found["comment"]
        assert list(found) == [str(seed) for seed in seeds]
        expected = export.score(seeds)
        assert np.allclose(list(found.values()), expected, atol=1e-5)
        assert scores.mean == pytest.approx(expected.mean(), abs=1e-5)
        assert scores.lowest[1] == list(seeds)[expected.argmin()]
        assert scores.highest[1] == list(seeds)[expected.argmax()]


def test_a_discriminator_without_a_number_to_give_ends_the_run_by_seed(export, generator, out, monkeypatch):
    discriminator = load_discriminator(export.folder)
    monkeypatch.setattr(discriminator, "run", lambda images: np.array([[1.0], [np.nan]] * (len(images) // 2)))
    with pytest.raises(ModelError, match="the discriminator gives no number for seed 1"):
        write_images(generator, Seeds(range(4)), out, discriminator=discriminator)
    assert not (out / "scores.json").exists()


def test_an_unfinished_file_of_a_killed_run_goes_with_the_next(generator, out):
    out.mkdir(parents=True)
    left = aside_name(out / "images.npz")
    left.write_bytes(b"a part")
    write_images(generator, Seeds(range(2)), out)
    assert not left.exists()


def test_memory_is_bounded_however_slow_the_disk_is(generator, out, monkeypatch):
    """Writers stand still: the model must stop after a few batches instead of filling the memory."""
    gate, made = threading.Event(), []
    monkeypatch.setattr(generate.os, "cpu_count", lambda: 2)
    write_batch = generate._write_batch
    monkeypatch.setattr(generate, "_write_batch", lambda *arguments: gate.wait(30) and write_batch(*arguments))
    make = generator.generate

    def counted(seeds, size):
        made.append(len(seeds))
        if len(made) == 5:  # two writers, four batches waiting: the next one must not be made before one is written
            threading.Timer(0.3, lambda: (snapshot.append(len(made)), gate.set())).start()
        return make(seeds, size)

    snapshot: list = []
    monkeypatch.setattr(generator, "generate", counted)
    assert write_images(generator, Seeds(range(40)), out, batch_size=2, with_grid=False)[0] == 40
    assert snapshot == [5] and len(made) == 20


def test_seeds_are_taken_as_they_are_needed(generator, out, monkeypatch):
    """A million seeds are not listed, checked or kept before the first image is made."""
    taken = []

    class Watched(Seeds):
        def __iter__(self):
            for seed in super().__iter__():
                taken.append(seed)
                yield seed

    def stop(seeds, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(generator, "generate", stop)
    with pytest.raises(KeyboardInterrupt):
        write_images(generator, Watched(range(1_000_000)), out, batch_size=8)
    assert len(taken) <= 9


def test_a_writer_that_fails_ends_the_run_and_leaves_whole_files_only(generator, out, monkeypatch):
    encode = images.encode

    def fail_later(image, suffix, comment):
        if comment.startswith("seed 20,"):
            raise OSError(28, "No space left on device")
        return encode(image, suffix, comment)

    monkeypatch.setattr(images, "encode", fail_later)
    asked = count_runs(generator, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        write_images(generator, Seeds(range(100_000)), out, batch_size=4, with_grid=False)
    assert len(asked) < 100
    check_whole(out, generator)


def test_an_interrupt_leaves_whole_files_and_no_traces(generator, out, export, monkeypatch):
    make, calls = generator.generate, []

    def interrupted(seeds, size):
        calls.append(seeds)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return make(seeds, size)

    monkeypatch.setattr(generator, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_images(generator, Seeds(range(100)), out, batch_size=4, discriminator=load_discriminator(export.folder))
    check_whole(out, generator)
    assert not (out / "scores.json").exists() and not (out / "grid.png").exists()


def check_whole(out, generator) -> None:
    for path in out.iterdir():
        seed = int(path.stem.split("-")[1])
        assert images.is_whole(path, f"seed {seed}, model {generator.model_id}"), path


def test_a_failing_model_leaves_the_last_npz(generator, out, monkeypatch):
    write_images(generator, Seeds(range(3)), out, suffix=".npz", with_grid=False)
    before = stamps(out)

    def fail(seeds, size):
        raise ModelError("out of memory")

    monkeypatch.setattr(generator, "generate", fail)
    with pytest.raises(ModelError):
        write_images(generator, Seeds(range(9)), out, suffix=".npz", with_grid=False)
    assert stamps(out) == before
