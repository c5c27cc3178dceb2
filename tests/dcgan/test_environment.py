"""What users are told to run next works where they are told it."""

import sys

from dcgan.environment import export_command


def test_the_next_command_exports_what_this_python_can_export(monkeypatch):
    assert export_command("a/run") == "python tools/export.py --format onnx --checkpoint a/run"
    monkeypatch.setitem(sys.modules, "paddle2onnx", None)  # as on Python 3.13, which has no package of it
    assert export_command("a/run") == "python tools/export.py --format paddle --checkpoint a/run"
