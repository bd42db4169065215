"""POST /tokenize and /detokenize, as routers and test tools use them to count tokens."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import msgspec
from litestar import post
from litestar.response.base import ASGIResponse

from histrio.errors import RequestError
from histrio_api.edge import Edge
from histrio_api.errors import from_validation
from histrio_api.fields import decode_object
from histrio_api.prompts import render_messages
from histrio_api.routes.common import HttpRequest, edge_of, json_response
from histrio_api.schemas.tokenize import DetokenizeRequest, TokenizeRequest

__all__ = ["detokenize", "tokenize"]

R = TypeVar("R", TokenizeRequest, DetokenizeRequest)


@post("/tokenize", status_code=200)
async def tokenize(request: HttpRequest) -> ASGIResponse:
    """Ids of a text, or of the prompt that a chat becomes."""
    edge = edge_of(request)
    body = await request.body()
    wanted = _convert(edge, body, TokenizeRequest)
    if (wanted.prompt is None) == (wanted.messages is None):
        raise RequestError("prompt: give either prompt or messages", param="prompt")

    ids = await edge.run_text(partial(_encode, edge, wanted), len(body))
    content: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": edge.gateway.model.max_sequence_length,
        "tokens": ids,
        "token_strs": [edge.tokenizer.token(token_id) for token_id in ids] if wanted.return_token_strs else None,
    }
    return json_response(content)


@post("/detokenize", status_code=200)
async def detokenize(request: HttpRequest) -> ASGIResponse:
    """Text of ids, special tokens included."""
    edge = edge_of(request)
    body = await request.body()
    wanted = _convert(edge, body, DetokenizeRequest)
    if wanted.tokens and max(wanted.tokens) >= edge.gateway.model.vocab_size:
        raise RequestError(f"tokens: ids must be below {edge.gateway.model.vocab_size}", param="tokens")

    text = await edge.run_text(partial(edge.tokenizer.decode, wanted.tokens, skip_special=False), len(body))
    return json_response({"prompt": text})


def _encode(edge: Edge, wanted: TokenizeRequest) -> list[int]:
    if wanted.prompt is not None:
        return edge.tokenizer.encode(wanted.prompt, add_special=wanted.add_special_tokens is not False)

    text = render_messages(edge, wanted.messages or [], add_generation_prompt=wanted.add_generation_prompt)
    return edge.tokenizer.encode(text, add_special=bool(wanted.add_special_tokens))


def _convert(edge: Edge, body: bytes, kind: type[R]) -> R:
    given = {name: value for name, value in decode_object(body).items() if value is not None}
    try:
        wanted = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise from_validation(error) from None
    if wanted.model is not None:
        edge.require_model(wanted.model)

    return wanted
