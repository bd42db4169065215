"""Log probabilities in answers: what a request asks for, and which tokens' go out with which text.

The governing idea: a token's entry leaves with the text in which the token begins. Text that a stop string or half a
character holds back holds its tokens' entries too, and a token that is no part of the answer has none: neither the id
that ends it nor what belongs to a stop string.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from msgspec import UNSET, Raw, UnsetType

from histrio.contracts.gateway import Delta
from histrio.messages import TokenLogprobs
from histrio_api.answer.answer_tokens import AnswerTokens, PlacedToken
from histrio_api.answer.late_parts import LateParts
from histrio_api.errors import GenerationFailed
from histrio_api.request.prompts import Prompt
from histrio_api.request.scores import Scores, is_listed
from histrio_api.schemas.logprobs import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob
from histrio_api.text.tokenizer import Tokenizer
from histrio_api.text.vocabulary_json import LEAST_LOGPROB, likeliest

__all__ = [
    "ChoiceLogprobs",
    "TokenPlace",
    "chat_logprobs",
    "completion_logprobs",
    "sayable",
    "top_of",
]

TokenPlace = tuple[int, str]
"""The text that came out with a token, and before it how many characters at its beginning are earlier tokens'."""


class ChoiceLogprobs:
    """The entries of one choice, from its deltas to its answer."""

    __slots__ = (
        "_held",
        "_late",
        "_num_chars",
        "_num_shown_chars",
        "_num_top",
        "_scores",
        "_shown",
        "_tokenizer",
        "answer_tokens",
        "has_top",
    )

    def __init__(self, tokenizer: Tokenizer, scores: Scores, late: LateParts, num_prompt_chars: int = 0) -> None:
        """`num_prompt_chars` of the prompt stand before the answer, if the text begins with it."""
        self._tokenizer = tokenizer
        self._scores = scores
        self._late = late
        self._num_top = scores.num_top or 0
        self._num_chars = num_prompt_chars
        self._num_shown_chars = num_prompt_chars
        self._held: deque[PlacedToken] = deque()
        self._shown: list[PlacedToken] = []
        self.has_top = bool(scores.num_top or scores.token_ids)
        """Other tokens are told of beside those of the answer: the likeliest, or named ones."""
        self.answer_tokens: AnswerTokens | None = None
        """Of an answer whose reasoning has no entries."""

    @property
    def num_shown(self) -> int:
        """How many `take_shown` has to give."""
        return len(self._shown)

    def push(
        self, delta: Delta, places: Sequence[TokenPlace], num_shown_chars: int, *, is_last: bool, is_whole: bool
    ) -> None:
        """Take as many tokens of `delta` as there are places, and release those whose text is shown by now.

        `is_last`: the answer has ended; `is_whole`: with all of its text. Raises `GenerationFailed` if the delta lacks
        entries.
        """
        found = delta.extras.logprobs
        if len(found) != len(delta.ids) or (self.has_top and not all(each.top or each.packed for each in found)):
            raise GenerationFailed("the backend left out log probabilities that the request asks for")

        for at, (num_late_chars, piece) in enumerate(places):
            entry = self._entry(delta.ids[at], found[at])
            token = (self._num_chars + num_late_chars, entry)
            self._held.extend((token,) if self.answer_tokens is None else self.answer_tokens.push(token, piece))
            self._num_chars += len(piece)
        if is_last and self.answer_tokens is not None:
            self._held.extend(self.answer_tokens.flush())
        self._num_shown_chars += num_shown_chars
        while self._held and (is_whole or self._held[0][0] < self._num_shown_chars):
            self._shown.append(self._held.popleft())

    def push_end(self, delta: Delta) -> None:
        """The id that ended the text has its entry behind all of it."""
        self._shown.append((self._num_shown_chars, self._entry(delta.ids[-1], delta.extras.logprobs[-1])))

    def put_first(self, prompt: Prompt, found: Sequence[TokenLogprobs]) -> None:
        """The prompt's tokens go out before the first of the answer; `found` is of all of them but the first."""
        entries = [self._entry(prompt.ids[0], None)]
        for token_id, each in zip(prompt.ids[1:], found, strict=True):
            entries.append(self._entry(token_id, each, self._num_top))
        self._shown[:0] = zip(prompt.starts, entries, strict=True)

    def take_shown(self) -> list[PlacedToken]:
        """The entries of the text that was shown since this was called last."""
        shown, self._shown = self._shown, []
        return shown

    def _entry(self, token_id: int, found: TokenLogprobs | None, num_top: int | None = None) -> TokenLogprob:
        """None: nothing precedes it. At most `num_top` of those that came with it, if that is a number."""
        text, values = self._tokenizer.spell(token_id)
        if found is None:
            return TokenLogprob(text, None, values, [], self._named(token_id))

        top: list[TopLogprob] | Raw = []
        if found.packed and not is_listed(self._num_top):  # it is made where it is written
            top = self._late.put(lambda: self._json_of(token_id, found))
        elif self.has_top:
            top = [self._top_entry(*each) for each in top_of(found, num_top)]
        return TokenLogprob(text, sayable(found.logprob), values, top, self._named(token_id))

    def _json_of(self, token_id: int, found: TokenLogprobs) -> Iterator[bytes]:
        vocabulary = self._tokenizer.vocabulary_json
        if self._scores.by_text:
            return vocabulary.by_text(found.packed, self._num_top, token_id, found.logprob)
        return vocabulary.entries(found.packed, self._num_top)

    def _top_entry(self, token_id: int, logprob: float) -> TopLogprob:
        text, values = self._tokenizer.spell(token_id)
        return TopLogprob(text, sayable(logprob), values, self._named(token_id))

    def _named(self, token_id: int) -> int | UnsetType:
        return token_id if self._scores.names_ids else UNSET


def top_of(found: TokenLogprobs, num_top: int | None) -> list[tuple[int, float]]:
    """The likeliest tokens, or those asked for by name, that came with one: `num_top` of them, or all if that is None.
    Of a whole vocabulary only a number."""
    if not found.packed:
        return found.top[:num_top]

    assert num_top is not None, "a whole vocabulary is no list"
    ids, values = likeliest(found.packed, num_top)
    return list(zip(ids.tolist(), values.tolist(), strict=True))


def chat_logprobs(tokens: Sequence[PlacedToken]) -> ChatLogprobs:
    """As chats have them."""
    return ChatLogprobs([token for _, token in tokens])


def completion_logprobs(tokens: Sequence[PlacedToken]) -> CompletionLogprobs:
    """As plain completions have them: columns."""
    return CompletionLogprobs(
        tokens=[token.token for _, token in tokens],
        token_logprobs=[token.logprob for _, token in tokens],
        top_logprobs=[_top_by_text(token) for _, token in tokens],
        text_offset=[start for start, _ in tokens],
    )


def _top_by_text(token: TokenLogprob) -> dict[str, float] | Raw | None:
    """The likeliest first. Of several ids that read the same the chosen one stands there, or else the likeliest."""
    if token.logprob is None:
        return None
    if isinstance(token.top_logprobs, Raw):
        return token.top_logprobs

    found: dict[str, float] = {}
    for each in token.top_logprobs:
        found.setdefault(each.token, each.logprob)
    found[token.token] = token.logprob
    return found


def sayable(logprob: float) -> float:
    """The same as a number that JSON has."""
    return max(logprob, LEAST_LOGPROB)
