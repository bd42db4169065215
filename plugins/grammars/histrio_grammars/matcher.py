"""Matchers over one model's tokens: llguidance's, with EOS and errors the way the contract wants them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import llguidance
from llguidance.numpy import fill_next_token_bitmask_par, fill_next_token_bitmask_par_with_draft_tokens

from histrio.grammar import GrammarSpec, MaskRequest, Masks, VocabularySpec
from histrio_grammars.backend import to_llguidance
from histrio_grammars.refusals import refusal

__all__ = ["LlguidanceMatcher", "LlguidanceVocabulary"]

_MAX_THREADS = 4
_TOO_COMPLEX = "the grammar became too complex in the middle of the answer"
_FORBIDDEN = "a token came that the grammar forbids, or that it became too complex to follow"


def _limits() -> llguidance.LLParserLimits:
    """Work per mask is bounded; a row may hold all alternatives of the largest schema that is taken."""
    return llguidance.LLParserLimits(max_items_in_row=20_000, step_max_items=100_000, verbose_errors=False)


class LlguidanceMatcher:
    """One sequence in its grammar. EOS ids are counted here, since llguidance forgets where the text ended."""

    def __init__(self, inner: llguidance.LLMatcher, eos_ids: Sequence[int]) -> None:
        self.inner = inner
        self._eos_ids = frozenset(eos_ids)
        self._num_ended = 0
        self._has_strayed = False

    @property
    def is_finished(self) -> bool:
        """Whether an EOS id came."""
        return self._num_ended > 0

    @property
    def error(self) -> str:
        """Why nothing more can be said."""
        if self._has_strayed:
            return _FORBIDDEN
        return _TOO_COMPLEX if self.inner.is_error() else ""

    def advance(self, ids: Sequence[int]) -> bool:
        """Follow the tokens; EOS only where the grammar may end, and nothing after it."""
        for token in ids:
            if self.is_finished or self.error or not self._take(token):
                self._has_strayed = True
                return False
        return True

    def rollback(self, num_tokens: int) -> None:
        """Undo the last tokens, EOS first."""
        ended = min(num_tokens, self._num_ended)
        self._num_ended -= ended
        if num_tokens > ended:
            self.inner.rollback(num_tokens - ended)

    def forced(self, max_tokens: int) -> list[int]:
        """Walk on as long as the mask has a single bit, then walk back."""
        found: list[int] = []
        while len(found) < max_tokens and self._may_be_forced:
            mask = int.from_bytes(self.inner.compute_bitmask(), "little")
            if mask.bit_count() != 1:
                break
            found.append(mask.bit_length() - 1)
            self._take(found[-1])
        self.rollback(len(found))
        return found

    @property
    def _may_be_forced(self) -> bool:
        """False where a mask is not worth its time: several bytes may come next, or the text is empty so far."""
        if self.is_finished or self.error:
            return False
        return self.inner.is_stopped() or bool(self.inner.compute_ff_bytes())

    def _take(self, token: int) -> bool:
        if token not in self._eos_ids:
            return self.inner.consume_token(token)

        self._num_ended = int(self.inner.is_accepting())
        return self.is_finished


class LlguidanceVocabulary:
    """All matchers over one tokenizer. Raises ValueError for one that cannot be read."""

    def __init__(self, tokenizer_json: str, spec: VocabularySpec) -> None:
        self._spec = spec
        self._tokens = llguidance.LLTokenizer(
            tokenizer_json, n_vocab=spec.vocab_size, eos_token=list(spec.eos_ids), slices=None
        )
        self._executor = llguidance.LLExecutor(max(1, min(_MAX_THREADS, (os.cpu_count() or 1) // 4)))

    def matcher(self, spec: GrammarSpec) -> LlguidanceMatcher:
        """Compile. Raises `RequestError` with the place in the grammar."""
        inner = llguidance.LLMatcher(self._tokens, to_llguidance(spec), log_level=0, limits=_limits())
        if inner.is_error():
            raise refusal(spec, inner.get_error())
        return LlguidanceMatcher(inner, self._spec.eos_ids)

    def fill(self, requests: Sequence[MaskRequest], masks: Masks) -> None:
        """All masks in one call, on several threads where there are cores for it."""
        plain: list[tuple[llguidance.LLMatcher, int]] = []
        drafted: list[tuple[llguidance.LLMatcher, int, list[int]]] = []
        for request in requests:
            matcher = request.matcher
            assert isinstance(matcher, LlguidanceMatcher), "a matcher of another vocabulary"
            if request.drafts:
                drafted.append((matcher.inner, request.first_row, list(request.drafts)))
            else:
                plain.append((matcher.inner, request.first_row))
        if plain:
            fill_next_token_bitmask_par(self._executor, plain, masks)
        if drafted:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, drafted, masks)
