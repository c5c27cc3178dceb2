import json

import pytest

from dcgan.errors import EvaluationError
from dcgan.metrics.evaluate_json import compare, differences, read_report

REPORT = {
    "figures": {"swd": 50.0, "fid": 30.0},
    "protocol": {"version": 1, "n_real": 5000, "features": {"sha256": "ab", "range": [-1, 1]}},
    "target": {"step": 100},
}


def changed(**protocol):
    return {**REPORT, "protocol": {**REPORT["protocol"], **protocol}}


def test_figures_of_one_protocol_are_compared_whatever_the_step():
    now = {**REPORT, "figures": {"swd": 45.0, "kid": 0.1}, "target": {"step": 900}}
    assert compare(now, REPORT) == {"swd": -5.0}


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ({"n_real": 500}, "n_real: 5000, 500"),
        ({"version": 2}, "version: 1, 2"),
        ({"features": {"sha256": "cd", "range": [-1, 1]}}, "features.sha256: ab, cd"),
        ({"features": None}, "features.sha256: ab, None"),
        ({"crop": "center"}, "crop: None, center"),
    ],
)
def test_figures_of_two_protocols_are_not_compared(protocol, told):
    with pytest.raises(EvaluationError, match="not compared") as caught:
        compare(changed(**protocol), REPORT)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_equal_protocols_have_no_differences():
    assert differences(REPORT["protocol"], json.loads(json.dumps(REPORT["protocol"]))) == []


def test_a_report_is_read_from_its_file_or_its_folder(tmp_path):
    (tmp_path / "evaluate.json").write_text(json.dumps(REPORT))
    assert read_report(tmp_path) == read_report(tmp_path / "evaluate.json") == REPORT


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"figures": 1, "protocol": {}}', '{"figures": {"fid": "low"}, "protocol": {}}', "[" * 9999],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "evaluate.json"
    path.write_text(content)
    with pytest.raises(EvaluationError, match="evaluate.json is") as caught:
        read_report(path)
    assert "\n" not in str(caught.value)


def test_a_missing_report_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no report at"):
        read_report(tmp_path)
