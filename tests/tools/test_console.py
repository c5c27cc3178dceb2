import errno
import signal
import sys
from pathlib import Path

import pytest

from dcgan.errors import CheckpointError
from tools import console
from tools.console import one_line, run, start_logging


@pytest.fixture(autouse=True)
def handler():
    """`run` is the last that a process does, and leaves a handler behind."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def ending(main, capsys):
    with pytest.raises(SystemExit) as ended:
        run(main, [])
    return ended.value.code, capsys.readouterr().err


def fail(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CheckpointError("it is\n  damaged"), "error: it is damaged\n"),
        (ValueError("bad value"), "error: bad value\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "x.zip"),
            "error: No such file or directory: x.zip\n",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device\n"),
        (MemoryError("Unable to allocate 3 GiB"), "error: the memory is full: Unable to allocate 3 GiB\n"),
        (MemoryError(), "error: the memory is full\n"),
    ],
)
def test_an_error_that_a_user_can_cause_is_one_line_and_exit_1(error, line, capsys):
    assert ending(fail(error), capsys) == (1, line)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(fail(ZeroDivisionError()), [])


def test_a_missing_package_is_named_with_the_command_that_installs_it(capsys):
    line = "error: paddle is not installed. Run: pip install -r requirements.txt\n"
    assert ending(fail(ModuleNotFoundError("No module named 'paddle'", name="paddle")), capsys) == (1, line)
    with pytest.raises(ModuleNotFoundError):
        run(fail(ModuleNotFoundError("No module named 'dcgan.x'", name="dcgan.x")), [])


@pytest.mark.parametrize("name", ["paddle", "cv2"])
def test_on_a_python_without_paddle_the_right_pythons_are_named_instead(name, capsys, monkeypatch):
    monkeypatch.setattr(console, "PYTHONS", ((3, 7), (3, 8)))
    here = ".".join(map(str, sys.version_info[:2]))
    line = f"error: PaddlePaddle 3.2.2 has no package for Python {here}. Take Python 3.7 to 3.8.\n"
    assert ending(fail(ModuleNotFoundError(f"No module named '{name}'", name=name)), capsys) == (1, line)


def test_the_pythons_that_are_named_are_those_of_the_package():
    from packaging.specifiers import SpecifierSet

    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text("utf-8")
    stated = SpecifierSet(text.partition('requires-python = "')[2].partition('"')[0])
    named = [minor for minor in range(20) if console.PYTHONS[0] <= (3, minor) <= console.PYTHONS[1]]
    assert named == [minor for minor in range(20) if f"3.{minor}.5" in stated]


def test_ctrl_c_exits_with_130(capsys):
    assert ending(fail(KeyboardInterrupt()), capsys) == (130, "interrupted\n")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_what_the_tool_returns(returned, code, capsys):
    assert ending(lambda argv: returned, capsys)[0] == code


def test_debug_level_adds_the_traceback(caplog):
    start_logging("debug")
    try:
        with pytest.raises(SystemExit):
            run(fail(ValueError("x")), [])
        assert "Traceback" in caplog.text and "ValueError: x" in caplog.text
        caplog.clear()
        start_logging("info")
        with pytest.raises(SystemExit):
            run(fail(ValueError("x")), [])
        assert "Traceback" not in caplog.text
    finally:
        start_logging("info")


def test_an_error_without_words_is_called_by_its_name():
    assert one_line(ValueError()) == "ValueError"
