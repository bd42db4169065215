"""Pages of other origins may read answers, as far as the settings name their origins (CORS).

The gate before it has refused what such pages may not send; here browsers are told what they may show to the page.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from histrio_api.http.exchange import Application
from histrio_api.http.response import Response

__all__ = ["Cors"]

_MAX_AGE_S = 600
"""How long a browser may go by an answer."""
_METHODS = "DELETE, GET, HEAD, OPTIONS, POST"
_ALWAYS_ALLOWED = ("Accept", "Accept-Language", "Content-Language", "Content-Type")


class Cors:
    """Answers browsers that ask beforehand, and adds to other answers which origin may read them."""

    def __init__(self, application: Application, origins: Collection[str]) -> None:
        """`*` stands for all origins."""
        self._application = application
        self._origins = frozenset(origins)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or let the application answer."""
        headers = dict(reversed(scope["headers"]))
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin:
            await self._application(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await self._preflight(origin, headers).send(receive, send)
        else:
            await self._application(scope, receive, self._with_headers(send, origin, b"cookie" in headers))

    def _preflight(self, origin: str, headers: dict[bytes, bytes]) -> Response:
        if not self._may_read(origin):
            return Response(b"Disallowed CORS Origin", status=400, media_type="text/plain")

        asked = headers.get(b"access-control-request-headers", b"").decode("latin-1").split(",")
        allowed = sorted({*_ALWAYS_ALLOWED, *(name.strip() for name in asked if name.strip())})
        return Response(
            status=204,
            headers={
                **self._allowing(origin, has_cookie=False),
                "access-control-max-age": str(_MAX_AGE_S),
                "access-control-allow-methods": _METHODS,
                "access-control-allow-headers": ", ".join(allowed),
            },
        )

    def _with_headers(self, send: Any, origin: str, has_cookie: bool) -> Any:
        if not self._may_read(origin):
            return send
        added = [(name.encode(), value.encode("latin-1")) for name, value in self._allowing(origin, has_cookie).items()]

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], *added]}
            await send(message)

        return sent

    def _may_read(self, origin: str) -> bool:
        return "*" in self._origins or origin in self._origins

    def _allowing(self, origin: str, has_cookie: bool) -> dict[str, str]:
        """To a request with cookies the answer names its origin."""
        if "*" in self._origins and not has_cookie:
            return {"access-control-allow-origin": "*"}
        return {"access-control-allow-origin": origin, "vary": "origin"}
