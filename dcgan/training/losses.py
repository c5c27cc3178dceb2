"""What the two networks minimise, by name. Logits in, one float32 number out.

Each objective is a pair: the discriminator's loss of (real logits, fake logits) and the generator's loss of fake
logits. They work on logits because log(sigmoid(x)) of a probability overflows in float16 and loses digits in float32.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

from paddle import Tensor
from paddle.nn import functional as F  # noqa: N812 - the field's usual name


class Objective(NamedTuple):
    """discriminator(real_logits, fake_logits) and generator(fake_logits): scalars to minimise."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def _bce_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real).mean() + F.softplus(fake).mean()  # -log D(x) - log(1 - D(G(z)))


def _non_saturating_generator(fake: Tensor) -> Tensor:
    return F.softplus(-fake).mean()  # -log D(G(z)), Goodfellow et al. 2014, sec. 3


def _hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()


def _hinge_generator(fake: Tensor) -> Tensor:
    return -fake.mean()


def _least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (((real - 1.0) ** 2).mean() + (fake**2).mean())


def _least_squares_generator(fake: Tensor) -> Tensor:
    return 0.5 * ((fake - 1.0) ** 2).mean()


OBJECTIVES: dict[str, Objective] = {
    # binary cross-entropy, the generator in its non-saturating form (Goodfellow et al. 2014)
    "bce": Objective(_bce_discriminator, _non_saturating_generator),
    # Lim & Ye 2017, eq. 7-8; Miyato et al. 2018
    "hinge": Objective(_hinge_discriminator, _hinge_generator),
    # Mao et al. 2017, eq. 9: a = 0, b = c = 1
    "lsgan": Objective(_least_squares_discriminator, _least_squares_generator),
}
