"""Work that is done only as long as its client waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from histrio_api.errors import ClientLeft
from histrio_api.shared.edge import Edge

__all__ = ["attended"]

_LOOK_S = 0.25


async def attended(
    edge: Edge,
    receive: Callable[[], Awaitable[object]],
    work: Callable[[], Awaitable[None]],
    *,
    outlives_draining: bool = False,
) -> None:
    """Do the work, whose errors are raised as they are. `receive` gives the request's next ASGI message: if that is its
    end, the work is cancelled and `ClientLeft` raised. Raises `EngineError` if the server shuts down meanwhile, unless
    the work is among what the server still finishes then."""
    errors: list[Exception] = []
    is_done = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_when_client_leaves, receive, tasks.cancel_scope)
        if not outlives_draining:
            tasks.start_soon(_cancel_when_draining, edge, tasks.cancel_scope)
        try:
            await work()
            is_done = True
        except Exception as error:
            errors.append(error)
        tasks.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not is_done:
        edge.require_accepting()
        raise ClientLeft("the client left before its answer began")


async def _cancel_when_client_leaves(receive: Callable[[], Awaitable[object]], scope: anyio.CancelScope) -> None:
    while True:
        message = await receive()
        if isinstance(message, dict) and message["type"] == "http.disconnect":
            scope.cancel()
            return


async def _cancel_when_draining(edge: Edge, scope: anyio.CancelScope) -> None:
    while edge.gateway.status.state not in ("draining", "failed"):  # noqa: ASYNC110 - a plain field, nothing announces it
        await anyio.sleep(_LOOK_S)
    scope.cancel()
