"""Answers of routes: a whole one, which streams extend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from histrio_api.http.request import Receive

__all__ = ["JSON", "Response", "Send"]

Send = Callable[[Any], Awaitable[None]]
"""Takes the answer's next ASGI message."""
JSON = "application/json"

_NO_BODY = (204, 304)
_NO_HEADERS: Mapping[str, str] = {}


class Response:
    """An answer whose body is there."""

    __slots__ = ("body", "headers", "media_type", "status")

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        headers: Mapping[str, str] = _NO_HEADERS,
        media_type: str = JSON,
    ) -> None:
        """Names of headers are in lower case; a `content-type` among them wins over `media_type`."""
        self.body = body
        self.status = status
        self.headers = headers
        self.media_type = media_type

    async def send(self, receive: Receive, send: Send) -> None:
        """Head and body."""
        headers = self.encoded_headers()
        if self.status not in _NO_BODY:
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})

    def encoded_headers(self) -> list[tuple[bytes, bytes]]:
        """All but what the body's length makes necessary."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        if "content-type" not in self.headers and self.status not in _NO_BODY:
            charset = "; charset=utf-8" if self.media_type.startswith("text/") else ""
            headers.append((b"content-type", (self.media_type + charset).encode("latin-1")))
        return headers
