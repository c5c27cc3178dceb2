"""The socket that a server listens on, also when its process has no handle left for another connection."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import time

log = logging.getLogger(__name__)

SECONDS_BETWEEN_WARNINGS = 60


class Listener(socket.socket):
    """A listening socket that closes at once what it has no handle for.

    asyncio would log the failure of accept() as often as connections may wait (2,048 times), schedule as many new
    attempts, and so on each second: megabytes of log and a whole core for a handful of idle clients.
    """

    _warned_at = float("-inf")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection. BlockingIOError, which means "later" to an event loop, where there was no handle."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._close_next()
            raise BlockingIOError(errno.EAGAIN, "no handle for a connection") from error

    def _close_next(self) -> None:
        """Take the next connection with the spare handle and close it: it must not wait in vain, nor wake us again."""
        if time.monotonic() - self._warned_at > SECONDS_BETWEEN_WARNINGS:
            self._warned_at = time.monotonic()
            log.warning("new connections are closed: the process has no handle left for them. Raise ulimit -n.")
        self._release()
        with contextlib.suppress(OSError):
            super().accept()[0].close()
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY)

    def _release(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def close(self) -> None:
        """See socket.socket.close."""
        self._release()
        super().close()


def bind(host: str, port: int) -> Listener:
    """A socket at this address, which listens once the server runs. OSError names the address."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = Listener(family, kind, number)
        try:
            if sys.platform != "win32":  # there it means that two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}. Name another --host or --port.") from error
    return listener
