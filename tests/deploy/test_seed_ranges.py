from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.seed_ranges import MAX_SEED, Seeds
from deploy.seeds import MAX_SEED as LATENTS_MAX_SEED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", [7]),
        ("0,7,100-103", [0, 7, 100, 101, 102, 103]),
        ("9,3,5-6", [9, 3, 5, 6]),
        ("4-4", [4]),
        (" 1 , 2 ", [1, 2]),
        ("4294967295", [4294967295]),
        ("007", [7]),
    ],
)
def test_lists_and_inclusive_ranges_keep_their_order(text, expected):
    seeds = Seeds.parse(text)
    assert list(seeds) == expected and len(seeds) == len(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a seed"),
        ("1,,2", "neither a seed"),
        ("-1", "neither a seed"),
        ("1.5", "neither a seed"),
        ("a", "neither a seed"),
        ("1-2-3", "neither a seed"),
        ("٣", "neither a seed"),
        ("9-3", "ends before it begins"),
        ("4294967296", "0 .. 4294967295"),
        ("0-9999999999", "0 .. 4294967295"),
        ("99999999999", "neither a seed"),
        ("5,5", "seed 5 is named twice"),
        ("0-10,4", "seed 4 is named twice"),
        ("3,7-9,0-20", "named twice"),
    ],
)
def test_wrong_lists_are_refused_with_the_part_at_fault(text, message):
    with pytest.raises(ValueError, match=message):
        Seeds.parse(text)


def test_every_seed_there_is_costs_nothing():
    everything = Seeds.parse("0-4294967295")
    assert len(everything) == 2**32
    assert next(iter(everything)) == 0
    assert 2**32 - 1 in everything and 2**32 not in everything


def test_a_seed_is_found_among_parts_in_any_order():
    seeds = Seeds.parse("9,3,5-6,100-103")
    assert [seed for seed in range(-1, 110) if seed in seeds] == sorted(seeds)


def test_no_seed_at_all_is_refused():
    with pytest.raises(ValueError, match="no seed"):
        Seeds(range(0))


def test_the_limit_is_that_of_the_latents():
    assert MAX_SEED == LATENTS_MAX_SEED


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_duplicates_are_found_wherever_they_are(numbers):
    text = ",".join(map(str, numbers))
    if len(set(numbers)) == len(numbers):
        assert list(Seeds.parse(text)) == numbers
    else:
        with pytest.raises(ValueError, match="twice"):
            Seeds.parse(text)
