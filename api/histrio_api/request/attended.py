"""Work that is done only as long as its client waits for it.

What looks after the client is a plain task, which is cancelled when the work is done. A task group would wait for it,
wrap the errors of the work, and take longer to make than a short request takes to be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio

from histrio_api.errors import ClientLeft
from histrio_api.http.request import Receive, Request
from histrio_api.shared.edge import Edge

__all__ = ["WhileAttended", "attended", "client_left", "ended_by"]

_LOOK_S = 0.25


class WhileAttended:
    """The block is cancelled when the request's client leaves, and is over then. Nothing runs beside it."""

    __slots__ = ("_request", "_task")

    def __init__(self, request: Request[Any]) -> None:
        self._request = request

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request is answered by a task"
        self._task = task
        if self._request.when_left(task.cancel):
            task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> bool:
        has_left = self._request.when_left(None)
        if kind is not asyncio.CancelledError or not has_left:
            return False
        self._task.uncancel()
        return True


@contextmanager
def ended_by(*watches: Callable[[], Awaitable[None]]) -> Iterator[anyio.CancelScope]:
    """The block is cancelled as soon as one of these returns; they are when the block is over."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        tasks = [loop.create_task(_cancel_after(watch, scope)) for watch in watches]
        try:
            yield scope
        finally:
            for task in tasks:
                task.cancel()


async def client_left(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def attended(
    edge: Edge, receive: Receive, work: Callable[[], Awaitable[None]], *, outlives_draining: bool = False
) -> None:
    """Do the work, whose errors are raised as they are. If the client leaves, the work is cancelled and `ClientLeft`
    raised. Raises `EngineError` if the server shuts down meanwhile, unless the work is among what the server still
    finishes then."""
    watches = [partial(client_left, receive), *([] if outlives_draining else [partial(_draining, edge)])]
    with ended_by(*watches) as scope:
        await work()
    if scope.cancelled_caught:
        edge.require_accepting()
        raise ClientLeft("the client left before its answer began")


async def _cancel_after(watch: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
    await watch()
    scope.cancel()


async def _draining(edge: Edge) -> None:
    while edge.gateway.status.state not in ("draining", "failed"):  # noqa: ASYNC110 - a plain field, nothing announces it
        await anyio.sleep(_LOOK_S)
