"""What an error says of the limits of its process: threads and memory, as ulimit or a container set them.

Libraries report them as errors that look like bugs, each with words of its own. Standard library only.
"""

from __future__ import annotations

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
