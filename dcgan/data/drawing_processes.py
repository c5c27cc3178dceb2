"""Synthetic faces drawn by processes beside this one: most of a face is Python's work, which threads cannot share.

The processes run this file. They import no Paddle, nothing of the caller's program (so a script needs no `__main__`
guard, as for multiprocessing), and end when the pipe from their parent does, however the parent ended.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

MOST = 7
FACES_EACH = 500  # at least: a process takes as long to start as to draw these
_READY = b"."


class DrawingProcesses:
    """Up to MOST processes that draw faces and fit them to S x S pixels, in a `with` that ends them.

    Args: count - of processes; 0 and less: none.  seed - of the series.  size, crop - see `fit_image`.
    A process that cannot be started, is not ready yet or has died is one fewer: nothing waits for it, nothing fails.
    """

    def __init__(self, count: int, seed: int, size: int, crop: str) -> None:
        self._row_bytes, self._free = 3 * size * size, queue.SimpleQueue[subprocess.Popen]()
        command = [sys.executable, "-B", str(Path(__file__).absolute()), str(seed), str(size), crop]
        is_python = "python" in Path(sys.executable or "").name.lower()  # not a program that has Python built in
        self._processes = [self._start(command) for _ in range(min(count, MOST) if is_python else 0)]

    def _start(self, command: list[str]) -> subprocess.Popen | None:
        # In a session of its own: Ctrl-C is its parent's, whose end is then its own.
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, **group)
        except OSError:
            return None
        threading.Thread(target=self._welcome, args=[process], daemon=True).start()
        return process

    def _welcome(self, process: subprocess.Popen) -> None:
        with contextlib.suppress(ValueError):  # closed meanwhile
            if process.stdout.read(1) == _READY:
                self._free.put(process)

    def rows(self, start: int, stop: int) -> list[bytes] | None:
        """Faces start .. stop - 1 as bytes of uint8 [3, S, S], or None if no process is free. For any thread."""
        with contextlib.suppress(queue.Empty, OSError):
            process = self._free.get_nowait()
            process.stdin.write(b"%d %d\n" % (start, stop))
            process.stdin.flush()
            size = self._row_bytes
            data = process.stdout.read(size * (stop - start))
            if len(data) == size * (stop - start):
                self._free.put(process)
                return [data[i : i + size] for i in range(0, len(data), size)]
        return None

    def __enter__(self) -> DrawingProcesses:
        return self

    def __exit__(self, *exception) -> None:
        for process in filter(None, self._processes):
            process.kill()
            process.wait()  # now its pipe has an end, and `_welcome` too
            process.stdout.close()
            with contextlib.suppress(OSError):  # what it had not read
                process.stdin.close()


def main(seed: int, size: int, crop: str) -> None:
    """Answer lines `START STOP` on stdin with those rows on stdout."""
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # instead of this file's folder
    import cv2

    from dcgan.data.crop import fit_image
    from dcgan.data.synthetic_faces import draw_face

    cv2.setNumThreads(1)
    out = sys.stdout.buffer
    out.write(_READY)
    out.flush()
    for line in sys.stdin.buffer:
        start, stop = map(int, line.split())
        images = (fit_image(draw_face(i, seed), size, crop) for i in range(start, stop))
        out.write(b"".join(image.transpose(2, 0, 1).tobytes() for image in images))
        out.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
