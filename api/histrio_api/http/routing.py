"""Routes: which handler answers which method of which path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from histrio_api.http.response import Response

__all__ = ["Handler", "Methods", "Route", "by_path", "delete", "get", "post"]

Handler = Callable[[Any], Awaitable[Response]]
"""Answers a `Request`."""
Methods = Mapping[str, "Route"]
"""Method → route of one path."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One method of one path, or of several that mean the same.

    Paths are litestar's: `{name:str}` stands for one part of a path, `{name:path}` for the rest of it.
    """

    method: str
    paths: Sequence[str]
    handler: Handler
    opt: Mapping[str, Any] = field(default_factory=dict)
    """What else is said of it, by name."""


def by_path(routes: Iterable[Route]) -> dict[str, Methods]:
    """The routes of each path."""
    paths: dict[str, dict[str, Route]] = {}
    for route in routes:
        for path in route.paths:
            methods = paths.setdefault(path, {})
            assert route.method not in methods, f"two routes answer {route.method} {path}"
            methods[route.method] = route
    return {**paths}


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
