"""GET /v1/usage."""

from __future__ import annotations

from datetime import date, timedelta
from typing import cast

from histrio.errors import RequestError
from histrio_api.http.response import Response
from histrio_api.http.routing import get
from histrio_api.routes.auth import ANY_KEY
from histrio_api.routes.common import HttpRequest, json_response
from histrio_api.usage.counts import GROUPS, Counts, Group, Question
from histrio_api.usage.usage_file import MAX_ROWS

__all__ = ["usage"]

_DEFAULT_DAYS = 30
_FIELDS = ("start", "end", "group_by")


class UsageOff(RequestError):
    """Usage is not kept here."""

    status = 404
    code = "usage_not_kept"


@get("/v1/usage", opt=ANY_KEY)
async def usage(request: HttpRequest) -> Response:
    """What the request's own key has used; with an admin's key, or where no keys are asked for, what all have."""
    edge = request.state
    if edge.usage is None:
        raise UsageOff("usage is not kept; set usage-file in [api]")

    question = _question(request, edge.usage.today)
    rows = await edge.usage.rows(question)
    if len(rows) > MAX_ROWS:
        raise RequestError(f"start: there are more than {MAX_ROWS} rows; ask for fewer days or groups", param="start")

    total = Counts()
    for row in rows:
        total.add(Counts(**{name: row[name] for name in Counts.__struct_fields__}))
    content = {"object": "list", "start": question.start, "end": question.end, "data": rows, "total": total}
    return json_response(content | {"group_by": question.groups})


def _question(request: HttpRequest, today: date) -> Question:
    """Raises `RequestError`."""
    for name in request.query:
        if name not in _FIELDS:
            raise RequestError(f"{name[:40]!r} is unknown; known are {', '.join(_FIELDS)}", param="query")
    end = _day(request, "end", today)
    start = _day(request, "start", end - timedelta(min(_DEFAULT_DAYS - 1, (end - date.min).days)))
    if start > end:
        raise RequestError("start: must not be after end", param="start")

    edge, sender = request.state, request.sender
    sees_all = not edge.keys.asks or edge.keys.limits_of(sender).key.admin
    return Question(start.isoformat(), end.isoformat(), None if sees_all else sender, _groups(request))


def _day(request: HttpRequest, name: str, default: date) -> date:
    given = request.query.get(name)
    if given is None:
        return default
    try:
        return date.fromisoformat(given)
    except ValueError:
        raise RequestError(f"{name}: must be a day such as 2026-01-31", param=name) from None


def _groups(request: HttpRequest) -> tuple[Group, ...]:
    given = request.query.get("group_by", "day")
    groups = [each.strip() for each in given.split(",") if each.strip()]
    if not set(groups) <= set(GROUPS):
        raise RequestError(f"group_by: must be some of {','.join(GROUPS)}", param="group_by")
    return cast("tuple[Group, ...]", tuple(dict.fromkeys(groups)))
