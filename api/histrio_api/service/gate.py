"""What is decided before the application sees a request: whether a foreign web page sent it.

A page from anywhere may send requests to an address of this machine, in two ways. Its own name can be made to point
here (DNS rebinding); then `Host` has that name. Or it sends requests whose answers it cannot read, but that have an
effect; then `Origin` says whose they are, and they cannot have the content type of JSON without asking first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from histrio.errors import RequestError
from histrio_api.error_shapes import error_object
from histrio_api.http.exchange import Application
from histrio_api.shared.settings import ApiSettings, is_loopback

__all__ = ["Gate"]

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_WEB_SCHEMES = ("http", "https")
_NUM_KNOWN_HOSTS = 64
"""Clients say the same name with every request."""


class ForeignHost(RequestError):
    """The request is for a name that this server does not go by."""

    status = 403
    code = "host_not_allowed"


class ForeignOrigin(RequestError):
    """A web page sent the request that may not."""

    status = 403
    code = "origin_not_allowed"


class WrongContentType(RequestError):
    """A web page sent the request in a form that needs no permission."""

    status = 415
    code = "unsupported_media_type"


class Gate:
    """Lets requests through to `application`, HEAD as GET: the server leaves the body out."""

    def __init__(
        self, application: Application, settings: ApiSettings, count: Callable[[str, int], None] | None = None
    ) -> None:
        """`count` is told path and status of what is refused."""
        self._application = application
        self._count = count
        self._origins = frozenset(settings.cors_origins)
        self._hosts = frozenset(name.lower().rstrip(".") for name in settings.allowed_hosts)
        # Elsewhere it goes by names that it does not know; and with keys a page would need one.
        self._checks_host = bool(self._hosts) or (is_loopback(settings.host) and not settings.has_keys)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with a refusal, or let the application answer."""
        try:
            self._check(scope["method"], scope["headers"])
        except RequestError as error:
            if self._count is not None:
                self._count(scope["path"], error.status)
            await _answer(error, scope["path"], send)
            return
        if scope["method"] == "HEAD":
            scope = scope | {"method": "GET"}
        await self._application(scope, receive, send)

    def _check(self, method: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Raise `ForeignHost`, `ForeignOrigin` or `WrongContentType`."""
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if self._checks_host and not all(map(self._is_own_name, map(_host_of, hosts))):
            text = "this server does not go by the name in the Host header; add the name to allowed-hosts in [api]"
            raise ForeignHost(text)
        if method in _SAFE_METHODS:
            return

        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        for origin in origins:
            if not self._may_send(origin, hosts):
                text = "pages of this origin may not send requests; add the origin to cors-origins in [api]"
                raise ForeignOrigin(text)
        if not origins:
            return

        kinds = [value for name, value in headers if name == b"content-type"]
        if not all(kind.split(b";")[0].strip().lower() == b"application/json" for kind in kinds or [b""]):
            raise WrongContentType("web pages have to send JSON as content-type application/json")

    def _is_own_name(self, name: str) -> bool:
        """Addresses, and names that no public name server answers for, cannot be made to point here."""
        return "." not in name or _is_address(name) or name.endswith(".localhost") or name in self._hosts

    def _may_send(self, origin: str, hosts: Collection[str]) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        scheme, _, place = origin.partition("://")
        if scheme not in _WEB_SCHEMES:
            return bool(place)  # an application's or an extension's own page; "null" may be any page
        host = _host_of(place)
        return place.lower() in (each.lower() for each in hosts) or host == "localhost" or _is_local(host)


@lru_cache(_NUM_KNOWN_HOSTS)
def _host_of(authority: str) -> str:
    """Name or address of `name:port`, `[address]:port` or `name`, in lower case; "." for what is none."""
    try:
        return (urlsplit(f"//{authority}").hostname or "").rstrip(".")
    except ValueError:
        return "."


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_local(name: str) -> bool:
    return _is_address(name) and ip_address(name).is_loopback


async def _answer(error: RequestError, path: str, send: Any) -> None:
    body = error_object(error, path)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
