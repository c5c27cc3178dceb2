"""Whether the run is healthy: numbers that are not finite, collapse, a discriminator that wins."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence

from ..distributed.process_group import SINGLE_PROCESS, ProcessGroup
from ..errors import CollapseError, TrainingError
from ..runs.records import Record

log = logging.getLogger(__name__)


class Watchdog:
    """A sink: says whether the run is healthy, from numbers that are read anyway.

    As the first sink it adds `state` (OK, WARN, COLLAPSED or NOT FINITE) and `reason` to the record; its `act`, as the
    last sink, then ends the training if it must, when the record has been written and shown. It remembers nothing
    beyond the records of the run, so a resumed run judges as the uninterrupted one.
    """

    COLLAPSED_STD, WARN_STD = 0.1, 0.3  # sample_std of the grid over that of the training images
    WARM_UP_STEPS = 200  # an untrained generator gives the same grey image for every seed
    WINNING_RECORDS = 20  # so many records in a row with D all but certain

    def __init__(
        self,
        real_sample_std: float,
        records: Sequence[Record],
        on_collapse: str = "warn",
        process_group: ProcessGroup = SINGLE_PROCESS,
    ):
        self._real_sample_std, self._records, self._on_collapse = real_sample_std, records, on_collapse
        self._process_group = process_group

    def __call__(self, record: Record) -> None:
        # rank 0 decides: all stop, or none
        record["state"], record["reason"] = self._process_group.broadcast(self._verdict(record))
        before = self._records[-1].get("state", "OK") if self._records else "OK"
        if record["state"] != before:
            reason = f": {record['reason']}" if record["reason"] else ""
            line_break = "\n" if sys.stderr.isatty() else ""  # do not write over the progress line
            log.warning("%sstep %d is %s%s", line_break, record["step"], record["state"], reason)

    def act(self, record: Record) -> None:
        """Raise TrainingError if a number is not finite, CollapseError if the run collapsed and is not to go on."""
        said = f"training stopped at step {record['step']}: {record['reason']}."
        if record["state"] == "NOT FINITE":
            raise TrainingError(said)
        if record["state"] == "COLLAPSED" and self._on_collapse != "warn":
            raise CollapseError(said)

    def _verdict(self, record: Record) -> tuple[str, str]:
        wrong = [k for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)]
        if wrong:
            return "NOT FINITE", f"{', '.join(wrong)} is not a finite number"
        recent = [*self._records[1 - self.WINNING_RECORDS :], record]
        for name in ("gradient_norm_d", "gradient_norm_g"):  # None: a loss scaler skipped the step
            if len(recent) == self.WINNING_RECORDS and all(r.get(name, 0.0) is None for r in recent):
                return "NOT FINITE", f"{name} was not finite in {self.WINNING_RECORDS} records in a row"
        sample_std = record.get("sample_std")  # None: not measured yet
        share = 1.0 if sample_std is None or not self._real_sample_std else sample_std / self._real_sample_std
        if record["step"] >= self.WARM_UP_STEPS and share < self.WARN_STD:
            state = "COLLAPSED" if share < self.COLLAPSED_STD else "WARN"
            return state, f"100 seeds differ only {share:.0%} as much as the training images do"
        if len(recent) == self.WINNING_RECORDS and all(
            (r["score_real"] or 0) > 0.99 and (r["score_fake"] or 0) < 0.01 for r in recent
        ):
            return "WARN", "the discriminator tells every image: the generator hardly learns"
        return "OK", ""
