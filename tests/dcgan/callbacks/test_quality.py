import dataclasses

from dcgan import train as runs
from dcgan.callbacks.metrics_log import read_records


def test_records_hold_the_figures_of_the_meter_and_how_they_were_measured(config):
    record = read_records(runs.train(dataclasses.replace(config, steps=3)).folder / "metrics.jsonl")[-1]
    assert record["swd"] > 0 and 0 <= record["ms_ssim"] <= 1 and 0 <= record["ms_ssim_real"] <= 1
    assert record["protocol"].split("/")[:4] == ["1", "24", "16", "as packed"]
