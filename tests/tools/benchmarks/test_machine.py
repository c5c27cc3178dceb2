"""The description of the machine."""

import json

from tools.benchmarks import machine


def test_a_machine_is_described_in_plain_values():
    its = machine.describe()
    assert json.loads(json.dumps(its)) == its and its["cores"] >= 1 and "numpy" in its["versions"]
