import dataclasses

import numpy as np
import pytest

from dcgan import selftest
from dcgan.errors import ProjectError
from dcgan.selftest import SETTINGS, Outcome, _differences, prove_resume


def test_runs_killed_while_training_and_while_saving_end_in_the_same_bits(tmp_path):
    outcomes = list(prove_resume(tmp_path, kills=2, config=dataclasses.replace(SETTINGS, epochs=2)))
    assert [outcome.differences for outcome in outcomes] == [[], []]
    assert outcomes[1].moment.startswith("writing a checkpoint")
    assert all(outcome.resumed_from > 0 for outcome in outcomes)


def test_a_run_that_ended_before_the_kill_does_not_count(tmp_path, monkeypatch):
    from dcgan import selftest

    kills = iter([None, None, "training, step 7"])
    monkeypatch.setattr(selftest, "_kill", lambda *_: next(kills))
    assert selftest._killed_run(tmp_path, 0, 1, 40, 4) == ("killed-00-2", "training, step 7")
    monkeypatch.setattr(selftest, "_kill", lambda *_: None)
    with pytest.raises(ProjectError, match="no run could be killed"):
        selftest._killed_run(tmp_path, 0, 1, 40, 4)


def test_one_changed_bit_one_lost_tensor_and_one_changed_metric_are_each_noticed():
    run = {"g/w": np.array([1.0, 2.0], np.float32), "d/w": np.zeros(2, np.float32), "metrics": [{"step": 1}]}
    changed = run["g/w"].copy()
    changed.view(np.uint32)[0] ^= 1
    assert _differences(run, {**run, "g/w": changed}) == ["g/w"]
    assert _differences(run, {name: run[name] for name in ("g/w", "metrics")}) == ["d/w"]
    assert _differences(run, {**run, "metrics": [{"step": 2}]}) == ["metrics"]
    assert _differences(run, {**run, "d/w": -run["d/w"]}) == ["d/w"]  # -0.0 is equal to 0.0 and has other bits


def test_a_child_that_fails_for_another_reason_is_reported_with_its_words(tmp_path):
    config = dataclasses.replace(SETTINGS, data="nowhere")
    with pytest.raises(ProjectError, match="there is no nowhere"):
        list(prove_resume(tmp_path, kills=1, config=config))


@pytest.mark.parametrize(("differences", "code", "verdict"), [([], 0, "bit-identical"), (["g/w"], 1, "DIFFERENT: g/w")])
def test_the_report_names_what_differs_and_fails_over_it(monkeypatch, capsys, differences, code, verdict):
    outcomes = [Outcome("training, step 7", 4, []), Outcome("writing a checkpoint", 8, differences)]
    monkeypatch.setattr(selftest, "prove_resume", lambda *_: outcomes)
    assert selftest.main(["--kills", "2"]) == code
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "killed training, step 7; resumed from step 4: bit-identical" and second.endswith(verdict)
    assert last.startswith(f"{2 - code} of 2 killed runs ended bit-identical")


def test_a_selftest_that_cannot_run_is_one_line(monkeypatch, capsys):
    def fail(*_):
        raise ProjectError("no run could be killed")

    monkeypatch.setattr(selftest, "prove_resume", fail)
    assert selftest.main([]) == 1 and capsys.readouterr().err == "error: no run could be killed\n"
