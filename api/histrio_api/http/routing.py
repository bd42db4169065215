"""Routes: which handler answers which method of which path."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from histrio_api.http.response import Response

__all__ = ["Handler", "Route", "Router", "delete", "get", "post"]

Handler = Callable[[Any], Awaitable[Response]]
"""Answers a `Request`."""
Methods = Mapping[str, "Route"]
"""Method → route of one path."""

_PARAMETER = re.compile(r"\{(\w+):(\w+)\}")
_KINDS = {"str": r"[^/]+", "path": r".+"}


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One method of one path, or of several that mean the same.

    `{name:str}` stands for one part of a path, `{name:path}` for the rest of it.
    """

    method: str
    paths: Sequence[str]
    handler: Handler
    opt: Mapping[str, Any] = field(default_factory=dict)
    """What else is said of it, by name."""


class Router:
    """Finds the routes of paths; plain paths come before those with parameters."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._plain: dict[str, dict[str, Route]] = {}
        for route in routes:
            for path in route.paths:
                methods = self._plain.setdefault(path, {})
                assert route.method not in methods, f"two routes answer {route.method} {path}"
                methods[route.method] = route
        open_paths = [path for path in self._plain if _PARAMETER.search(path)]
        self._patterns = [(_pattern(path), self._plain.pop(path)) for path in sorted(open_paths, reverse=True)]

    def find(self, path: str) -> tuple[str, Methods, Mapping[str, str]]:
        """The path without needless slashes, its routes by method, none for an unknown path, and its parameters."""
        methods = self._plain.get(path)
        if methods is None:
            path = "/" + "/".join(filter(None, path.split("/")))
            methods = self._plain.get(path)
        if methods is not None:
            return path, methods, {}

        for pattern, methods in self._patterns:
            if found := pattern.fullmatch(path):
                return path, methods, found.groupdict()
        return path, {}, {}


def get(paths: str | Sequence[str], *, opt: Mapping[str, Any] | None = None) -> Callable[[Handler], Route]:
    """The function below answers GET."""
    return _route("GET", paths, opt)


def post(paths: str | Sequence[str], *, opt: Mapping[str, Any] | None = None) -> Callable[[Handler], Route]:
    """The function below answers POST."""
    return _route("POST", paths, opt)


def delete(paths: str | Sequence[str], *, opt: Mapping[str, Any] | None = None) -> Callable[[Handler], Route]:
    """The function below answers DELETE."""
    return _route("DELETE", paths, opt)


def _route(method: str, paths: str | Sequence[str], opt: Mapping[str, Any] | None) -> Callable[[Handler], Route]:
    listed = [paths] if isinstance(paths, str) else paths
    return lambda handler: Route(method, listed, handler, opt or {})


def _pattern(path: str) -> re.Pattern[str]:
    parts: list[str] = []
    at = 0
    for found in _PARAMETER.finditer(path):
        parts += (re.escape(path[at : found.start()]), f"(?P<{found[1]}>{_KINDS[found[2]]})")
        at = found.end()
    return re.compile("".join([*parts, re.escape(path[at:])]), re.DOTALL)
