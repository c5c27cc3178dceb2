"""The directions of latent space along which a generator's images change most, for the playground's sliders."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from .onnx_graph import read_arrays

DIRECTIONS = 8


def principal_directions(model: onnx.ModelProto, count: int = DIRECTIONS) -> dict[str, Any]:
    """The unit latents along which the first layer's output changes most, with their shares of its variance.

    The first layer is linear, A z + b, so these are the right singular vectors of A: the closed form of Shen & Zhou
    2021, "Closed-Form Factorization of Latent Semantics in GANs" (SeFa), sec. 3.2, and what the PCA of activations of
    Haerkoenen et al. 2020 (GANSpace) tends to for a normal z. Each sign is such that the largest number is positive.
    """
    arrays = read_arrays(model)
    weight = arrays["conv_1.weight"].astype(np.float64)  # [latent_dim, channels, 4, 4], BatchNorm folded in
    vectors, values, _ = np.linalg.svd(weight.reshape(len(weight), -1), full_matrices=False)
    vectors = vectors[:, :count].T
    signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)])
    share = values**2 / max(float((values**2).sum()), np.finfo(float).tiny)
    return {
        "method": "right singular vectors of the first layer (SeFa, Shen & Zhou 2021)",
        "share": [round(float(value), 6) for value in share[:count]],
        "directions": [[round(float(x), 8) for x in row] for row in vectors * signs[:, None]],
    }
