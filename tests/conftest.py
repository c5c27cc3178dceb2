"""Quiet Paddle, all cores, and small models for every test."""

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # CUDA_VISIBLE_DEVICES=0 pytest -m gpu runs the tests marked gpu

from dcgan.quiet import import_paddle, thread_count

import_paddle()

import numpy as np
import paddle
import pytest

from deploy.latents import bits

paddle.base.core.set_num_threads(thread_count())


@pytest.fixture
def pictures():
    """24 different pictures, uint8 [24, 3, 16, 16]."""
    return (bits(np.arange(24 * 3), 256).reshape(24, 3, 16, 16) & 255).astype(np.uint8)


@pytest.fixture
def tiny_config():
    """Settings of a model that takes milliseconds a step."""
    from dcgan import TrainConfig

    return TrainConfig(image_size=16, base_channels=4, latent_dim=8, batch_size=8, device="cpu", ema=0.9)


@pytest.fixture
def work_folder(tmp_path, monkeypatch):
    """An empty current folder, so that what a command writes stays in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
