"""What the discriminator sees instead of the bare pictures, real and generated alike.

An augmentation maps images [N, C, H, W] and the iteration to images of the same shape, differentiably. It draws from
Paddle's random generator, which the engine seeds anew in each iteration, so that nothing has to be saved.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle


@dataclass(frozen=True)
class InstanceNoise:
    """Gaussian noise on every picture, fading linearly to none (Arjovsky & Bottou 2017, sec. 3; Sønderby et al. 2017).

    Young fakes and real pictures have no pixel in common: the discriminator tells them apart by any detail and the
    generator learns nothing of the rest. Under noise the two overlap. Drawn faces, with their flat colours, need it.
    Args: deviation - at the start, in units of [-1, 1].  steps - iterations until it is gone.
    """

    deviation: float
    steps: int

    def __call__(self, images: paddle.Tensor, step: int) -> paddle.Tensor:
        deviation = self.deviation * max(0.0, 1.0 - step / self.steps)
        if deviation == 0.0:
            return images
        return images + deviation * paddle.randn(images.shape, images.dtype)
