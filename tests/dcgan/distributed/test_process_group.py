"""Two processes that train one run, as the launcher starts them: what they compute, and how they end."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import paddle
import pytest

from dcgan import TrainConfig
from dcgan import train as runs
from dcgan.callbacks.metrics_log import read_records
from dcgan.checkpoints.checkpoint import list_checkpoints, read_checkpoint
from dcgan.distributed.process_group import SINGLE_PROCESS, init_process_group
from dcgan.runs.find_checkpoint import find_checkpoint, run_folders
from dcgan.selftest import TIMES
from deploy.seeds import bits
from tests.tiny import TINY

ROOT = Path(__file__).resolve().parents[3]
CONFIG = TrainConfig(
    data="faces.npy",
    **TINY,
    batch_size=8,
    ema=0.9,
    flip=True,
    instance_noise=0.1,
    noise_steps=7,
    epochs=3,
    log_every=1,
    sample_every=4,
    checkpoint_every=2,
    keep=9,
    evaluate_every=3,
)


def faces(folder, count=48):
    np.save(folder / "faces.npy", (bits(np.arange(count * 3), 256).reshape(count, 3, 16, 16) & 255).astype(np.uint8))


def tensors(checkpoint):
    groups = read_checkpoint(checkpoint).groups
    return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}


def numbers(run):
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_records(run / "metrics.jsonl")]


# ---- one start, in which both processes do everything that together.py lists -----------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory, start_together):
    """(folder, what process 0 saw, what process 1 saw)"""
    folder = tmp_path_factory.mktemp("together")
    faces(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG.to_json()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = runs.train(dataclasses.replace(CONFIG, steps=4)).folder
    shutil.move(folder / run, folder / "one-process")
    processes = start_together([str(ROOT / "tests" / "dcgan" / "distributed" / "together.py"), str(folder)], folder)
    for process in processes:
        process.wait(timeout=300)
    said = [Path(process.log).read_text() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return (folder, *(json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1)))


def test_values_of_rank_0_reach_all_and_rank_0_works_first(together):
    _, zero, one = together
    assert zero["messages"] == {"broadcast": {"from": 0}, "max": 10, "order": 0}
    assert one["messages"] == {"broadcast": {"from": 0}, "max": 10, "order": 1}


def test_tensors_are_averaged_broadcast_and_gathered_whatever_their_shape_and_type(together):
    _, zero, one = together
    assert zero["tensors"] == one["tensors"]
    assert zero["tensors"]["average"] == [2, 3, 4]
    assert zero["tensors"]["average of halves"] == ["paddle.float16", [[15]]]
    assert zero["tensors"]["broadcast"] == [[0, 0], [[5]]]
    assert zero["tensors"]["gathered"] == [[0], [0], [1], [1]]


def test_two_processes_of_batch_32_equal_one_of_batch_64_where_there_is_no_batch_norm(together):
    _, zero, one = together
    assert zero["against one process"]["without"] < 2e-6  # each weight moved by up to 2e-3
    assert zero["against one process"] == one["against one process"]


def test_batch_norm_over_each_process_own_batch_is_another_recipe(together):
    _, zero, _ = together
    assert zero["against one process"]["with BatchNorm"] > 1e-4


def test_each_process_samples_its_own_latents_and_rank_0_those_of_a_single_process(together, tiny_config):
    _, zero, one = together
    alone = runs.DCGAN(tiny_config)
    alone.global_step = 5
    eight = alone._sample_latents(8).numpy().sum(axis=1).tolist()
    assert zero["latents"] + one["latents"] == eight and len(set(eight)) == 8


def test_a_run_of_two_processes_has_one_folder_with_everything_and_says_how_large_its_batch_is(together):
    folder, zero, one = together
    run = folder / zero["runs"]["straight"][0]
    assert one["runs"] == {**zero["runs"], "judged": one["runs"]["judged"]}
    assert zero["runs"]["straight"][1] == 9  # 48 images, 16 of them in an iteration, 3 epochs
    assert [record["step"] for record in read_records(run / "metrics.jsonl")] == list(range(1, 10))
    found = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert {"config.json", "generator.params", "loss.png", "samples/step-00000004.png"} <= found
    assert not [name for name in found if name.endswith(".part")]
    assert "2 processes with batches of 8: 16 images per discriminator step" in zero["log"]
    assert read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).state["extra"]["processes"] == 2
    assert one["log"] == []


def test_two_processes_resume_to_the_same_bits_and_the_same_metrics(together):
    folder, zero, _ = together
    straight, resumed = (folder / zero["runs"][name][0] for name in ("straight", "resumed"))
    assert straight != resumed
    a, b = (tensors(run / "checkpoints" / "step-00000009") for run in (straight, resumed))
    assert [name for name in a if not np.array_equal(a[name], b[name])] == []
    assert numbers(straight) == numbers(resumed)


def test_a_run_of_one_process_goes_on_with_two_from_the_same_image_and_says_so(together):
    folder, zero, _ = together
    run, last_step = zero["runs"]["taken over"]
    assert Path(run).name == "one-process"
    # 4 iterations of 8 images are 2 of 16; an epoch has 3 of them: 1 + 3 + 3 are left
    assert last_step == 4 + 7
    said = next(line for line in zero["log"] if line.startswith("It was trained by"))
    assert "by 1 processes, 8 images per discriminator step; now by 2, 16 images" in said
    state = read_checkpoint(list_checkpoints(folder / run / "checkpoints")[-1]).state
    assert (state["epoch"], state["epoch_step"]) == (3, 0)


def test_a_run_of_two_processes_goes_on_with_one_and_another_batch_of_the_same_total(together, caplog, tmp_path):
    folder, zero, _ = together
    caplog.set_level("INFO")
    shutil.copytree(folder / zero["runs"]["straight"][0], tmp_path / "run")
    found = find_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000004")
    config = dataclasses.replace(CONFIG, data=str(folder / "faces.npy"), batch_size=16, out=str(tmp_path))
    saved = json.loads(json.dumps(found.state))
    saved["extra"]["config"]["data"] = config.data
    result = runs.train(config, found._replace(state=saved))
    assert result.global_step == 9 and "now by 1, 16 images" in caplog.text


def test_a_collapse_that_rank_0_sees_takes_all_processes_back_together(together):
    folder, zero, one = together
    run, last_step = zero["runs"]["rolled back"]
    assert last_step == 9
    assert zero["runs"]["judged"] == one["runs"]["judged"] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9]
    states = [record["state"] for record in read_records(folder / run / "metrics.jsonl")]
    assert states == ["OK"] * 9
    rolled_back, straight = (
        tensors(folder / r / "checkpoints" / "step-00000009") for r in (run, zero["runs"]["straight"][0])
    )
    assert any(not np.array_equal(rolled_back[name], straight[name]) for name in rolled_back)


def test_a_difference_between_the_processes_stops_both_before_a_checkpoint_and_names_the_tensor(together):
    folder, zero, one = together
    for seen in (zero, one):
        assert "discriminator/conv_2.weight of process 1 differs" in seen["planted difference"]
        assert "step-00000002" in seen["planted difference"]  # spoiled in the third iteration, found at the fourth
    newest = run_folders(folder / "work" / "train")[-1]
    assert [p.name for p in list_checkpoints(newest / "checkpoints")] == ["step-00000002"]


# ---- real commands that are killed and stopped -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory, start_together):
    """(folder, processes) of a run whose process 1 was killed, without a launcher that could notice it."""
    folder = tmp_path_factory.mktemp("killed")
    faces(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG.to_json(), "epochs": 10**6}))
    processes = start_together([str(ROOT / "tools" / "train.py"), "--config", "config.json"], folder)
    processes[0].wait_for("step 5/", seconds=200)
    processes[1].kill()
    for process in processes:
        process.wait(timeout=60)
    return folder, processes


def test_a_killed_process_ends_the_others_with_one_line_and_leaves_the_last_checkpoint_whole(killed):
    folder, processes = killed
    lines = Path(processes[0].log).read_text().splitlines()
    assert processes[0].returncode == 1
    assert lines[-1].startswith("error: process 1 ended unexpectedly")
    assert "the last good checkpoint is" in lines[-1].lower()
    assert not [line for line in lines if line.startswith("Traceback")]
    checkpoints = list_checkpoints(folder / "work" / "train" / "00000-faces" / "checkpoints")
    assert int(checkpoints[-1].name[5:]) >= 4 and read_checkpoint(checkpoints[-1])


def test_the_launcher_resumes_and_a_signal_to_it_saves_and_stops_all_at_one_iteration(killed, start_process):
    folder, _ = killed
    launch = "-m paddle.distributed.launch --nproc_per_node 2 --log_dir log".split()
    command = [*launch, str(ROOT / "tools" / "train.py"), "--resume", "--device", "cpu"]
    launcher = start_process(command, folder, CUDA_VISIBLE_DEVICES=None)  # one that is empty makes the launcher fail
    checkpoints = folder / "work" / "train" / "00000-faces" / "checkpoints"
    before = int(list_checkpoints(checkpoints)[-1].name[5:])
    launcher.wait_for(f"Continuing work/train/00000-faces from step {before}", seconds=200)
    launcher.wait_for("loss D", seconds=60)
    launcher.send_signal(signal.SIGTERM)
    launcher.wait(timeout=90)
    logs = [(folder / "log" / f"workerlog.{rank}").read_text() for rank in (0, 1)]
    newest = list_checkpoints(checkpoints)[-1]
    step = int(newest.name[5:])
    assert (
        f"stopped at step {step}, saved. Continue with: python tools/train.py --resume work/train/00000-faces"
        in logs[0]
    ), logs[0]
    assert logs[1] == "" and step > before
    assert read_checkpoint(newest).state["extra"]["processes"] == 2
    assert read_records(folder / "work" / "train" / "00000-faces" / "metrics.jsonl")[-1]["step"] == step


# ---- one process, which is what most runs are ------------------------------------------------------------------------


def test_without_a_launcher_there_is_one_process_and_nothing_to_exchange(monkeypatch):
    for name in ("PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ENDPOINTS"):
        monkeypatch.delenv(name, raising=False)
    assert init_process_group() is SINGLE_PROCESS
    assert (SINGLE_PROCESS.rank, SINGLE_PROCESS.size, SINGLE_PROCESS.is_rank_zero) == (0, 1, True)
    value = object()
    assert (
        SINGLE_PROCESS.broadcast(value) is value
        and SINGLE_PROCESS.all_reduce_max(3) == 3
        and SINGLE_PROCESS.rank_zero_first(lambda: value) is value
    )
    assert SINGLE_PROCESS.all_gather(value) is value
    SINGLE_PROCESS.all_reduce_mean([value])
    SINGLE_PROCESS.broadcast_tensors([value])
    SINGLE_PROCESS.check_equal({"x": value})
    SINGLE_PROCESS.barrier()
    SINGLE_PROCESS.shutdown()


def test_one_card_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", "host:1,host:2")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    with pytest.raises(ValueError, match="one card for 2 processes.*--devices"):
        init_process_group("gpu:1")


def test_synchronised_batch_norm_is_refused_on_a_cpu_and_changes_no_name_and_no_number(tiny_config):
    from dcgan.networks.generator import Generator

    with pytest.raises(ValueError, match="--sync-bn needs GPUs"):
        runs.DCGAN(dataclasses.replace(tiny_config, sync_bn=True))
    plain = Generator(8, 4, 16)
    before = {name: tensor.numpy() for name, tensor in plain.state_dict().items()}
    converted = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    after = {name: tensor.numpy() for name, tensor in converted.state_dict().items()}
    assert list(before) == list(after) and all(np.array_equal(before[name], after[name]) for name in before)
    kinds = [type(layer).__name__ for layer in converted.sublayers()]
    assert kinds.count("SyncBatchNorm") == 2 and "BatchNorm2D" not in kinds
    assert {layer._momentum for layer in converted.sublayers() if hasattr(layer, "_momentum")} == {0.8}
