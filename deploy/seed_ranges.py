"""Many seeds without a list of them: `0,7,100-199` as ranges, so that a million or a billion cost nothing."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

MAX_SEED = 2**32 - 1
_PART = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?", re.ASCII)


class Seeds:
    """Seeds in the order given, each once. Raises ValueError for a seed beyond 4294967295 and for one named twice."""

    def __init__(self, *parts: range):
        ordered = sorted((part for part in parts if len(part)), key=lambda part: part.start)
        if not ordered:
            raise ValueError("no seed was named")
        lowest, highest = ordered[0].start, max(part[-1] for part in ordered)
        if lowest < 0 or highest > MAX_SEED:
            beyond = lowest if lowest < 0 else highest
            raise ValueError(f"a seed must be a whole number of 0 .. {MAX_SEED}, and {beyond} would be one")
        for left, right in zip(ordered, ordered[1:]):
            if right.start <= left[-1]:
                raise ValueError(f"seed {right.start} is named twice")
        self.parts = parts
        self._ordered, self._starts = ordered, [part.start for part in ordered]

    @classmethod
    def parse(cls, text: str) -> Seeds:
        """Seeds from `0,7,100-199`: numbers and ranges, both ends included. Raises ValueError naming a wrong part."""
        return cls(*(cls._range(part.strip()) for part in text.split(",")))

    @staticmethod
    def _range(part: str) -> range:
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is neither a seed (7) nor a range of seeds (100-199)")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part!r} ends before it begins")
        return range(first, last + 1)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __contains__(self, seed: int) -> bool:
        position = bisect_right(self._starts, seed)
        return position > 0 and seed in self._ordered[position - 1]

    def __iter__(self) -> Iterator[int]:
        for part in self.parts:
            yield from part
