"""Fields that a request gives and nothing honours: accepted, but never in silence.

Their names go into a header of the answer, into the log once, and into a counter. Values are never repeated.
"""

from __future__ import annotations

import logging
import re

from histrio.errors import RequestError
from histrio_api.error_shapes import MAX_PARAM_CHARS
from histrio_api.request.known_fields import HINTS, KNOWN_FIELDS
from histrio_api.shared.edge import Edge

__all__ = ["IGNORED_HEADER", "STRICT_HEADER", "IgnoredFields", "ignored_headers"]

logger = logging.getLogger(__name__)

IGNORED_HEADER = "x-histrio-ignored"
STRICT_HEADER = "x-histrio-strict"
MAX_SHOWN = 16
MAX_HEADER_CHARS = 512
_MAX_LOGGED = 512
_UNPRINTABLE = re.compile(r"[^!-+\--~]")
"""Everything but printable ASCII without space and comma, which separate names."""

_logged: set[str] = set()


class IgnoredFields:
    """Of one request; with `is_strict` the first one is refused instead."""

    def __init__(self, *, is_strict: bool = False) -> None:
        self._is_strict = is_strict
        self._paths: dict[str, None] = {}

    @property
    def paths(self) -> list[str]:
        """As `messages[].cache_control`, each once, made fit to be shown; keywords of schemas with their positions."""
        return list(self._paths)

    def add(self, path: str, place: str) -> None:
        """One more; `place` is the path with its positions. Raises `RequestError` for a strict request."""
        if self._is_strict:
            raise _refusal(KNOWN_FIELDS[path].reason if path in HINTS else "", place[:MAX_PARAM_CHARS])
        self._keep(path)

    def add_keyword(self, path: str, *, is_promised: bool) -> None:
        """A keyword of a schema that no grammar enforces. Raises `RequestError` for a strict request, or if the schema
        `is_promised` to be followed as a whole."""
        if self._is_strict or is_promised:
            keyword = path.rpartition(".")[2]
            text = f"{path}: the keyword {keyword} cannot be enforced; leave it out, or leave out strict"
            raise RequestError(text, param=path, code="unsupported_keyword")
        self._keep(path)

    def _keep(self, path: str) -> None:
        self._paths[_UNPRINTABLE.sub("?", path[:MAX_PARAM_CHARS])] = None


def ignored_headers(edge: Edge, ignored: IgnoredFields) -> dict[str, str]:
    """The header that names them, if there are any; they are counted and logged. Belongs to the event loop."""
    paths = ignored.paths
    if not paths:
        return {}

    edge.metrics.count_ignored(path if path in HINTS else "other" for path in paths)
    _log(paths)
    return {IGNORED_HEADER: _header(paths)}


def _header(paths: list[str]) -> str:
    shown = paths[:MAX_SHOWN]
    while len(text := _joined(shown, len(paths) - len(shown))) > MAX_HEADER_CHARS:
        shown.pop()
    return text


def _joined(shown: list[str], num_more: int) -> str:
    return ", ".join([*shown, f"...+{num_more}"] if num_more else shown)


def _log(paths: list[str]) -> None:
    for path in paths:
        if path not in _logged and len(_logged) < _MAX_LOGGED:
            _logged.add(path)
            logger.info("ignored field %s; it is logged once, and counted in ignored_fields_total", path)


def _refusal(reason: str, place: str) -> RequestError:
    if not reason:
        return RequestError(f"{place}: unknown field", param=place, code="unknown_parameter")
    return RequestError(f"{place}: has no effect here ({reason})", param=place, code="unsupported_parameter")
