"""Sizes of a model whose training step takes milliseconds: fields of TrainConfig."""

TINY = {"image_size": 16, "base_channels": 4, "latent_dim": 8, "device": "cpu"}
