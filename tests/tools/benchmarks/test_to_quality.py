"""Recipes that train until their images are good: in turn, and measured off the clock."""

import argparse

from tools.benchmarks import to_quality


def test_recipes_train_in_turn_and_are_measured_off_the_clock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the faces are packed
    monkeypatch.setattr(to_quality, "DATA", "cartoon:1000")
    sizes = {"base_channels": 2, "image_size": 16, "threads": 1}
    args = argparse.Namespace(to_quality=1e9, seeds=[3], seconds=0.1, rounds=2)
    found = to_quality.table(sizes, args, [], tmp_path, lambda text: None)
    assert [row["name"] for row in found["to_quality"]] == list(to_quality.RECIPES.values())
    for row in found["to_quality"]:
        (first, second) = row["curves"][0]
        assert row["reached"] == [first]
        assert 0.1 < first[1] <= second[1] - 0.1
        assert 0 < first[2] < second[2]
        assert min(first[3], second[3]) > found["real_to_real"] > 0
    shown = "\n".join(to_quality.text(found))
    assert "this project, --preset tutorial" in shown and "real images against real ones" in shown


def test_a_distance_is_reached_at_the_first_measurement_that_is_as_small():
    curve = [[1.0, 0.9, 10, 50.0], [2.0, 1.8, 20, 30.0], [3.0, 2.7, 30, 20.0]]
    assert to_quality.reached(curve, 30.0) == curve[1]
    assert to_quality.reached(curve, 19.9) is None
    table = {"to_quality": [{"name": "a", "reached": [None, curve[2]], "curves": [curve]}], "skipped": {}}
    row = to_quality.text({**table, "real_to_real": 5.0})[1].split()
    assert row == "a -, 3 -, 3 -, 30 50 30 20".split()
