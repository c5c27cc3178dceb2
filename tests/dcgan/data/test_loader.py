"""Batches: the right images, in an order that (seed, epoch) sets alone, mirrored fairly, by a thread that behaves."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dcgan.data.loader import BatchLoader
from dcgan.images import to_float, to_uint8


@pytest.fixture
def numbered():
    """Image n is n everywhere, its left half one brighter in the last row: uint8 [50, 3, 4, 4]."""
    images = np.broadcast_to(np.arange(50, dtype=np.uint8)[:, None, None, None] * 4, (50, 3, 4, 4)).copy()
    images[:, :, -1, :2] += 1
    return images


def epoch_of(loader: BatchLoader) -> list[np.ndarray]:
    return [batch for (batch,) in loader]


def numbers(batches: list[np.ndarray]) -> list[list[int]]:
    """Which images each batch holds."""
    return [(to_uint8(batch[:, 0, 0, 0]) // 4).tolist() for batch in batches]


def is_mirrored(batch: np.ndarray) -> np.ndarray:
    return batch[:, 0, -1, 0] < batch[:, 0, -1, -1]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other))


def wait_for_threads() -> None:
    """Return when no loader thread is left; each notices within a fraction of a second that its consumer is gone."""
    for thread in threading.enumerate():
        if thread.name == "batch-loader":
            thread.join(30)
            assert not thread.is_alive()


# ---- what a batch is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_are_float32_images_in_minus_one_to_one(prefetch):
    images = np.zeros((4, 3, 8, 8), np.uint8)
    images[:, 0], images[:, 1] = 255, 128
    ((batch,),) = list(BatchLoader(images, 4, prefetch=prefetch))
    assert (batch.shape, batch.dtype) == ((4, 3, 8, 8), np.float32)
    assert (batch[:, 0].min(), batch[:, 0].max()) == (1.0, 1.0)
    assert (batch[:, 2].min(), batch[:, 2].max()) == (-1.0, -1.0)
    assert np.allclose(batch[:, 1], 128 / 127.5 - 1, atol=1e-7)


def test_images_are_the_packed_ones_unturned(images):
    loader = BatchLoader(images, 8)
    for batch in epoch_of(loader):
        for image in to_uint8(batch):
            assert (images == image).all(axis=(1, 2, 3)).sum() == 1


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 50), (7, 7), (25, 2), (26, 1), (50, 1)])
def test_every_image_comes_at_most_once_an_epoch(numbered, batch_size, batches):
    loader = BatchLoader(numbered, batch_size)
    found = numbers(epoch_of(loader))
    assert len(loader) == len(found) == batches
    assert all(len(batch) == batch_size for batch in found)
    flat = sum(found, [])
    assert len(set(flat)) == len(flat) == batches * batch_size


def test_left_out_images_come_in_another_epoch(numbered):
    loader = BatchLoader(numbered, 40)
    seen = {n for _ in range(20) for batch in numbers(epoch_of(loader)) for n in batch}
    assert seen == set(range(50))


def test_packed_images_stay_as_they_are(numbered):
    before = numbered.copy()
    numbered.setflags(write=False)
    for batch in epoch_of(BatchLoader(numbered, 10, flip=True)):
        batch[:] = 7  # a batch is the consumer's own
    assert np.array_equal(numbered, before)


def test_memory_mapped_images_give_the_same_batches(numbered, tmp_path):
    np.save(tmp_path / "a.npy", numbered)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    found = epoch_of(BatchLoader(mapped, 10, seed=3, flip=True))
    assert same(found, epoch_of(BatchLoader(numbered, 10, seed=3, flip=True)))
    assert not any(isinstance(batch, np.memmap) for batch in found)


# ---- the order ------------------------------------------------------------------------------------------------------


def test_order_is_set_by_seed_and_epoch_alone(numbered):
    loader, other = BatchLoader(numbered, 10, seed=5, flip=True), BatchLoader(numbered, 10, seed=5, flip=True)
    first, second, third = epoch_of(loader), epoch_of(loader), epoch_of(loader)
    np.random.seed(0)
    other.seek(2)
    assert same(epoch_of(other), third)
    other.seek(0)
    assert same(epoch_of(other), first)
    assert numbers(first) != numbers(second) != numbers(third)
    assert numbers(first) != numbers(epoch_of(BatchLoader(numbered, 10, seed=6)))


def test_epochs_and_seeds_are_not_shifts_of_each_other(numbered):
    def order(seed, epoch):
        loader = BatchLoader(numbered, 10, seed=seed, prefetch=0)
        loader.seek(epoch)
        return str(numbers(epoch_of(loader)))

    assert len({order(seed, epoch) for seed in range(6) for epoch in range(6)}) == 36


def test_order_is_pinned(numbered):
    assert numbers(epoch_of(BatchLoader(numbered[:12], 4, seed=1))) == PINNED_ORDER


PINNED_ORDER = [[2, 4, 5, 11], [1, 3, 7, 9], [0, 6, 8, 10]]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("position", [0, 1, 4])
def test_seek_continues_exactly(numbered, position, prefetch):
    whole = BatchLoader(numbered, 10, seed=2, flip=True)
    whole.seek(7)
    expected, following = epoch_of(whole), epoch_of(whole)
    loader = BatchLoader(numbered, 10, seed=2, flip=True, prefetch=prefetch)
    loader.seek(7, position)
    assert same(epoch_of(loader), expected[position:])
    assert same(epoch_of(loader), following)


@pytest.mark.parametrize("position", [-1, 5, 100])
def test_position_beyond_the_epoch_is_refused(numbered, position):
    with pytest.raises(ValueError, match=rf"an epoch has batches 0 \.\. 4, received position {position}"):
        BatchLoader(numbered, 10).seek(0, position)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_images_say_what_to_do(numbered, count):
    with pytest.raises(ValueError, match=f"an iteration takes 10 images .*, and the data hold {count}") as caught:
        BatchLoader(numbered[:count], 10)
    assert "batch size" in str(caught.value)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_batch_of_nothing_is_refused(numbered, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, received {batch_size}"):
        BatchLoader(numbered, batch_size)


# ---- mirroring ------------------------------------------------------------------------------------------------------


def test_mirror_swaps_left_and_right_only(numbered):
    numbered[:, :, 0, 0] += 2  # a mark in the first row, so that an upside-down image is seen too
    plain = epoch_of(BatchLoader(numbered, 10, seed=4))
    flipped = epoch_of(BatchLoader(numbered, 10, seed=4, flip=True))
    turned = 0
    for one, other in zip(np.concatenate(plain), np.concatenate(flipped)):
        is_same = np.array_equal(one, other)
        assert is_same or np.array_equal(one[:, :, ::-1], other)
        turned += not is_same
    assert 0 < turned < 50


def test_about_half_is_mirrored_each_time_anew(numbered):
    loader = BatchLoader(numbered, 10, seed=4, flip=True, prefetch=0)
    shares = np.array([[is_mirrored(batch).mean() for batch in epoch_of(loader)] for _ in range(40)])
    assert abs(shares.mean() - 0.5) < 4 * 0.5 / np.sqrt(40 * 50)
    assert len({tuple(row) for row in shares.tolist()}) > 30


def test_every_image_is_seen_both_ways(numbered):
    loader = BatchLoader(numbered, 50, seed=4, flip=True, prefetch=0)
    ways = np.array([is_mirrored(batch) for _ in range(20) for batch in epoch_of(loader)])
    assert (ways.any(axis=0) & ~ways.all(axis=0)).all()


def test_nothing_is_mirrored_unasked(numbered):
    assert not any(is_mirrored(batch).any() for batch in epoch_of(BatchLoader(numbered, 10)))


# ---- the thread -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [1, 2, 100])
def test_prefetching_changes_nothing(numbered, prefetch):
    plain = BatchLoader(numbered, 7, seed=1, flip=True, prefetch=0)
    ahead = BatchLoader(numbered, 7, seed=1, flip=True, prefetch=prefetch)
    assert all(same(epoch_of(ahead), epoch_of(plain)) for _ in range(3))
    wait_for_threads()


def test_thread_ends_when_the_consumer_stops_early(numbered):
    iterator = iter(BatchLoader(numbered, 1, prefetch=2))
    next(iterator)
    assert any(thread.name == "batch-loader" for thread in threading.enumerate())
    iterator.close()
    wait_for_threads()


def test_thread_ends_when_the_consumer_forgets_its_iterator(numbered):
    for batch in BatchLoader(numbered, 1, prefetch=2):
        assert batch
        break
    wait_for_threads()


def test_thread_works_only_a_few_batches_ahead(numbered):
    gathered = []

    class Counting:
        def __len__(self):
            return 50

        def __getitem__(self, index):
            gathered.append(index)
            return numbered[index]

    iterator = iter(BatchLoader(Counting(), 1, prefetch=2))
    next(iterator)
    iterator.close()
    wait_for_threads()
    assert 1 <= len(gathered) <= 5


@pytest.mark.parametrize("prefetch", [0, 2])
def test_error_while_reading_reaches_the_consumer(numbered, prefetch):
    class Failing:
        def __init__(self):
            self.reads = 0

        def __len__(self):
            return 50

        def __getitem__(self, index):
            self.reads += 1
            if self.reads == 3:
                raise OSError(5, "Input/output error")
            return numbered[index]

    seen = []
    with pytest.raises(OSError, match="Input/output error"):
        for batch in BatchLoader(Failing(), 10, prefetch=prefetch):
            seen.append(batch)
    assert len(seen) == 2
    wait_for_threads()


def test_two_consumers_do_not_disturb_each_other(numbered):
    loader = BatchLoader(numbered, 10, seed=8)
    one, other = iter(loader), iter(loader)
    mixed = [pair for pair in zip(one, other)]
    fresh = BatchLoader(numbered, 10, seed=8)
    assert same([a for (a,), _ in mixed], epoch_of(fresh))
    assert same([b for _, (b,) in mixed], epoch_of(fresh))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_an_epoch_without_overlap_in_equally_many_batches(numbered, processes):
    loaders = [BatchLoader(numbered, 4, seed=8, rank=rank, processes=processes) for rank in range(processes)]
    shares = [numbers(epoch_of(loader)) for loader in loaders]
    together = numbers(epoch_of(BatchLoader(numbered, 4 * processes, seed=8)))
    assert [len(share) for share in shares] == [len(together)] * processes == [50 // (4 * processes)] * processes
    for i, whole in enumerate(together):
        assert sorted(image for share in shares for image in share[i]) == whole
    seen = [image for share in shares for batch in share for image in batch]
    assert len(set(seen)) == len(seen)


def test_processes_continue_in_the_middle_of_an_epoch_and_mirror_each_in_its_own_way(numbered):
    def loader():
        return BatchLoader(numbered, 10, seed=8, flip=True, rank=1, processes=2)

    whole, rest = epoch_of(loader()), loader()
    rest.seek(0, 1)
    assert same(epoch_of(rest), whole[1:])
    first = epoch_of(BatchLoader(numbered, 10, seed=8, flip=True, processes=2))
    assert [is_mirrored(batch).tolist() for batch in first] != [is_mirrored(batch).tolist() for batch in whole]


def test_a_batch_of_all_processes_larger_than_the_data_is_refused(numbered):
    with pytest.raises(ValueError, match="an iteration takes 60 images .*, and the data hold 50"):
        BatchLoader(numbered, 20, processes=3)


def test_uint8_batches_are_the_levels_of_the_float_ones_mirrored_alike(numbered):
    floats = epoch_of(BatchLoader(numbered, 8, seed=3, flip=True))
    levels = epoch_of(BatchLoader(numbered, 8, seed=3, flip=True, as_uint8=True))
    assert {batch.dtype for batch in levels} == {np.dtype(np.uint8)} and np.concatenate(levels).max() == 197
    assert same([to_float(batch) for batch in levels], floats)
    assert 0 < np.concatenate([is_mirrored(batch) for batch in levels]).mean() < 1


def test_floats_are_not_taken_for_levels(numbered):
    with pytest.raises(ValueError, match="must be uint8 levels, received float32: dcgan.to_uint8"):
        BatchLoader(to_float(numbered), 2)
