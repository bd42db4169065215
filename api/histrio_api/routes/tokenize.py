"""POST /tokenize and /detokenize, as routers and test tools use them to count tokens, and GET /tokenizer_info."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from histrio.errors import RequestError
from histrio_api.http.response import Response
from histrio_api.http.routing import get, post
from histrio_api.request.fields import split_fields
from histrio_api.request.ignored import IgnoredFields, ignored_headers
from histrio_api.request.json_body import decode_object
from histrio_api.request.known_fields import UNREAD
from histrio_api.request.prompts import counted_ids
from histrio_api.request.rendering import render_messages
from histrio_api.routes.common import HttpRequest, end_tokens, is_strict, json_response, request_body
from histrio_api.routes.described import described
from histrio_api.schemas.tokenize import DetokenizeRequest, TokenizeRequest
from histrio_api.shared.edge import Edge
from histrio_api.text.literals import ChatText

__all__ = ["detokenize", "tokenize", "tokenizer_info"]

R = TypeVar("R", TokenizeRequest, DetokenizeRequest)


@post("/tokenize", opt=described(TokenizeRequest))
async def tokenize(request: HttpRequest) -> Response:
    """Ids of a text, or of the prompt that a chat becomes."""
    return await _answer(request, _tokenized)


@post("/detokenize", opt=described(DetokenizeRequest))
async def detokenize(request: HttpRequest) -> Response:
    """Text of ids, special tokens included."""
    return await _answer(request, _detokenized)


@get("/tokenizer_info")
async def tokenizer_info(request: HttpRequest) -> Response:
    """What lm-eval asks for before it leaves all encoding to the server; null for what the model has not."""
    edge = request.state
    bos_token, eos_token = end_tokens(edge)
    content = {
        "tokenizer_class": type(edge.tokenizer).__name__,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "chat_template": None if edge.template is None else edge.template.source,
        "model_max_length": edge.gateway.model.max_sequence_length,
    }
    return json_response(content)


async def _answer(request: HttpRequest, work: Callable[[Edge, bytes, IgnoredFields], bytes]) -> Response:
    edge, ignored = request.state, IgnoredFields(is_strict=is_strict(request))
    async with request_body(request) as body:
        answer = await edge.run_text(partial(work, edge, body, ignored), len(body))
    return Response(answer, headers=ignored_headers(edge, ignored))


def _tokenized(edge: Edge, body: bytes, ignored: IgnoredFields) -> bytes:
    """From the body of a request to that of its answer."""
    wanted = _convert(edge, body, TokenizeRequest, ignored)
    if [wanted.prompt, wanted.content, wanted.messages].count(None) != 2:
        raise RequestError("prompt: give one of prompt, messages and content", param="prompt")

    ids = _encode(edge, wanted)
    content: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": edge.gateway.model.max_sequence_length,
        "tokens": [*map(partial(_piece, edge), ids)] if wanted.with_pieces else ids,
        "token_strs": [edge.tokenizer.token(token_id) for token_id in ids] if wanted.return_token_strs else None,
    }
    return msgspec.json.encode(content)


def _detokenized(edge: Edge, body: bytes, ignored: IgnoredFields) -> bytes:
    """From the body of a request to that of its answer."""
    wanted = _convert(edge, body, DetokenizeRequest, ignored)
    limit, vocab_size = edge.settings.max_detokenize_tokens, edge.gateway.model.vocab_size
    if len(wanted.tokens) > limit:
        raise RequestError(f"tokens: at most {limit} ids are accepted", param="tokens")
    if wanted.tokens and max(wanted.tokens) >= vocab_size:
        raise RequestError(f"tokens: ids must be below {vocab_size}", param="tokens")

    text = edge.tokenizer.decode(wanted.tokens, skip_special=False)
    return msgspec.json.encode({"prompt": text, "content": text})


def _piece(edge: Edge, token_id: int) -> dict[str, Any]:
    """A part of a character has its bytes."""
    _, values = edge.tokenizer.spell(token_id)
    try:
        return {"id": token_id, "piece": bytes(values).decode()}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": values}


def _encode(edge: Edge, wanted: TokenizeRequest) -> list[int]:
    text: str | ChatText
    if wanted.prompt is not None:
        text, param, adds_special = wanted.prompt, "prompt", wanted.add_special_tokens is not False
    elif wanted.content is not None:
        text, param, adds_special = wanted.content, "content", bool(wanted.add_special_tokens)
    else:
        messages = wanted.messages or []
        text = render_messages(edge, messages, add_generation_prompt=wanted.add_generation_prompt)
        param, adds_special = "messages", bool(wanted.add_special_tokens)

    return counted_ids(edge, text, param, add_special=adds_special)


def _convert(edge: Edge, body: bytes, kind: type[R], ignored: IgnoredFields) -> R:
    settings = edge.settings
    given = decode_object(body, max_parts=settings.max_json_parts, max_values=settings.max_json_values, labels=UNREAD)
    wanted, _ = split_fields(given, kind, frozenset(), edge.honoured_by, ignored)
    if wanted.model is not None:
        edge.require_model(wanted.model)

    return wanted
