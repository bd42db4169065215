"""What the two generating routes share: reading the request, answering at once or as a stream."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import msgspec
from litestar import Request
from litestar.response.base import ASGIResponse

from histrio.errors import HistrioError
from histrio.messages import SamplingFields
from histrio_api.edge import Edge
from histrio_api.errors import GenerationFailed, error_body
from histrio_api.fields import decode_object, split_fields
from histrio_api.generation import Choice, Generation, run_choices
from histrio_api.schemas import GenerationRequest
from histrio_api.sse import EventStream, Write, error_event

__all__ = ["HttpRequest", "answer_at_once", "edge_of", "json_response", "read_request", "stream_events"]

logger = logging.getLogger(__name__)

HttpRequest = Request[Any, Any, Any]
R = TypeVar("R", bound=GenerationRequest)

STATUS_CLIENT_LEFT = 499
"""No HTTP status: how requests are counted whose client left before the end."""


def edge_of(request: HttpRequest) -> Edge:
    """The endpoint's shared state."""
    edge: Edge = request.app.state.edge
    return edge


def json_response(content: Any, headers: dict[str, str] | None = None) -> ASGIResponse:
    """A 200 with `content` as JSON."""
    return ASGIResponse(body=msgspec.json.encode(content), headers=headers)


async def read_request(request: HttpRequest, kind: type[R]) -> tuple[R, SamplingFields, int]:
    """The checked request, its sampling fields, and the size of its body in bytes. Raises `RequestError`."""
    edge = edge_of(request)
    body = await request.body()
    checked, sampling = split_fields(decode_object(body), kind, edge.sampling_fields)
    edge.require_model(checked.model)
    return checked, sampling, len(body)


async def answer_at_once(
    request: HttpRequest, generation: Generation, show: Callable[[Choice, str], Awaitable[None]]
) -> bool:
    """Run all choices to their end; False if the client left before it, which cancels them."""
    error: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_client_leaves, request, tasks.cancel_scope)
            error = await _run(generation, show)
            tasks.cancel_scope.cancel()
    finally:
        generation.close()
    if error is not None:
        raise error

    finished = all(choice.finish_reason for choice in generation.choices)
    edge_of(request).metrics.count_request(request.scope["path"], 200 if finished else STATUS_CLIENT_LEFT)
    return finished


def stream_events(
    request: HttpRequest, generation: Generation, produce: Callable[[Write], Awaitable[None]]
) -> EventStream:
    """The response that streams what `produce` writes; an error on the way becomes the last event."""
    edge = edge_of(request)
    status = 200

    async def produce_or_report(write: Write) -> None:
        nonlocal status
        try:
            await produce(write)
        except HistrioError as error:
            status = error.status
            await write(error_event(error_body(error)))
        except Exception:
            logger.exception("a stream broke off")
            status = 500
            await write(error_event(error_body(GenerationFailed("internal error; the server's log has the details"))))

    def close(is_complete: bool) -> None:
        generation.close()
        edge.metrics.count_request(request.scope["path"], status if is_complete else STATUS_CLIENT_LEFT)

    return EventStream(
        produce_or_report,
        comment=lambda: b"recovering" if generation.is_recovering else b"ping",
        close=close,
        keep_alive_s=edge.settings.keep_alive_s,
        headers={"x-request-id": generation.id},
    )


async def _run(generation: Generation, show: Callable[[Choice, str], Awaitable[None]]) -> Exception | None:
    """Errors are returned: raised, the task group would wrap them."""
    try:
        await run_choices(generation, show)
    except Exception as error:
        return error
    return None


async def _cancel_when_client_leaves(request: HttpRequest, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
