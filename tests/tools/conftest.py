"""A tool as a user meets it, without a process of its own: Paddle is imported already."""

import subprocess

import pytest

from tools import console


@pytest.fixture
def run_here(capsys, monkeypatch):
    """run_here(main, *arguments, cwd): exit code, stdout and stderr of the tool, called in the folder `cwd`."""

    def run(main, *arguments, cwd):
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            console.run(main, [str(word) for word in arguments])
        return subprocess.CompletedProcess(arguments, ended.value.code, *capsys.readouterr())

    return run
