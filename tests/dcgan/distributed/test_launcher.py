"""How processes learn from their launcher who they are: what each launcher sets, and the launchers themselves."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from dcgan import TrainConfig
from dcgan.checkpoints.checkpoint import list_checkpoints, read_checkpoint
from dcgan.distributed.launcher import Launch, read_launch
from dcgan.errors import ProjectError
from tests.tiny import TINY

ROOT = Path(__file__).resolve().parents[3]
TRAIN = str(ROOT / "tools" / "train.py")
ENDPOINTS = ("10.0.0.1:71", "10.0.0.1:72", "10.0.0.2:71", "10.0.0.2:72")
CLUSTER = {"PADDLE_TRAINER_ENDPOINTS": ",".join(ENDPOINTS), "PADDLE_TRAINER_ID": "3"}
CONFIG = TrainConfig(
    data="cartoon:32",
    **TINY,
    batch_size=8,
    steps=4,
    sample_every=4,
    evaluate_every=0,
)


@pytest.mark.parametrize(
    "environment",
    [
        CLUSTER,
        {**CLUSTER, "PADDLE_TRAINERS_NUM": "4", "PADDLE_RANK_IN_NODE": "1"},  # with --backend
        {"PADDLE_TRAINER_ENDPOINTS": CLUSTER["PADDLE_TRAINER_ENDPOINTS"], "PADDLE_CURRENT_ENDPOINT": ENDPOINTS[3]},
        {**CLUSTER, "PADDLE_TRAINERS_NUM": "4", "PADDLE_LOCAL_RANK": "1", "PADDLE_LOCAL_SIZE": "2"},
    ],
)
def test_every_launcher_gives_the_same_place_among_the_processes(environment):
    assert read_launch(environment) == Launch(3, 4, 1, 2, ENDPOINTS)


def test_two_launchers_on_one_machine_say_themselves_how_many_processes_each_has():
    environment = {**CLUSTER, "PADDLE_LOCAL_RANK": "0", "PADDLE_LOCAL_SIZE": "1"}
    assert read_launch(environment)[:4] == (3, 4, 0, 1)


def test_without_a_launcher_there_is_one_process():
    assert read_launch({}) == read_launch({"PADDLE_TRAINERS_NUM": "1", "PADDLE_LOCAL_SIZE": "0"}) == Launch()


def test_processes_of_one_run_share_its_name_and_no_other_run_has_it():
    mine, peer = (read_launch({**CLUSTER, "PADDLE_TRAINER_ID": str(rank)}).run_id for rank in (0, 3))
    assert mine == peer != read_launch({**CLUSTER, "PADDLE_TRAINER_ENDPOINTS": "a:1,a:2,a:3,a:4"}).run_id


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"PADDLE_LOCAL_SIZE": "0"}, "PADDLE_LOCAL_SIZE must be a whole number, at least 1, received '0'"),
        ({"PADDLE_TRAINERS_NUM": "two"}, "PADDLE_TRAINERS_NUM must be a whole number, at least 1, received 'two'"),
        ({"PADDLE_TRAINERS_NUM": "3"}, "must name host:port of 3 processes"),
        ({"PADDLE_TRAINER_ENDPOINTS": "a:1,b"}, "must name host:port of 2 processes, received 'a:1,b'"),
        ({"PADDLE_TRAINER_ID": "4"}, "PADDLE_TRAINER_ID must be a whole number, at least 0 and at most 3"),
        ({"PADDLE_TRAINER_ID": "-1"}, "PADDLE_TRAINER_ID must be"),
        ({"PADDLE_LOCAL_RANK": "2"}, "PADDLE_LOCAL_RANK must be a whole number, at least 0 and at most 1"),
        ({"PADDLE_DISTRI_BACKEND": "bkcl"}, "--backend bkcl is not supported: expected gloo"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused_with_the_variable_that_is_wrong(changes, said):
    with pytest.raises(ProjectError) as raised:
        read_launch({**CLUSTER, **changes})
    assert said in str(raised.value)


def test_processes_that_cannot_know_which_they_are_say_so():
    with pytest.raises(ProjectError, match="neither PADDLE_TRAINER_ID nor PADDLE_CURRENT_ENDPOINT"):
        read_launch({"PADDLE_TRAINER_ENDPOINTS": "a:1,a:2"})


# ---- real launchers; endpoints alone, as older clusters set them, are what start_together gives ----------------------


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# The plain launcher is that of the resume in test_process_group.py.
@pytest.mark.parametrize("form", ["--backend", "--nnodes"])
def test_a_launcher_trains_with_two_processes_and_leaves_one_run_folder(form, tmp_path, start_process):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_json()))
    command = [TRAIN, "--config", "config.json"]
    launch = ["-m", "paddle.distributed.launch"]
    if form != "--nnodes":
        launches = [[*launch, "--backend", "gloo", "--nproc_per_node", "2", "--log_dir", "log0"]]
    else:
        launch += ["--nnodes", "2", "--nproc_per_node", "1", "--master", f"127.0.0.1:{free_port()}"]
        launches = [[*launch, "--rank", str(rank), "--log_dir", f"log{rank}"] for rank in (0, 1)]
    launchers = [start_process([*each, *command], tmp_path, CUDA_VISIBLE_DEVICES=None) for each in launches]
    for launcher in launchers:
        launcher.wait(timeout=200)
    said = "\n".join(Path(launcher.log).read_text() for launcher in launchers)
    assert [launcher.returncode for launcher in launchers] == [0] * len(launchers), said
    (run,) = (tmp_path / "work" / "train").iterdir()
    state = read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).state
    assert (state["global_step"], state["extra"]["processes"]) == (4, 2)
    assert sum("done: 4 iterations" in log.read_text() for log in tmp_path.glob("log*/workerlog.*")) == 1


def test_processes_with_different_flags_end_with_the_flag_that_differs(tmp_path, start_together):
    processes = start_together([TRAIN, "--data", "cartoon:32", "--device", "cpu"], tmp_path, extra=["--lr", "1e-3"])
    for process in processes:
        process.wait(timeout=120)
    said = [Path(process.log).read_text().splitlines() for process in processes]
    line = "error: process 1 was started with another --lr than process 0; give the same command to all processes"
    assert said == [[line], [line]] and [process.returncode for process in processes] == [1, 1]
    assert not (tmp_path / "work").exists()
