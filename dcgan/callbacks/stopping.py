"""What ends a run: the last iteration, or a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

from paddle.callbacks import Callback

from ..distributed.process_group import SINGLE_PROCESS, ProcessGroup

# Not printed: a signal may come in the middle of another print to standard error, which then raises RuntimeError.
_FINISHING = b"\nFinishing this iteration, then saving. Press Ctrl-C again to quit without saving.\n"


class StopAt(Callback):
    """Ends training after iteration number `step`, counted over all sessions of the run."""

    def __init__(self, step: int):
        super().__init__()
        self._step = step

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if self.model.global_step >= self._step:
            self.model.stop_training = True


class SignalStop(Callback):
    """SIGINT, SIGTERM and SIGHUP end training after the running iteration; a second one ends the process at once.

    SIGHUP says that the terminal was closed. It may come twice (from the shell and from the kernel), so a second one
    changes nothing; under `nohup` it is ignored and stays so.
    The handlers stay until `restore`, which is to be called when everything is saved. Several processes stop after the
    same iteration, the first after any of them has heard a signal. Training in another thread than the main one hears
    none.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none

    def __init__(self, process_group: ProcessGroup = SINGLE_PROCESS) -> None:
        super().__init__()
        self._process_group = process_group
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self._previous:  # once for a run that collapses and begins again
            return
        if threading.current_thread() is not threading.main_thread():  # only that one can listen to signals
            return
        is_heard = self.HANGUP and signal.getsignal(self.HANGUP) != signal.SIG_IGN
        heard = (*self.SIGNALS, self.HANGUP) if is_heard else self.SIGNALS
        self._previous = {number: signal.signal(number, self._stop) for number in heard}

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        self.agree()
        self.model.stop_training |= self.received is not None

    def agree(self) -> None:
        """All processes learn of a signal that one of them has received."""
        if self._process_group.size > 1:
            self.received = self._process_group.all_reduce_max(self.received or 0) or None

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
        if self.HANGUP:
            signal.signal(self.HANGUP, lambda *_: None)  # not SIG_IGN: one that has arrived already would be an error
        with contextlib.suppress(OSError):
            os.write(2, _FINISHING)
