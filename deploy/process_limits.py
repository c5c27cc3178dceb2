"""The limits of this process, as ulimit or a container set them: threads, memory, stack. Standard library only.

Libraries report those that they reach as errors that look like bugs, each with words of its own.
"""

from __future__ import annotations

import contextlib

_NO_THREAD = ("can't start new thread", "posixthread::")  # Python's, onnxruntime's
_NO_MEMORY = (
    "failed to map segment",  # the loader's
    "cannot allocate memory",  # the C library's
    "bad_alloc",  # C++'s
    "insufficient memory",  # OpenCV's
)


def reached(error: BaseException) -> str | None:
    """One line that names the limit and how to raise it, or None if `error` is about something else."""
    if isinstance(error, MemoryError):
        return f"the memory is full: {error}".rstrip(": ")
    lines = str(error).splitlines()
    if any(words in line.lower() for line in lines for words in _NO_THREAD):
        return "no more threads can be started. Raise the limit: `ulimit -u`, or the pids of the container."
    found = next((line.strip() for line in lines if any(words in line.lower() for words in _NO_MEMORY)), None)
    return None if found is None else f"there is not enough memory, or `ulimit -v` is too low: {found}"


SMALLEST_STACK = 4 << 20  # bytes; with 2 MiB, an export ends in a segmentation fault of Paddle's (3.2.2)


def check_stack() -> None:
    """Raise the stack's limit, where it is too low for Paddle. Raises OSError where that is not allowed."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft == resource.RLIM_INFINITY or soft >= SMALLEST_STACK:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_STACK, (SMALLEST_STACK, hard))
    if resource.getrlimit(resource.RLIMIT_STACK)[0] < SMALLEST_STACK:
        raise OSError(
            f"the stack may have {soft >> 10:,} KiB, and Paddle needs {SMALLEST_STACK >> 10:,}: raise `ulimit -s`"
        )
