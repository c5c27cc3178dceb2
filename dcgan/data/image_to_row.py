"""How an image file becomes a row of a packed file: decoded (decode.py), resized and cropped (crop.py), channels first.

`image_to_row` does it for one image, `rows` for a whole source, by threads, and by processes where those help.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ..errors import DataError
from .crop import fit_image
from .decode import DEFAULT_LIMITS, Limits
from .sources import Source


def image_to_row(source: Source, i: int, size: int, crop: str, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Image i of `source`, uint8 [3, size, size]; `crop` as in `fit_image`. Raises DataError or OSError."""
    return fit_image(source.image(i), size, crop, limits.max_pixels).transpose(2, 0, 1)


# Images a task. Each step by itself is short, and threads that hand one another the interpreter's lock for every
# image are slower together than one of them alone.
_CHUNK = 32


def rows(source: Source, size: int, crop: str, limits: Limits, workers: int) -> Iterator[list[bytes | str]]:
    """All images of `source` in order, in lists of some: the bytes of a row, or why there is none.

    Computed by `workers` threads, a bounded number of images ahead of the consumer. Close it to stop early.
    """
    waiting: deque[Future] = deque()

    def row(i: int) -> bytes | str:
        try:
            return image_to_row(source, i, size, crop, limits).tobytes()
        except DataError as error:
            return str(error)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    def chunk(start: int) -> list[bytes | str]:
        stop = min(start + _CHUNK, len(source))
        return processes.rows(start, stop) or [row(i) for i in range(start, stop)]

    processes, pool = source.drawing_processes(workers - 1, size, crop), ThreadPoolExecutor(workers, "prepare")
    with processes, pool:
        try:
            for start in range(0, len(source), _CHUNK):
                waiting.append(pool.submit(chunk, start))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
