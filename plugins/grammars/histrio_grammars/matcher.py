"""Matchers over one model's tokens: llguidance's, with EOS and errors the way the contract wants them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import lru_cache

import llguidance
import numpy as np
from llguidance.numpy import fill_next_token_bitmask_par, fill_next_token_bitmask_par_with_draft_tokens

from histrio.contracts.grammar import MaskRequest, Masks, VocabularySpec, num_mask_words
from histrio.messages import GrammarSpec
from histrio_grammars.refusals import refusal
from histrio_grammars.tokens import own_tokens
from histrio_grammars.translate import to_llguidance
from histrio_grammars.trimmed import read_tokenizer

__all__ = ["LlguidanceMatcher", "LlguidanceVocabulary"]

_MAX_THREADS = 4
_MAX_MASK_S = 0.1
"""Most processor time of one mask. A usual one takes less than a thousandth of it, and all rows of the step wait."""
_NUM_WATCHED = 32
"""Steps whose masks are timed one by one after a slow one."""
_NUM_KEPT_GRAMMARS = 64
_TOO_COMPLEX = "the grammar became too complex in the middle of the answer"
_FORBIDDEN = "a token came that the grammar forbids, or that it became too complex to follow"


def _limits(kind: str) -> llguidance.LLParserLimits:
    """Items of the parser that one place in the text may have, and one mask: their square is the work.

    A schema or choice may have thousands of alternatives side by side. Rules that a client writes may be ambiguous.
    """
    if kind in ("lark", "gbnf"):
        return llguidance.LLParserLimits(max_items_in_row=2_000, step_max_items=50_000, verbose_errors=False)
    return llguidance.LLParserLimits(max_items_in_row=20_000, step_max_items=100_000, verbose_errors=False)


class LlguidanceMatcher:
    """One sequence in its grammar. EOS ids are counted here, since llguidance forgets where the text ended."""

    def __init__(self, inner: llguidance.LLMatcher, eos_ids: Sequence[int]) -> None:
        self.inner = inner
        self._eos_ids = frozenset(eos_ids)
        self._num_ended = 0
        self._has_strayed = False
        self._is_too_slow = False

    @property
    def is_finished(self) -> bool:
        """Whether an EOS id came."""
        return self._num_ended > 0

    @property
    def error(self) -> str:
        """Why nothing more can be said."""
        if self._has_strayed:
            return _FORBIDDEN
        return _TOO_COMPLEX if self._is_too_slow or self.inner.is_error() else ""

    def advance(self, ids: Sequence[int]) -> bool:
        """Follow the tokens; EOS only where the grammar may end, and nothing after it."""
        end = len(ids) if self._eos_ids.isdisjoint(ids) else _first_of(self._eos_ids, ids)
        if not ids or (not self.error and not self.is_finished and self._follow(ids, end)):
            return True

        self._has_strayed = True
        return False

    def rollback(self, num_tokens: int) -> None:
        """Undo the last tokens, EOS first."""
        ended = min(num_tokens, self._num_ended)
        self._num_ended -= ended
        if num_tokens > ended:
            self.inner.rollback(num_tokens - ended)

    def timed_mask(self) -> bytes:
        """The next mask. One that takes too long is an `error` from then on."""
        began_s = time.thread_time()
        mask = self.inner.compute_bitmask()
        self._is_too_slow |= time.thread_time() - began_s > _MAX_MASK_S
        return mask

    def forced(self, max_tokens: int) -> list[int]:
        """Walk on as long as the mask has a single bit, then walk back."""
        found: list[int] = []
        while len(found) < max_tokens and self._may_be_forced:
            mask = int.from_bytes(self.inner.compute_bitmask(), "little")
            if mask.bit_count() != 1:
                break
            found.append(mask.bit_length() - 1)
            self.advance(found[-1:])
        self.rollback(len(found))
        return found

    @property
    def _may_be_forced(self) -> bool:
        """Whether a single token may follow. False if several bytes may come next, or if the text is empty so far."""
        if self.is_finished or self.error:
            return False
        return self.inner.is_stopped() or bool(self.inner.compute_ff_bytes())

    def _follow(self, ids: Sequence[int], end: int) -> bool:
        """Follow the text up to `end`, and EOS if it stands there."""
        if end and not self.inner.consume_tokens(list(ids[:end])):
            return False
        if end < len(ids):
            self._num_ended = int(self.inner.is_accepting())
        return end == len(ids) or (self.is_finished and end == len(ids) - 1)


class LlguidanceVocabulary:
    """All matchers over one tokenizer. Raises ValueError for one that cannot be read."""

    def __init__(self, tokenizer_json: str, spec: VocabularySpec) -> None:
        file = read_tokenizer(tokenizer_json, spec.vocab_size)
        self._eos_ids = [each for each in spec.eos_ids if each in file.ids]
        if not self._eos_ids:
            raise ValueError("none of its tokens ends a text, as a form has to end")
        self._tokens = llguidance.LLTokenizer(file.text, n_vocab=spec.vocab_size, eos_token=self._eos_ids, slices=None)
        self._own_tokens = own_tokens(file, self._tokens, self._eos_ids)
        self._compiled = lru_cache(_NUM_KEPT_GRAMMARS)(self._compile)
        """Compiled matchers at their beginning, because clients ask for the same few forms again and again."""
        self._num_watched = 0
        allowed = np.zeros(num_mask_words(spec.vocab_size) * 32, np.uint8)
        allowed[self._eos_ids] = 1
        self._only_eos: Masks = np.packbits(allowed, bitorder="little").view(np.int32)
        self._executor = llguidance.LLExecutor(max(1, min(_MAX_THREADS, (os.cpu_count() or 1) // 4)))

    def matcher(self, spec: GrammarSpec) -> LlguidanceMatcher:
        """Compile. Raises `RequestError` with the place in the grammar."""
        return LlguidanceMatcher(self._compiled(spec).deep_copy(), self._eos_ids)

    def _compile(self, spec: GrammarSpec) -> llguidance.LLMatcher:
        grammar = to_llguidance(spec, self._own_tokens)
        inner = llguidance.LLMatcher(self._tokens, grammar, log_level=0, limits=_limits(spec.kind))
        if inner.is_error():
            raise refusal(spec, inner.get_error())
        return inner

    def fill(self, requests: Sequence[MaskRequest], masks: Masks) -> None:
        """All masks in one call, on several threads where there are cores for it; one by one if a grammar is slow."""
        if len(requests) > 1 and not self._num_watched:
            began_s = time.perf_counter()
            self._fill_together(requests, masks)
            # Long for a busy machine, or for a grammar that makes all others wait: it is found in the steps to come.
            self._num_watched = _NUM_WATCHED if time.perf_counter() - began_s > _MAX_MASK_S else 0
            return

        self._num_watched = max(self._num_watched - 1, 0)
        for request in requests:
            self._fill_timed(request, masks)

    def _fill_together(self, requests: Sequence[MaskRequest], masks: Masks) -> None:
        matchers = [_ours(request) for request in requests]
        plain = [(ours.inner, each.first_row) for ours, each in zip(matchers, requests, strict=True) if not each.drafts]
        if plain:
            fill_next_token_bitmask_par(self._executor, plain, masks)
        drafted = [
            (ours.inner, each.first_row, list(each.drafts))
            for ours, each in zip(matchers, requests, strict=True)
            if each.drafts
        ]
        if drafted:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, drafted, masks)

    def _fill_timed(self, request: MaskRequest, masks: Masks) -> None:
        matcher = _ours(request)
        mask = np.frombuffer(matcher.timed_mask(), np.int32)
        if matcher.error:
            masks[request.first_row : request.first_row + request.num_rows] = self._only_eos
        elif request.drafts:
            self._fill_together([request], masks)
        else:
            masks[request.first_row] = mask[: masks.shape[1]]


def _first_of(sought: frozenset[int], ids: Sequence[int]) -> int:
    return next(at for at, token in enumerate(ids) if token in sought)


def _ours(request: MaskRequest) -> LlguidanceMatcher:
    matcher = request.matcher
    assert isinstance(matcher, LlguidanceMatcher), "a matcher of another vocabulary"
    return matcher
