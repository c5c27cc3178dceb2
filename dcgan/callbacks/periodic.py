"""What is written every so many iterations, and once more at the end."""

from __future__ import annotations

from paddle.callbacks import Callback


class PeriodicSaver(Callback):
    """Calls `save` every `every` iterations and at the end of training."""

    def __init__(self, every: int):
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1 iteration, received {every}")
        self._every = every

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step % self._every == 0:
            self.save()

    def on_train_end(self, logs: dict | None = None) -> None:
        self.save()

    def save(self) -> None:
        """Write what this callback is for, as it is now."""
        raise NotImplementedError
