"""How good the images are while the run trains: distance to the training images, and variety."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from paddle.callbacks import Callback

from ..data.packed import PackedData
from ..images import to_uint8
from ..metrics.evaluate import crop_of, protocol, protocol_label
from ..metrics.ms_ssim import mean_ms_ssim
from ..metrics.sliced_wasserstein import sliced_wasserstein


class QualityCallback(Callback):
    """Every `every` iterations: how good 500 images of fixed seeds are, against the first 500 training images.

    `figures` are the latest, None before the first: swd (see dcgan.metrics.sliced_wasserstein; smaller is better)
    and ms_ssim, of generated and of real images (see dcgan.metrics.ms_ssim). `protocol` says in one word how they were
    measured, `measured_step` after which iteration. `state` is what a resumed run remembers: its figures count if they
    are of this protocol.
    Costs a second or two of a CPU each time. Several processes generate the images together; process 0 measures.
    """

    COUNT = 500
    FIGURES = ("swd", "ms_ssim", "ms_ssim_real")

    def __init__(self, every: int, data: PackedData, state: Mapping[str, Any] | None = None):
        super().__init__()
        self._every = every
        self._real = np.asarray(data.images[: self.COUNT])
        used = protocol(len(self._real), self._real.shape[-1], crop_of(data), data.digest, "the first")
        self.protocol = protocol_label(used)
        known = state if state and state.get("protocol") == self.protocol else {}
        self.figures: dict[str, float | None] = {name: known.get(name) for name in self.FIGURES}
        self.measured_step: int | None = known.get("measured_step")

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self._every and self.model.global_step % self._every == 0:
            fake = to_uint8(self.model.generate_sharded(range(len(self._real))))
            if not self.model.process_group.is_rank_zero:
                return
            self.measured_step = self.model.global_step
            self.figures["swd"] = sliced_wasserstein(self._real, fake)["mean"]
            if len(fake) > 1:
                self.figures["ms_ssim"] = mean_ms_ssim(fake)
                self.figures["ms_ssim_real"] = self.figures["ms_ssim_real"] or mean_ms_ssim(self._real)
