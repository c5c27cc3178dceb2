"""What ends a run: the last iteration, or a signal."""

from __future__ import annotations

import signal
import sys
from typing import Any

from paddle.callbacks import Callback

from ..distributed.process_group import SINGLE_PROCESS, ProcessGroup


class StopAt(Callback):
    """Ends training after iteration number `step`, counted over all sessions of the run."""

    def __init__(self, step: int):
        super().__init__()
        self._step = step

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step >= self._step:
            self.model.stop_training = True


class SignalStop(Callback):
    """SIGINT and SIGTERM end training after the running iteration; a second one ends the process at once.

    The handlers stay until `restore`, which is to be called when everything is saved. Several processes stop after the
    same iteration, the first after any of them has heard a signal.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, process_group: ProcessGroup = SINGLE_PROCESS) -> None:
        super().__init__()
        self._process_group = process_group
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._previous = {number: signal.signal(number, self._stop) for number in self.SIGNALS}

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self._process_group.size > 1:
            self.received = self._process_group.all_reduce_max(self.received or 0) or None
            self.model.stop_training |= self.received is not None

    def restore(self) -> None:
        """Put back the handlers that were there before.

        Not where a launcher has stopped several processes: it repeats its signal, which would end one that is done
        while rank 0 still saves and counts on it.
        """
        stopped_by_launcher = self.received is not None and self._process_group.size > 1
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if stopped_by_launcher else handler)
        self._previous = {}

    def _stop(self, number: int, frame: Any) -> None:
        self.received = number
        if self._process_group.size > 1:  # the launcher says it three times within a second, and kills after 30 s
            return
        self.model.stop_training = True
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        print("\nFinishing this iteration, then saving. Press Ctrl-C again to quit without saving.", file=sys.stderr)
