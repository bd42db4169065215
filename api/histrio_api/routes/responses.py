"""POST /v1/responses and /v1/responses/input_tokens, and what was answered: GET and DELETE /v1/responses/{id}."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec

from histrio.errors import RequestError
from histrio_api.errors import ResponseNotFound, from_validation
from histrio_api.forms.response_input import num_named_bytes
from histrio_api.forms.responses import NOT_OF_RESPONSES, RESPONSE, count_input_tokens
from histrio_api.http.response import Response
from histrio_api.http.routing import delete, get, post
from histrio_api.request.ignored import IgnoredFields, ignored_headers
from histrio_api.request.received import Arrival, receive
from histrio_api.routes.common import HttpRequest, is_strict, json_response, request_body
from histrio_api.routes.described import described, described_form
from histrio_api.routes.respond import respond
from histrio_api.schemas.answered_responses import AnsweredResponse
from histrio_api.schemas.responses import InputTokensRequest
from histrio_api.shared.response_store import KeptResponse

__all__ = ["count_response_tokens", "delete_response", "list_input_items", "responses", "show_response"]


class InputItemsPage(msgspec.Struct):
    """Which of the input items are listed."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


@post("/v1/responses", opt=described_form(RESPONSE, AnsweredResponse))
async def responses(request: HttpRequest) -> Response:
    """Answer a conversation, at once or as a stream."""
    return await respond(request, RESPONSE)


@post("/v1/responses/input_tokens", opt=described(InputTokensRequest, without=NOT_OF_RESPONSES))
async def count_response_tokens(request: HttpRequest) -> Response:
    """How many tokens a conversation has as a prompt."""
    edge, key = request.state, request.sender
    async with request_body(request) as body:
        arrival = Arrival(time.perf_counter(), key, is_strict(request))

        def work() -> tuple[int, IgnoredFields]:
            received = receive(edge, body, InputTokensRequest, arrival)
            return count_input_tokens(edge, received), received.ignored

        num_tokens, ignored = await edge.run_text(work, len(body) + num_named_bytes(edge, key, body))
    content = {"object": "response.input_tokens", "input_tokens": num_tokens}
    return json_response(content, ignored_headers(edge, ignored))


@get("/v1/responses/{response_id:str}", opt=described(answers=AnsweredResponse))
async def show_response(request: HttpRequest) -> Response:
    """What was answered, as it was answered."""
    if request.query.get("stream", "false") != "false":
        raise RequestError("stream: an answer that is kept is given whole; leave it out", param="stream")
    return Response(_found(request).body)


@delete("/v1/responses/{response_id:str}")
async def delete_response(request: HttpRequest) -> Response:
    """Forget an answer; conversations that went on from it cannot go on."""
    response_id = _response_id(request)
    if not request.state.responses.forget(request.sender, response_id):
        raise ResponseNotFound("no such response is kept here")
    return json_response({"id": response_id, "object": "response", "deleted": True})


@get("/v1/responses/{response_id:str}/input_items", opt=described(query=InputItemsPage))
async def list_input_items(request: HttpRequest) -> Response:
    """What was asked, with the conversation before it."""
    try:
        page = msgspec.convert(request.query, InputItemsPage, strict=False)
    except msgspec.ValidationError as error:
        raise from_validation(error) from None
    return json_response(_listed(_asked(request), page))


def _listed(items: list[tuple[str, bytes]], page: InputItemsPage) -> dict[str, Any]:
    ordered = items if page.order == "asc" else items[::-1]
    if page.after is not None:
        ids = [item_id for item_id, _ in ordered]
        if page.after not in ids:
            raise RequestError("after: the response has no such item", param="after")
        ordered = ordered[ids.index(page.after) + 1 :]
    shown = ordered[: page.limit]
    return {
        "object": "list",
        "data": [msgspec.Raw(item) for _, item in shown],
        "first_id": shown[0][0] if shown else None,
        "last_id": shown[-1][0] if shown else None,
        "has_more": len(ordered) > len(shown),
    }


def _asked(request: HttpRequest) -> list[tuple[str, bytes]]:
    """All that the response answers, the oldest first; of what is gone nothing is left."""
    response = _found(request)
    earlier = request.state.responses.conversation(request.sender, response.previous_id) or []
    return [item for each in earlier for item in each.items] + response.input_items


def _found(request: HttpRequest) -> KeptResponse:
    found = request.state.responses.find(request.sender, _response_id(request))
    if found is None:
        raise ResponseNotFound("no such response is kept here")
    return found


def _response_id(request: HttpRequest) -> str:
    return request.path_params["response_id"]
