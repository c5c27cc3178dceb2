"""Errors as the client gets them: JSON problem details (RFC 9457) that say what was expected and received."""

from __future__ import annotations

import http
import json
from typing import Any

MEDIA_TYPE = b"application/problem+json"


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An answer that is an error: `status`, one sentence of `detail`, further headers."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}

    def body(self) -> bytes:
        """The JSON text."""
        title = http.HTTPStatus(self.status).phrase
        return json.dumps(
            {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}
        ).encode()

    def raw(self) -> bytes:
        """A whole HTTP/1.1 answer after which the connection closes, for where no application was reached."""
        body = self.body()
        head = f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}\r\n"
        head += f"content-type: {MEDIA_TYPE.decode()}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return head.encode("ascii") + b"\r\n" + body


class ClientGone(Exception):  # noqa: N818 - no error: nobody is there to be answered
    """The client closed the connection before it had its answer."""


def received(value: Any, longest: int = 60) -> str:
    """A value from outside, short and in printable ASCII, for a sentence."""
    text = ascii(value[:longest]) if isinstance(value, (str, bytes)) else ascii(value)
    if len(text) > longest or (isinstance(value, (str, bytes)) and len(value) > longest):
        text = text[: longest - 3] + "..."
    return text
