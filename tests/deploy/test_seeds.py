"""A seed is the same numbers everywhere: checked against Python's integers, `statistics`, pins and JavaScript."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest

import deploy
from deploy.seeds import MAX_SEED, bits, check_seeds, key, keys, latents, mix, normal, permutation

ALL = 2**32 - 1
WEB = Path(deploy.__file__).parent / "web"


def reference_mix(x: int) -> int:
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        x = (x ^ (x >> shift)) * factor & ALL
    return x ^ (x >> 14)


def reference_bits(seed: int, index: int) -> int:
    golden = 0x9E3779B9
    return reference_mix(
        reference_mix((index * golden + reference_mix(seed)) & ALL) ^ reference_mix((seed + golden) & ALL)
    )


def reference_value(seed: int, index: int) -> float:
    return statistics.NormalDist().inv_cdf((reference_bits(seed, index) + 0.5) / 2**32)


def as_hex(values: np.ndarray) -> list[str]:
    return [f"{int(value):08x}" for value in np.asarray(values, np.float32).reshape(-1).view(np.uint32)]


# ---- the definition -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 7, 65535, 65536, 2**31, MAX_SEED])
def test_bits_are_those_of_plain_integer_arithmetic(seed):
    assert bits(np.array([seed]), 300)[0].tolist() == [reference_bits(seed, i) for i in range(300)]


def test_values_are_the_inverse_of_the_normal_distribution():
    seeds = [0, 1, 7, 123456789, MAX_SEED]
    expected = np.array([[reference_value(seed, i) for i in range(400)] for seed in seeds])
    assert np.abs(normal(bits(np.array(seeds), 400)) - expected).max() < 5e-15
    assert np.array_equal(latents(seeds, 400), expected.astype(np.float32))


def test_inverse_is_right_at_the_ends_the_middle_and_where_the_formulas_meet():
    inner = round((0.5 - 0.425) * 2**32)
    corners = [0, 1, 2, 2**31 - 1, 2**31, ALL - 1, ALL]
    near = [side + step for side in (inner, ALL - inner) for step in range(-50, 50)]
    powers = [2**k + d for k in range(2, 32) for d in (-1, 0, 1)]
    uniform = np.array(sorted({*corners, *near, *powers}), np.uint32)
    expected = np.array([statistics.NormalDist().inv_cdf((int(u) + 0.5) / 2**32) for u in uniform])
    found = normal(uniform)
    assert np.all(np.abs(found - expected) <= 1e-14 * np.maximum(1, np.abs(expected)))
    assert np.all(np.diff(found) > 0)
    assert np.abs(found).max() < 6.34


def test_values_are_pinned_forever():
    seeds = [0, 0, 7, 4242, MAX_SEED]
    indices = [0, 99, 3, 511, 1]
    found = [as_hex(latents(seed, index + 1)[0, index])[0] for seed, index in zip(seeds, indices)]
    assert found == PINNED
    independent = [reference_value(seed, index) for seed, index in zip(seeds, indices)]
    assert as_hex(np.array(independent)) == PINNED


PINNED = ["bfe93a52", "bf802cf1", "3f1f5d66", "be0b5770", "bfd79f81"]


# ---- what a seed promises -------------------------------------------------------------------------------------------


def test_seed_is_the_same_alone_in_a_batch_and_in_any_order():
    seeds = np.random.default_rng(0).integers(0, MAX_SEED, 200, dtype=np.uint64)
    together = latents(seeds, 100)
    assert np.array_equal(np.concatenate([latents(int(seed), 100) for seed in seeds]), together)
    assert np.array_equal(latents(seeds[::-1], 100), together[::-1])


def test_longer_row_begins_with_the_shorter():
    assert np.array_equal(latents(range(20), 10), latents(range(20), 100)[:, :10])


def test_shape_and_type():
    assert latents(3, 5).shape == (1, 5)
    assert latents([], 5).shape == (0, 5)
    assert latents(range(4), 1).shape == (4, 1)
    assert latents([1, 2], 5).dtype == np.float32


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int64, np.uint64, list, tuple, range])
def test_type_of_the_seeds_does_not_matter(kind):
    seeds = range(9) if kind is range else kind(range(9)) if kind in (list, tuple) else np.arange(9).astype(kind)
    assert np.array_equal(latents(seeds, 6), latents(list(range(9)), 6))


def test_caller_keeps_its_seeds():
    seeds = np.arange(5, dtype=np.uint32)
    latents(seeds, 7)
    mix(seeds)
    assert seeds.tolist() == [0, 1, 2, 3, 4]


# ---- what a random number promises ----------------------------------------------------------------------------------


def test_moments_are_those_of_a_standard_normal():
    values = latents(range(2000), 100).astype(np.float64).reshape(-1)
    n = values.size
    assert abs(values.mean()) < 4 / math.sqrt(n)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((values**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((values**4).mean() - 3) < 4 * math.sqrt(96 / n)


def test_distribution_is_normal_over_its_whole_range():
    uniform = np.sort(bits(np.arange(2000), 100).reshape(-1)) / 2.0**32
    distance = np.abs(uniform - np.arange(1, uniform.size + 1) / uniform.size).max()
    assert distance < 1.95 / math.sqrt(uniform.size)  # Kolmogorov-Smirnov, one in a thousand


def test_neighbouring_seeds_and_neighbouring_indices_are_independent():
    values = latents(range(1000), 100).astype(np.float64)
    for one, other in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1]), (values[2:, 1:], values[:-2, :-1])):
        assert abs((one * other).mean()) < 4 / math.sqrt(one.size)


def test_no_two_seeds_give_shifted_copies_of_one_sequence():
    rows = bits(np.arange(100), 1000).astype(np.uint64)
    pairs = (rows[:, :-1] << np.uint64(32)) | rows[:, 1:]
    assert np.unique(pairs).size == pairs.size


def test_mix_loses_nothing_and_spreads_every_bit():
    assert np.unique(mix(np.arange(2**18, dtype=np.uint32))).size == 2**18
    inputs = bits(np.array([5]), 2000)[0]
    mixed = mix(inputs)
    for bit in range(32):
        flipped = mixed ^ mix(inputs ^ np.uint32(1 << bit))
        share = np.unpackbits(flipped.view(np.uint8)).reshape(-1, 32).mean(axis=0)
        assert share.min() > 0.44 and share.max() < 0.56


# ---- keys and orders ------------------------------------------------------------------------------------------------


def test_key_depends_on_every_part_and_their_order():
    parts = list(itertools.product([0, 1, 2, MAX_SEED], repeat=3))
    assert len({key(*p) for p in parts}) == len(parts)
    assert len({key(*range(n)) for n in range(1, 20)}) == 19


def test_keys_of_an_array_are_the_keys_of_its_numbers():
    indices = np.array([0, 1, 31, 2**31, MAX_SEED])
    assert keys(7, indices).tolist() == [key(7, int(index)) for index in indices]


def test_key_is_plain_integer_arithmetic():
    value = 0
    for part in (3, 1, MAX_SEED):
        value = reference_mix((value + 0x9E3779B9 + part) & ALL)
    assert key(3, 1, MAX_SEED) == value


def test_permutation_holds_every_number_once_and_is_pinned():
    for count in (1, 2, 1000):
        assert np.array_equal(np.sort(permutation(count, 3, 1)), np.arange(count))
    drawn = bits(np.array([key(0, 1, 2)]), 8)[0].tolist()
    assert permutation(8, 0, 1, 2).tolist() == sorted(range(8), key=drawn.__getitem__)


def test_permutation_depends_on_every_part():
    orders = {tuple(permutation(50, *parts)) for parts in itertools.product([0, 1, 5], repeat=3)}
    assert len(orders) == 27


def test_every_order_is_equally_likely():
    counts: dict[tuple, int] = {}
    for i in range(3000):
        order = tuple(permutation(3, 9, i))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 20.5  # chi-squared of 5 degrees, one in a thousand


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "named"),
    [
        (-1, "-1"),
        (2**32, "4294967296"),
        ([1, 2, -3, -4], "-3"),
        (2**70, str(2**70)),
        ([1, 2**70], str(2**70)),
        (1.5, "1.5"),
        (2.0, "2.0"),
        (float("nan"), "nan"),
        (True, "True"),
        ("7", "'7'"),
        (None, "None"),
        (np.array([0.5], np.float32), "0.5"),
    ],
)
def test_what_is_no_seed_is_named(seeds, named):
    with pytest.raises(ValueError, match=r"a seed must be a whole number of 0 \.\. 4294967295, received") as caught:
        check_seeds(seeds)
    assert str(caught.value).endswith(f"received {named}")


@pytest.mark.parametrize("latent_dim", [0, -1])
def test_a_row_has_at_least_one_number(latent_dim):
    with pytest.raises(ValueError, match=f"at least one number per seed is needed, received {latent_dim}"):
        latents(0, latent_dim)


# ---- another language -----------------------------------------------------------------------------------------------

JAVASCRIPT = """
const { latents, key } = await import("data:text/javascript," + encodeURIComponent(SOURCE));
const rows = SEEDS.map((seed) => Array.from(new Uint32Array(latents(seed, 100).buffer)));
console.log(JSON.stringify([rows, KEYS.map(key)]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: JavaScript cannot be compared")
def test_javascript_gives_the_same_bits():
    """deploy/web/latents.js, which the browser uses, in node."""
    seeds = [0, 1, 2, 7, 99, 100, 65535, 65536, 2**31 - 1, 2**31, MAX_SEED - 1, MAX_SEED, *range(10**9, 10**9 + 8)]
    keys = [[], [0], [MAX_SEED], [3, 1, MAX_SEED], list("小明".encode())]
    names = {"SOURCE": (WEB / "latents.js").read_text("utf-8"), "SEEDS": seeds, "KEYS": keys}
    script = "\n".join(f"const {name} = {json.dumps(value)};" for name, value in names.items()) + JAVASCRIPT
    command = ["node", "--input-type=module", "-e", script]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    rows, numbers = json.loads(answer.stdout)
    assert rows == latents(seeds, 100).view(np.uint32).tolist()
    assert numbers == [key(*parts) for parts in keys]
