"""Operations and bytes of a layer and of a training step, against the networks themselves."""

import pytest

from tools.benchmarks import work


def seen_by(network, inputs):
    """Shapes of what goes into and comes out of each convolution, in order."""
    import paddle

    shapes = []
    for part in network.sublayers():
        if isinstance(part, (paddle.nn.Conv2D, paddle.nn.Conv2DTranspose)):
            part.register_forward_post_hook(lambda _, given, result: shapes.append((given[0].shape, result.shape)))
    network.eval()
    network(paddle.zeros(inputs))
    return shapes


@pytest.mark.parametrize("size", [16, 64, 128])
def test_layers_are_those_of_the_networks(size):
    from dcgan.networks.discriminator import Discriminator
    from dcgan.networks.generator import Generator

    for network, inputs, layers in (
        (Generator(7, 8, size), [1, 7], work.generator(7, 8, size)),
        (Discriminator(8, size), [1, 3, size, size], work.discriminator(8, size)),
    ):
        weights = [int(p.size) for name, p in network.named_parameters() if name.startswith("conv_")]
        assert [layer.weights for layer in layers] == weights
        assert seen_by(network, inputs) == [
            ([1, a.channels_in, a.side_in, a.side_in], [1, a.channels_out, a.side_out, a.side_out]) for a in layers
        ]


def test_operations_of_a_layer_are_counted_as_the_definition_says():
    """Two for each product of an input pixel's channel with a tap that lands in the image or beside it."""
    layer = work.Layer(2, 3, 5, 6)  # transposed: each of 3 x 3 input pixels meets all of its 2 x 5 x 16 weights
    assert layer.flop == 2 * 9 * 2 * 5 * 16
    assert work.Layer(5, 6, 2, 3).flop == layer.flop  # its mirror, an ordinary convolution


def test_a_training_step_has_the_passes_that_are_needed_and_no_others():
    g, d = ([layer.flop for layer in layers] for layers in (work.generator(7, 4, 16), work.discriminator(4, 16)))
    once = 3 * sum(g) - g[0] + 2 * sum(d)  # G: all but the gradient of latents; D judging: no gradients of weights
    twice = 3 * sum(d) - d[0]  # D learning, from real and from fake: all but the gradient of images
    assert work.training_step(7, 4, 16, 3).flop == 3 * (once + 2 * twice)
    full, half = (work.training_step(7, 4, 16, 3, n).bytes for n in (4, 2))
    assert full / 2 < half < full  # the optimizer keeps float32
