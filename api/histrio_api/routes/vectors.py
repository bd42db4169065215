"""The way of a request for vectors: its body to texts, the engine, and the answer made of the vectors."""

from __future__ import annotations

import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any, TypeVar

import msgspec

from histrio_api.answer.vectors import Texts, Vector, pooled
from histrio_api.http.response import Response
from histrio_api.request.attended import attended
from histrio_api.request.ignored import IgnoredFields, ignored_headers
from histrio_api.request.received import Arrival
from histrio_api.request.texts import read_texts_request
from histrio_api.routes.common import HttpRequest, is_strict, request_body
from histrio_api.schemas.embeddings import TextsRequest
from histrio_api.shared.edge import Edge

__all__ = ["respond_with_vectors"]

R = TypeVar("R", bound=TextsRequest)

_NUMBERS_PER_TOKEN = 64
"""So many numbers of vectors are written in about the time of one token's log probabilities."""


async def respond_with_vectors(
    request: HttpRequest,
    kind: type[R],
    read: Callable[[Edge, R, Arrival], Texts],
    write: Callable[[Edge, R, Texts, list[Vector]], Any],
    id_prefix: str,
) -> Response:
    """Answer with what `write` makes of the vectors of the texts that `read` finds. Both are safe to run in a thread,
    and may raise `RequestError`."""
    edge = request.state
    arrival = Arrival(time.perf_counter(), request.sender, is_strict(request))
    async with request_body(request) as body:

        def prepare() -> tuple[R, Texts, IgnoredFields]:
            asked, ignored = read_texts_request(edge, body, kind, arrival)
            return asked, read(edge, asked, arrival), ignored

        asked, texts, ignored = await edge.run_text(prepare, len(body))

    texts.id = f"{id_prefix}{token_hex(16)}"
    texts.reading_s = time.perf_counter() - arrival.at_s
    vectors: list[Vector] = []

    async def work() -> None:
        vectors.extend(await pooled(edge, texts))

    await attended(edge, request.receive, work, outlives_draining=True)
    num_numbers = sum(map(len, vectors))
    answer = await edge.run_answer(
        lambda: msgspec.json.encode(write(edge, asked, texts, vectors)), num_numbers // _NUMBERS_PER_TOKEN
    )
    edge.metrics.count_request(request.path, 200)
    limits = edge.keys.limits_of(arrival.key)
    headers = {"x-request-id": texts.id, **limits.headers(), **ignored_headers(edge, ignored)}
    return Response(answer, headers=headers)
