from dcgan.networks.discriminator import Discriminator
from dcgan.networks.modes import evaluating, frozen


def test_a_frozen_network_gets_no_gradient_and_keeps_its_running_statistics_untrainable():
    network = Discriminator(4, 16)
    trainable = [p.name for p in network.parameters() if not p.stop_gradient]
    with frozen(network):
        assert all(p.stop_gradient for p in network.parameters())
    assert [p.name for p in network.parameters() if not p.stop_gradient] == trainable


def test_the_mode_of_a_network_is_put_back_after_evaluating():
    network = Discriminator(4, 16)
    for before in (network.train, network.eval):
        before()
        training = network.training
        with evaluating(network):
            assert not network.training
        assert network.training == training
