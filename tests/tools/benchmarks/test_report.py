"""Which cases are run, and the tables that say what was found."""

import pytest

from tools.benchmarks import machine, report
from tools.benchmarks.measure import Case


def test_only_the_cases_that_are_named_run_and_the_rates_with_them():
    cases = [Case(name, print, {}, 1) for name in ("Ours, float32", "Theirs, float32", "copy of memory")]
    assert [case.name for case in report.only(cases, ["theirs"])] == ["Theirs, float32", "copy of memory"]
    assert report.only(cases, ["float32"]) == report.only(cases, []) == cases
    with pytest.raises(ValueError, match="no case is called yours; there are: Ours, float32; Theirs"):
        report.only(cases, ["yours"])
    with pytest.raises(ValueError, match="no case is called copy of memory; there are: Ours, float32; Theirs"):
        report.only(cases, ["copy of memory"])  # the rates alone is nothing to compare


def test_a_table_of_which_every_case_was_left_out_still_says_why():
    table = {"title": "nothing", "rows": [], "skipped": {"Ours": "this processor has no bfloat16"}}
    assert "Ours: left out, this processor has no bfloat16" in report.text(
        {"machine": machine.describe(), "tables": [table]}
    )
