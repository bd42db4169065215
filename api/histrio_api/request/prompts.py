"""From texts to token ids that the model can take, and how many tokens may follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from histrio.contracts.gateway import ServedModel
from histrio.errors import ContextLengthExceeded, RequestError
from histrio_api.shared.edge import Edge
from histrio_api.text.literals import ChatText
from histrio_api.text.tokenizer import TooManyTokens

__all__ = [
    "Cut",
    "Prompt",
    "chat_text_prompt",
    "counted_ids",
    "given_prompts",
    "ids_prompt",
    "num_new_tokens",
    "pair_prompt",
    "prompt_cut",
    "require_at_most",
    "text_prompt",
]


class Cut(NamedTuple):
    """What is left of a prompt that is too long for its request."""

    num_tokens: int
    keeps_end: bool

    def of(self, ids: list[int]) -> list[int]:
        """So many of these, or all if there are no more."""
        return ids[-self.num_tokens :] if self.keeps_end else ids[: self.num_tokens]


def prompt_cut(edge: Edge, most: int | None, side: str | None, num_wanted: int | None) -> Cut | None:
    """Of a request's `truncate_prompt_tokens` and `truncation_side`; -1 leaves room for as many tokens as are wanted,
    or for one. None where nothing is to be cut."""
    if most is None:
        return None
    room = edge.gateway.model.max_sequence_length - (num_wanted or 1)
    return Cut(max(1, room if most == -1 else most), side != "right")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a request."""

    ids: list[int]
    text: str = ""
    """As the client gave it, or what its ids mean where it is echoed."""
    starts: list[int] = field(default_factory=list)
    """Where in the text each token begins, in characters, where it is echoed."""
    ends: Sequence[int] = ()
    """Ids that end its answer, besides those that end any."""
    second_at: int = 0
    """Of a pair of texts: which id is the first of the second one's type; 0 for one text."""


def given_prompts(given: str | list[Any], most: int, param: str = "prompt") -> list[tuple[str, str | list[int]]]:
    """One for a string or a list of ids, several, of which there may be `most`, for a list of strings or of lists.

    Each has the place in the request that errors name. Raises `RequestError`.
    """
    if isinstance(given, str):
        return [(param, given)]
    if not given:
        raise RequestError(f"{param}: must not be empty", param=param)

    ids = [entry for entry in given if isinstance(entry, int)]
    if len(ids) == len(given):
        return [(param, ids)]
    require_at_most(param, f"{param}s are accepted", len(given), most)
    if ids:
        raise RequestError(f"{param}: token ids and texts cannot be mixed in one list", param=param)
    prompts = [entry for entry in given if not isinstance(entry, int)]
    return [(param if isinstance(each, str) else f"{param}[{at}]", each) for at, each in enumerate(prompts)]


def text_prompt(
    edge: Edge, text: str, param: str, *, add_special: bool, is_placed: bool = False, cut: Cut | None = None
) -> Prompt:
    """Of a text that stands in the field `param`; `is_placed` if it is to be told where each token begins, which is
    not told of one that is `cut`. Raises `RequestError`."""
    limit = edge.gateway.model.max_sequence_length
    starts: list[int] = []
    try:
        if is_placed:
            ids, starts = edge.tokenizer.encode_placed(text, add_special=add_special, max_tokens=limit)
        else:
            most = limit if cut is None else None
            ids = edge.tokenizer.encode(text, add_special=add_special, max_tokens=most)
    except TooManyTokens as error:
        raise _too_long(limit, error, param) from None
    return Prompt(_checked(edge, ids if cut is None else cut.of(ids), param), text, starts)


def pair_prompt(
    edge: Edge, texts: tuple[str, str], param: str, *, add_special: bool, most: int | None = None
) -> Prompt:
    """Of two texts that the model reads together, cut to `most` tokens. Raises `RequestError`."""
    limit = edge.gateway.model.max_sequence_length
    try:
        ids, second_at = edge.tokenizer.encode_pair(*texts, add_special=add_special, most=most, max_tokens=limit)
    except TooManyTokens as error:
        raise _too_long(limit, error, param) from None
    return Prompt(_checked(edge, ids, param), second_at=second_at)


def chat_text_prompt(edge: Edge, text: ChatText, *, add_special: bool, cut: Cut | None = None) -> Prompt:
    """Of what the messages of a chat become. Raises `RequestError`."""
    limit = edge.gateway.model.max_sequence_length
    try:
        most = limit if cut is None else None
        ids = edge.tokenizer.encode_pieces(text.pieces, add_special=add_special, max_tokens=most)
    except TooManyTokens as error:
        raise _too_long(limit, error, "messages") from None
    return Prompt(_checked(edge, ids if cut is None else cut.of(ids), "messages"), text.whole)


def ids_prompt(edge: Edge, ids: list[int], param: str, *, is_placed: bool = False) -> Prompt:
    """Of a client's own ids, otherwise as `text_prompt`."""
    model = edge.gateway.model
    vocab_size, limit = model.vocab_size, model.max_sequence_length
    if len(ids) > limit:
        raise _too_long(limit, TooManyTokens(len(ids), is_exact=True), param)
    if ids and max(ids) >= vocab_size:
        raise RequestError(f"{param}: token ids must be below {vocab_size}", param=param)

    return Prompt(_checked(edge, ids, param), *(edge.tokenizer.decode_placed(ids) if is_placed else ()))


def counted_ids(edge: Edge, text: str | ChatText, param: str, *, add_special: bool) -> list[int]:
    """Of a text that is only to be counted or shown, so that it may be longer than the context. Raises `RequestError`
    beyond a limit of its own."""
    limit = edge.settings.max_tokenize_chars
    pieces = [text] if isinstance(text, str) else text.pieces
    if sum(map(len, pieces)) > limit:
        raise RequestError(f"{param}: at most {limit} characters are accepted; send the text in parts", param=param)
    return edge.tokenizer.encode_pieces(pieces, add_special=add_special)


def num_new_tokens(model: ServedModel, prompt: Prompt, wanted: int | None, param: str) -> int:
    """How many tokens may be generated: what is wanted, and no more than fit; by default all of these.

    Raises `ContextLengthExceeded` where there is no room for any.
    """
    limit, num_prompt_tokens = model.max_sequence_length, len(prompt.ids)
    room = limit - num_prompt_tokens
    if room < 1:
        raise _too_long(limit, TooManyTokens(num_prompt_tokens, is_exact=True), param)
    return room if wanted is None else min(wanted, room)


def require_at_most(param: str, what: str, found: int, limit: int) -> None:
    """Raise `RequestError` beyond the limit."""
    if found > limit:
        raise RequestError(f"{param}: at most {limit} {what}", param=param)


def _too_long(limit: int, found: TooManyTokens, param: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"This model's maximum context length is {limit} tokens, but the prompt has "
        f"{'' if found.is_exact else 'more than '}{found.num_tokens} tokens, which leaves no room for an answer. "
        "Shorten the prompt.",
        param=param,
    )


def _checked(edge: Edge, ids: list[int], param: str) -> list[int]:
    """Ids that the model can take; a tokenizer may know added tokens that the model has no row for."""
    if not ids:
        raise RequestError(f"{param}: must not be empty", param=param)
    if max(ids) >= edge.gateway.model.vocab_size:
        text = f"{param}: the text has a token that the tokenizer knows and the model does not"
        raise RequestError(text, param=param)

    return ids
