"""Generator and discriminator, their layers, BatchNorm statistics, and the kernels that compute them."""
