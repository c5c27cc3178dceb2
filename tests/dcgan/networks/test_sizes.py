"""What a generator's tensors say of its size, and what they cannot make anyone build."""

import numpy as np
import pytest

from dcgan.networks.sizes import network_sizes


def tensors(latent_dim=8, base_channels=4, image_size=16):
    widths = {16: [2, 1], 32: [4, 2, 1]}[image_size]
    channels = [latent_dim, *(base_channels * width for width in widths), 3]
    shapes = zip(channels, channels[1:])
    return {f"conv_{i}.weight": np.zeros((a, b, 4, 4), np.float32) for i, (a, b) in enumerate(shapes, 1)}


def test_sizes_are_those_of_the_tensors():
    assert network_sizes(tensors()) == (8, 4, 16)
    assert network_sizes(tensors(5, 2, 32)) == (5, 2, 32)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv_1.weight", (65536, 8, 0, 4)),  # a zero: no bytes, and a network of gigabytes
        ("conv_1.weight", (65536, 1, 1, 1)),
        ("conv_3.weight", (1024, 3, 4, 4)),  # as wide as no tensor before it
        ("conv_2.weight", (8, 4)),
        ("conv_2.weight", ()),
    ],
)
def test_tensors_that_do_not_follow_each_other_are_no_generator(name, shape):
    assert network_sizes({**tensors(), name: np.zeros(shape, np.float32)}) is None


def test_other_names_and_depths_are_no_generator():
    for found in ({}, {"conv_1.weight": np.zeros((8, 8, 4, 4))}, {f"conv_{i}.weight": 0 for i in range(1, 300)}):
        assert network_sizes(found) is None
