"""Checking grammars in the front: compiled for trial in a process beside it, which is ended when it takes too long.

Compiling is work that a client writes, and a short schema can keep a compiler busy for minutes. So it never runs on the
front's loop, nor in a thread, which nothing could stop.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

import anyio
import numpy as np
from anyio import to_process

from histrio.errors import Overloaded, RequestError
from histrio.grammar import (
    GrammarBackend,
    GrammarKinds,
    GrammarSpec,
    MaskRequest,
    Vocabulary,
    VocabularySpec,
    num_mask_words,
)

__all__ = ["GrammarChecker", "try_grammar"]

MAX_TRIAL_S = 10.0
"""Longest trial; the first of a process includes starting it and reading the tokenizer."""
MAX_COMPILE_S = 1.0
"""Most processor time that compiling may take: on the last stage, those whose step it is would wait as long."""
MAX_TRIAL_PROCESSES = 2
MAX_TRIAL_QUEUE = 32
"""Most trials that run or wait; further ones get 429."""
MAX_REMEMBERED = 1024
"""Accepted grammars that are not tried again."""

_vocabularies: dict[tuple[str, VocabularySpec], Vocabulary] = {}


class _Refusal(NamedTuple):
    """What a `RequestError` says, in a form that crosses processes."""

    text: str
    param: str | None
    code: str


class GrammarChecker:
    """Says of a grammar whether the last stage will be able to enforce it."""

    def __init__(self, kinds: GrammarKinds, vocabulary: VocabularySpec, max_trial_s: float = MAX_TRIAL_S) -> None:
        self._kinds = kinds
        self._vocabulary = vocabulary
        self._max_trial_s = max_trial_s
        self._accepted: OrderedDict[GrammarSpec, None] = OrderedDict()
        self._num_trials = 0
        self._processes: anyio.CapacityLimiter | None = None

    async def check(self, spec: GrammarSpec) -> None:
        """Raise `RequestError` that names the place in the grammar, or `Overloaded`."""
        if spec in self._accepted:
            self._accepted.move_to_end(spec)
            return

        backend = self._kinds.backend(spec)
        backend.check(spec)
        if self._num_trials >= MAX_TRIAL_QUEUE:
            raise Overloaded("too many grammars are waiting to be checked; try again soon")

        self._num_trials += 1
        try:
            await self._try(backend, spec)
        finally:
            self._num_trials -= 1
        self._accepted[spec] = None
        if len(self._accepted) > MAX_REMEMBERED:
            self._accepted.popitem(last=False)

    async def _try(self, backend: GrammarBackend, spec: GrammarSpec) -> None:
        if self._processes is None:
            self._processes = anyio.CapacityLimiter(MAX_TRIAL_PROCESSES)
        async with self._processes:
            with anyio.move_on_after(self._max_trial_s) as scope:
                refusal = await to_process.run_sync(_trial, backend, spec, self._vocabulary, cancellable=True)
        if scope.cancelled_caught:
            raise RequestError(f"the grammar takes more than {self._max_trial_s:g} s to compile; make it simpler")
        if refusal is not None:
            raise RequestError(refusal.text, param=refusal.param, code=refusal.code)


def try_grammar(vocabulary: Vocabulary, spec: GrammarSpec, vocab_size: int) -> None:
    """Compile it, and compute its first mask, as the last stage will. Raises `RequestError`."""
    matcher = vocabulary.matcher(spec)
    masks = np.zeros((1, num_mask_words(vocab_size)), np.int32)
    vocabulary.fill([MaskRequest(matcher, 0)], masks)
    if matcher.error:
        raise RequestError("the grammar is too complex, or refers to itself without end")
    if not masks.any():
        raise RequestError("no text fits this grammar")


def _trial(backend: GrammarBackend, spec: GrammarSpec, vocabulary: VocabularySpec) -> _Refusal | None:
    """In the other process. Errors that are not the request's are raised in the front."""
    key = backend.name, vocabulary
    if key not in _vocabularies:
        _vocabularies[key] = backend.open(vocabulary)
    began_s = time.process_time()
    try:
        try_grammar(_vocabularies[key], spec, vocabulary.vocab_size)
    except RequestError as error:
        return _Refusal(str(error), error.param, error.code)
    if time.process_time() - began_s > MAX_COMPILE_S:
        return _Refusal("the grammar takes too long to compile; make it simpler", None, RequestError.code)
    return None
