"""One request, as routes see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

from histrio_api.http.exchange import WHEN_LEFT

__all__ = ["Receive", "Request"]

S = TypeVar("S")
Receive = Callable[[], Awaitable[Any]]
"""Gives the request's next ASGI message."""


class Request(Generic[S]):
    """Head, body and sender of a request; `state` is what all requests share."""

    __slots__ = ("headers", "method", "path", "path_params", "receive", "scope", "sender", "state")

    def __init__(self, state: S, scope: Mapping[str, Any], receive: Receive) -> None:
        self.state = state
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        """Without a slash at its end, once its route was found."""
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        """Names in lower case."""
        self.path_params: Mapping[str, str] = {}
        """What the path has in the places of its route's parameters."""
        self.sender = ""
        """The name of the key that it came with; empty without one."""

    @property
    def query(self) -> dict[str, str]:
        """The fields of the URL; of several with one name the last."""
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True))

    def when_left(self, call: Callable[[], object] | None) -> bool:
        """Have this called when the client leaves, in place of what was to be called; whether it has left already."""
        has_left: bool = self.scope[WHEN_LEFT](call)
        return has_left

    def header(self, name: bytes) -> bytes:
        """The value of the first header of this name, which is in lower case; empty if there is none."""
        for known, value in self.headers:
            if known == name:
                return value
        return b""
