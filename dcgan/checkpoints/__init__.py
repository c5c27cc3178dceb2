"""Weights on the disk: checkpoints that are whole or absent, and the tutorial's `generator.params`."""
