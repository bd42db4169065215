"""Log probabilities of prompts: what a request asks for, and what an answer says of them.

They come with the first tokens of a prompt's first choice and belong to all of its choices: the others hold their text
back until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import anyio
import msgspec
from msgspec import UNSET, UnsetType

from histrio.contracts.gateway import Delta
from histrio.messages import TokenLogprobs
from histrio_api.answer.late_parts import LateParts
from histrio_api.answer.logprobs import sayable, top_of
from histrio_api.errors import GenerationFailed
from histrio_api.request.prompts import Prompt
from histrio_api.request.scores import is_listed
from histrio_api.schemas.logprobs import PromptLogprob, PromptLogprobs
from histrio_api.text.tokenizer import Tokenizer

__all__ = ["PromptScores"]

_PIECE_TOKENS = 256


class PromptScores:
    """The log probabilities of one prompt's tokens, once they are known."""

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt, num_reported: int | None, late: LateParts) -> None:
        """`num_reported` of the likeliest tokens are told beside each; None for no field `prompt_logprobs`."""
        self._num_reported = num_reported
        self._late = late
        self._tokenizer = tokenizer
        self._ids = prompt.ids
        self._are_known = anyio.Event()
        self._found: Sequence[TokenLogprobs] = ()

    def tell(self, delta: Delta) -> None:
        """The first delta of the prompt's first choice. Raises `GenerationFailed` if they are not in it."""
        if len(delta.extras.prompt_logprobs) != len(self._ids) - 1:
            raise GenerationFailed("the backend left out log probabilities of the prompt")

        self._found = delta.extras.prompt_logprobs
        self._are_known.set()

    async def wait(self) -> Sequence[TokenLogprobs]:
        """Those of each token but the first."""
        await self._are_known.wait()
        return self._found

    @property
    def report(self) -> msgspec.Raw | UnsetType:
        """The answer's field `prompt_logprobs`, if the request has one: JSON of `PromptLogprobs`.

        Made piece by piece, since encoding holds the interpreter's lock.
        """
        if self._num_reported is None:
            return UNSET
        if not is_listed(self._num_reported):
            return self._late.put(self._whole_pieces)

        pieces = [b"null"]
        for start in range(0, len(self._found), _PIECE_TOKENS):
            ids = self._ids[start + 1 : start + 1 + _PIECE_TOKENS]
            places: PromptLogprobs = [*map(self._place, ids, self._found[start : start + _PIECE_TOKENS])]
            pieces.append(msgspec.json.encode(places)[1:-1])
        return msgspec.Raw(b"[" + b",".join(pieces) + b"]")

    def _whole_pieces(self) -> Iterator[bytes]:
        assert self._num_reported is not None, "only a report is written"
        vocabulary = self._tokenizer.vocabulary_json
        yield b"[null"
        for token_id, found in zip(self._ids[1:], self._found, strict=True):
            yield b","
            yield from vocabulary.by_id(found.packed, self._num_reported, token_id, found.rank)
        yield b"]"

    def _place(self, token_id: int, found: TokenLogprobs) -> dict[str, PromptLogprob]:
        top = top_of(found, self._num_reported)
        ranked = {token_id: (found.logprob, found.rank)}
        ranked |= {each: (value, rank) for rank, (each, value) in enumerate(top, start=1)}
        return {
            str(each): PromptLogprob(sayable(value), rank, self._tokenizer.spell(each)[0])
            for each, (value, rank) in ranked.items()
        }
