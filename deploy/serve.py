"""Faces from an exported generator, over HTTP: `python deploy/serve.py`, then http://127.0.0.1:8000.

The page at / is a playground; images are at /faces/7.png.
"""

from __future__ import annotations

import os
import sys

if __package__ in (None, ""):
    folder = os.path.dirname(os.path.realpath(__file__))
    if os.path.basename(folder) != "deploy":
        sys.exit(f"error: {folder} must be called deploy: its files import each other by that name. Rename it.")
    sys.path[0] = os.path.dirname(folder)  # not this folder: its names are no top-level modules

from deploy import interrupts

if __name__ == "__main__":
    interrupts.exit_at_once()  # on Ctrl-C, while all that follows is imported
    interrupts.ignore_hangups()

import argparse
import contextlib
import logging
from collections.abc import Sequence

from deploy.infer import BACKENDS, MODEL_HELP, choose_model, is_expected, named_path, sentence, whole_number
from deploy.streams import log_to_stderr, open_standard_streams, printable

EXAMPLES = """examples:
  python deploy/serve.py
  curl -O http://127.0.0.1:8000/faces/7.png
  curl -d '{"seeds": "0-9"}' -o faces.zip http://127.0.0.1:8000/v1/faces

SIGTERM: no new connections, accepted requests are answered, exit 0. SIGHUP: the export in --model is loaded and
verified beside the one in use and takes its place, or is refused in one line. Endpoints: http://127.0.0.1:8000/docs
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 stopped by SIGTERM, 1 failed, 2 wrong usage, 130 interrupted."""
    open_standard_streams()
    arguments = parse(argv)
    log_to_stderr(arguments.log_level.upper(), "%(levelname)s: %(message)s")
    logging.raiseExceptions = False  # a log on a full disk must not stop the server, nor fill it with tracebacks
    if arguments.log_level != "debug":
        for name in ("uvicorn", "asyncio"):  # a warning for every malformed request would be the client's to write
            logging.getLogger(name).setLevel(logging.ERROR)

    def explain(error: Exception) -> None:
        if arguments.log_level == "debug":
            logging.error("traceback", exc_info=error)
        _print(printable(f"error: {sentence(error, 'requirements-serve.txt')}"), sys.stderr)

    try:
        interrupts.raise_outside_imports()
        from deploy.serving import listener, server

        options = server.Options(
            model=choose_model(arguments.model),
            backend=arguments.backend,
            threads=arguments.threads,
            max_batch=arguments.max_batch,
            max_wait=arguments.max_wait_ms / 1000,
            max_queue=arguments.max_queue,
            max_images=arguments.max_images,
            max_connections=_connections(arguments.max_connections),
        )
        with listener.bind(arguments.host, arguments.port) as bound:
            return server.serve(options, bound, lambda line: _print(line, sys.stdout), explain)
    except Exception as error:
        if not is_expected(error):
            raise
        explain(error)
        return 1
    except KeyboardInterrupt:  # before the server had its own way to stop
        return interrupts.INTERRUPTED


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_argument_group("what and where")
    where.add_argument("--model", type=named_path, help=MODEL_HELP)
    where.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0: reachable from other machines (default: 127.0.0.1)"
    )
    where.add_argument("--port", type=whole_number(0, 65535), default=8000, help="0: any free port (default: 8000)")
    how = parser.add_argument_group("how")
    how.add_argument("--backend", choices=BACKENDS, default="auto", help="(default: auto: onnxruntime, else paddle)")
    how.add_argument("--threads", type=whole_number(0, 1024), default=0, help="0: one per core (default: 0)")
    how.add_argument("--max-batch", type=whole_number(1, 4096), default=32, help="images per batch (default: 32)")
    how.add_argument(
        "--max-wait-ms",
        type=whole_number(0, 1000),
        default=2,
        help="milliseconds to wait for as many images as the last batch had; one client never waits (default: 2)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-queue",
        type=whole_number(1, 10**6),
        default=128,
        help="images accepted and not yet answered; beyond, requests get 429 at once (default: 128)",
    )
    limits.add_argument(
        "--max-images", type=whole_number(1, 10**6), default=100, help="images per request (default: 100)"
    )
    limits.add_argument(
        "--max-connections", type=whole_number(1, 10**5), default=1000, help="open connections (default: 1000)"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(default: info)"
    )
    arguments = parser.parse_args(argv)
    if arguments.max_images > arguments.max_queue:
        parser.error(
            f"--max-queue must be at least --max-images, received {arguments.max_queue} and {arguments.max_images}"
        )
    return arguments


def _connections(wanted: int) -> int:
    """How many connections the handles of this process suffice for."""
    try:
        import resource
    except ImportError:  # Windows counts otherwise
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + 256  # connections that are being refused, and the server's own files
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(16, min(wanted, soft - 256))
    return wanted


def _print(line: str, stream) -> None:
    with contextlib.suppress(OSError):  # a full disk behind it: the server serves on
        print(line, file=stream, flush=True)


def cli() -> int:
    """The installed command."""
    interrupts.exit_at_once()
    interrupts.ignore_hangups()
    return main()


if __name__ == "__main__":
    raise SystemExit(cli())
