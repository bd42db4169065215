"""GET / and /ui: the page for people. Its files are read once, and hold no secrets, so they need no key."""

from __future__ import annotations

import mimetypes
from functools import cache
from hashlib import blake2s
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from anyio import to_thread

from histrio_api.errors import UnknownRoute
from histrio_api.http.response import Response
from histrio_api.http.routing import get
from histrio_api.request.described import page_settings
from histrio_api.routes.auth import OPEN
from histrio_api.routes.common import HttpRequest, json_response

__all__ = ["index", "page_file", "settings_of_page"]

_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".svg": "image/svg+xml"}
"""Systems name them differently."""
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""A browser asks each time whether a file has changed, runs nothing but these files, and asks no other server."""
_RUNNING = b"histrio is running\n"
_NO_PAGE = "there is nothing at this URL; the API is under /v1"


class _File(NamedTuple):
    body: bytes
    headers: dict[str, str]


@get("/", opt=OPEN)
async def index(request: HttpRequest) -> Response:
    """The page for a browser; for other clients, and where there is no page, one line."""
    if request.state.settings.ui and "text/html" in request.header(b"accept").decode("latin-1"):
        return _answer(request, _files()["index.html"])
    return Response(_RUNNING, headers={"content-type": "text/plain; charset=utf-8", "vary": "accept"})


@get("/ui/{name:path}", opt=OPEN)
async def page_file(request: HttpRequest) -> Response:
    """A file of the page."""
    file = _files().get(request.path_params["name"])
    if file is None or not request.state.settings.ui:
        raise UnknownRoute(_NO_PAGE)
    return _answer(request, file)


@get("/ui/settings.json")
async def settings_of_page(request: HttpRequest) -> Response:
    """What the page builds its settings from: the model, and the fields of requests with their bounds."""
    edge = request.state
    if not edge.settings.ui:
        raise UnknownRoute(_NO_PAGE)
    content = await to_thread.run_sync(page_settings, edge)  # it reads sources, and makes schemas of structs
    return json_response(content, {"cache-control": "no-cache"})


def _answer(request: HttpRequest, file: _File) -> Response:
    """The file, or 304 for a client that has it."""
    known = [each.strip().removeprefix("W/") for each in request.header(b"if-none-match").decode("latin-1").split(",")]
    if file.headers["etag"] in known:
        return Response(b"", status=304, headers=file.headers)
    return Response(file.body, headers=file.headers)


@cache
def _files() -> dict[str, _File]:
    """All files of the page, by their path below it."""
    return {name: _read(name, file) for name, file in _walk(files("histrio_api") / "page", "")}


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for each in folder.iterdir():
        if each.is_dir():
            found += _walk(each, f"{prefix}{each.name}/")
        else:
            found.append((f"{prefix}{each.name}", each))
    return found


def _read(name: str, file: Traversable) -> _File:
    body = file.read_bytes()
    suffix = name[name.rfind(".") :]
    kind = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "text/plain"
    charset = "" if kind.startswith("image/") else "; charset=utf-8"
    etag = f'"{blake2s(body, digest_size=12).hexdigest()}"'
    vary = {"vary": "accept"} if name == "index.html" else {}
    return _File(body, _HEADERS | vary | {"content-type": f"{kind}{charset}", "etag": etag})
