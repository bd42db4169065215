"""The texts of a request that become vectors: read from its fields, encoded, and cut where the client allows that."""

from __future__ import annotations

from typing import TypeVar

from histrio.errors import RequestError
from histrio_api.request.fields import split_fields
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.json_body import decode_object
from histrio_api.request.known_fields import UNREAD
from histrio_api.request.prompts import Prompt, given_prompts, ids_prompt, pair_prompt, text_prompt
from histrio_api.request.received import Arrival
from histrio_api.schemas.embeddings import TextsRequest
from histrio_api.shared.edge import Edge
from histrio_api.text.tokenizer import Tokenizer

__all__ = ["cut_text", "encoded_pairs", "encoded_texts", "input_prompts", "read_texts_request"]

R = TypeVar("R", bound=TextsRequest)


def read_texts_request(edge: Edge, body: bytes, kind: type[R], arrival: Arrival) -> tuple[R, IgnoredFields]:
    """Check a request's body. Raises `RequestError`, and `EngineError` while nothing can be computed."""
    settings, ignored = edge.settings, IgnoredFields(is_strict=arrival.is_strict)
    given = decode_object(body, max_parts=settings.max_json_parts, max_values=settings.max_json_values, labels=UNREAD)
    request, _ = split_fields(kind.own_names(given), kind, frozenset(), edge.honoured_by, ignored)
    edge.require_model(request.model)
    edge.require_task(kind.task)
    edge.require_accepting()
    refusal = edge.gateway.model.vectors.refusal
    if refusal:
        made = "scores" if edge.gateway.model.kind == "score" else "vectors"
        text = f"model: no {made} are made of texts here, because {refusal}"
        raise RequestError(text, param="model", code="unsupported_model")
    return request, ignored


def input_prompts(edge: Edge, request: TextsRequest, given: str | list[str | int | list[int]]) -> list[Prompt]:
    """One for a string or a list of ids, several for a list of strings or of lists. Raises `RequestError`."""
    prompts = given_prompts(given, edge.settings.max_inputs, "input")
    return [_encoded(edge, request, each, param) for param, each in prompts]


def encoded_texts(edge: Edge, request: TextsRequest, texts: list[str], param: str) -> list[Prompt]:
    """Each of the texts in the field `param`. Raises `RequestError`."""
    return [_encoded(edge, request, text, param) for text in texts]


def encoded_pairs(edge: Edge, request: TextsRequest, pairs: list[tuple[str, str]], param: str) -> list[Prompt]:
    """Each of the pairs, as a model reads them that scores pairs. Raises `RequestError`."""
    if request.pooling is not None:
        raise RequestError("pooling: this model has a head of its own; leave it out", param="pooling")
    most, add_special = _most(edge, request), request.add_special_tokens
    return [pair_prompt(edge, pair, param, add_special=add_special, most=most) for pair in pairs]


def cut_text(tokenizer: Tokenizer, text: str, most: int, *, add_special: bool) -> list[int]:
    """At most so many ids: the text's last ones are left out, and none that the tokenizer adds around it."""
    plain = tokenizer.encode(text, add_special=False)
    if not add_special:
        return plain[:most]

    whole = tokenizer.encode(text, add_special=True)
    num_added = len(whole) - len(plain)
    if len(whole) <= most or most < num_added:
        return whole[:most]

    places = (at for at in range(num_added + 1) if whole[at : at + len(plain)] == plain)
    first = next(places, num_added)
    return [*whole[:first], *plain[: most - num_added], *whole[first + len(plain) :]]


def _encoded(edge: Edge, request: TextsRequest, given: str | list[int], param: str) -> Prompt:
    most = _most(edge, request)
    if most is not None:
        if isinstance(given, str):
            given = cut_text(edge.tokenizer, given, most, add_special=request.add_special_tokens)
        return ids_prompt(edge, given[:most], param)

    if isinstance(given, str):
        return text_prompt(edge, given, param, add_special=request.add_special_tokens)
    return ids_prompt(edge, given, param)


def _most(edge: Edge, request: TextsRequest) -> int | None:
    """To how many tokens texts are cut; None where they are not."""
    limit, most = edge.gateway.model.max_sequence_length, request.most_tokens
    return most if most is None else limit if most == -1 else min(most, limit)
