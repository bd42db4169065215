"""The grammars of one last stage: a matcher per slot, and the masks of a step, computed while the model computes.

    masks = table.begin(rows)              before the forward pass, starts a thread's work
    logits = …                             the forward pass
    logits = masks.apply(xp, logits)       after it, before any sampler
    table.follow(slot, ids, most)          once it is known which tokens came; which ones must come next

Masks depend on tokens only, never on logits: that is why they can be computed beside the forward pass.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.contracts.grammar import (
    GrammarKinds,
    MaskRequest,
    Masks,
    Matcher,
    Vocabulary,
    VocabularySpec,
    num_mask_words,
)
from histrio.errors import HistrioError
from histrio.messages import GrammarSpec
from histrio.stage.sampling.grammar_compiler import Compiled, GrammarCompiler
from histrio.system.flight_record import Code

__all__ = ["BROKEN_GRAMMAR", "GrammarTable", "StepMasks", "apply_masks"]

log = logging.getLogger(__name__)

BROKEN_GRAMMAR = "a grammar failed at this request"
"""Why a sequence cannot go on whose grammar raised what it must not."""
_FAULTS = (Exception, SystemExit)
_EVERYTHING = -1
"""A word of a mask that lets all tokens through."""


class _Constrained(NamedTuple):
    """A constrained sequence of a step: its matcher, on its way, and its rows of the logits."""

    slot: int
    compiled: Future[Compiled]
    row: int
    drafts: Sequence[int]

    @property
    def num_rows(self) -> int:
        return 1 + len(self.drafts)


@dataclass(frozen=True, slots=True)
class _Masked:
    rows: npt.NDArray[np.intp]
    """Which rows of the logits the masks are for."""
    masks: Masks


class StepMasks:
    """The masks of one step, on their way."""

    def __init__(self, future: Future[_Masked]) -> None:
        self._future = future

    def apply(self, xp: ArrayNamespace, logits: Array) -> Array:
        """Wait for the masks; `logits` [rows, vocab] with -inf where a grammar forbids the token. Changes no input."""
        masked = self._future.result()
        return apply_masks(xp, logits, masked.rows, masked.masks)


class GrammarTable:
    """Slots and their matchers. Calls come from one thread; another computes masks, a third compiles."""

    def __init__(self, kinds: GrammarKinds, vocabulary: VocabularySpec) -> None:
        self._spec = vocabulary
        self._compiler = GrammarCompiler(kinds, vocabulary)
        self._eos_ids = frozenset(vocabulary.eos_ids)
        self._opened: dict[int, Future[Compiled]] = {}
        self._ready: dict[int, tuple[str, Matcher | None]] = {}
        """Slot → why its grammar cannot be enforced, or its matcher: of those whose future was asked."""
        self._broken: set[int] = set()
        """Slots whose masks could not be computed; the table's thread writes it while no other reads it."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar-masks")

    def idle(self) -> None:
        """Nothing is to be done: read the vocabularies, unless that has begun. Does not wait."""
        self._compiler.open_all()

    def prepare(self, request: int, grammar: GrammarSpec, output_ids: Sequence[int], done: Callable[[], None]) -> None:
        """Compile it beside the steps that come; `done` is called by another thread. Does not wait."""
        self._compiler.prepare(request, grammar, output_ids, done)

    def forget_prepared(self) -> None:
        """Drop the prepared grammars: their requests will not come."""
        self._compiler.forget()

    def open(self, slot: int, grammar: GrammarSpec, output_ids: Sequence[int] = (), *, request: int = 0) -> None:
        """A sequence with a grammar takes the slot; `output_ids` were delivered before. Does not wait.

        Steps wait for a grammar that was not prepared for this `request`.
        """
        self._ready.pop(slot, None)
        self._broken.discard(slot)
        self._opened[slot] = self._compiler.take(request, grammar, output_ids)

    def close(self, slot: int) -> None:
        """The slot is free. Closing one without a grammar does nothing."""
        self._opened.pop(slot, None)
        self._ready.pop(slot, None)

    @property
    def is_empty(self) -> bool:
        """Whether no sequence has a grammar."""
        return not self._opened

    def has_grammar(self, slot: int) -> bool:
        """Whether the sequence in this slot is constrained."""
        return slot in self._opened

    def begin(self, sampled: Sequence[tuple[int, Sequence[int]]]) -> StepMasks | None:
        """Start to compute the masks of a step; None where no sequence has a grammar.

        `sampled` lists slot and draft ids of every sequence that samples in this step, in the order of the step's rows;
        each has 1 + drafts rows of logits.
        """
        constrained: list[_Constrained] = []
        row = 0
        for slot, drafts in sampled:
            if slot in self._opened:
                constrained.append(_Constrained(slot, self._opened[slot], row, drafts))
            row += 1 + len(drafts)
        return StepMasks(self._thread.submit(self._fill, constrained)) if constrained else None

    def follow(self, slot: int, ids: Sequence[int], most_forced: int = 0) -> list[int]:
        """These tokens came, those the drafts were right about included. Without a grammar it does nothing.

        What was drawn behind an EOS in the same step belongs to no text, and is passed over. Returns up to
        `most_forced` tokens that come next in any case, because the grammar leaves one each time; it has followed them.
        """
        try:
            return self._follow(slot, ids, most_forced)
        except _FAULTS:
            self._break(slot)
            return []

    def _follow(self, slot: int, ids: Sequence[int], most_forced: int) -> list[int]:
        matcher = self._asked(slot)[1] if slot in self._opened else None
        if matcher is None or matcher.error:
            return []

        if len(ids) > 1 and not self._eos_ids.isdisjoint(ids):
            ids = ids[: next(at for at, token in enumerate(ids, 1) if token in self._eos_ids)]
        with _code(type(matcher), is_beside=False):
            if not matcher.advance(ids) or most_forced < 1:
                return []

            forced = matcher.forced(most_forced)
            if forced:
                matcher.advance(forced)
            return forced

    def failure(self, slot: int) -> str:
        """Why this slot's grammar can no longer be enforced, safe to show; empty as long as it can.

        Such a row may only end, and what it said must not be passed off as a whole answer.
        """
        if slot not in self._opened:
            return ""

        reason, matcher = self._asked(slot)
        try:
            return reason if matcher is None else matcher.error
        except _FAULTS:
            self._break(slot)
            return BROKEN_GRAMMAR

    def _break(self, slot: int) -> None:
        """Called where a grammar has raised: its sequence ends, and no other. A lack of memory is raised again: it is
        not the grammar's alone."""
        if isinstance(sys.exception(), MemoryError):
            raise
        log.exception("a grammar failed, and its request ends alone")
        self._ready[slot] = BROKEN_GRAMMAR, None

    def shutdown(self) -> None:
        """End the thread. Safe to call twice."""
        self._opened.clear()
        self._compiler.shutdown()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _asked(self, slot: int) -> tuple[str, Matcher | None]:
        """Waits for the compiler the first time; a future takes two locks, and every row is asked in every step."""
        if slot not in self._ready:
            future = self._opened[slot]
            if (error := future.exception()) is None:
                self._ready[slot] = "", future.result().matcher
            else:
                if isinstance(error, MemoryError):
                    raise error
                known = isinstance(error, HistrioError)
                if not known:
                    log.error("a grammar failed while it was compiled, and its request ends alone", exc_info=error)
                self._ready[slot] = str(error) if known else BROKEN_GRAMMAR, None
        if slot in self._broken:
            self._broken.discard(slot)
            self._ready[slot] = BROKEN_GRAMMAR, None
        return self._ready[slot]

    def _fill(self, constrained: list[_Constrained]) -> _Masked:
        num_rows = sum(each.num_rows for each in constrained)
        masks = np.full((num_rows, num_mask_words(self._spec.vocab_size)), _EVERYTHING, np.int32)
        requests: dict[Vocabulary, list[tuple[int, MaskRequest]]] = {}
        at = 0
        for each in constrained:
            if each.compiled.exception() is not None:
                masks[at : at + each.num_rows] = self._only_eos()
            else:
                vocabulary, matcher = each.compiled.result()
                requests.setdefault(vocabulary, []).append((each.slot, MaskRequest(matcher, at, each.drafts)))
            at += each.num_rows
        for vocabulary, group in requests.items():
            self._fill_group(vocabulary, group, masks)
        return _Masked(np.concatenate([np.arange(each.row, each.row + each.num_rows) for each in constrained]), masks)

    def _fill_group(self, vocabulary: Vocabulary, group: list[tuple[int, MaskRequest]], masks: Masks) -> None:
        """All side by side; where that fails, one after the other, to find out at which."""
        code = _code(type(vocabulary), is_beside=True)
        try:
            with code:
                vocabulary.fill([request for _slot, request in group], masks)
            return
        except MemoryError:
            raise
        except _FAULTS:
            log.exception("a grammar failed while masks were computed")
        for slot, request in group:
            try:
                with code:
                    vocabulary.fill([request], masks)
            except _FAULTS:
                self._broken.add(slot)

    def _only_eos(self) -> Masks:
        allowed = np.zeros(num_mask_words(self._spec.vocab_size) * 32, np.uint8)
        allowed[[each for each in self._spec.eos_ids if each < self._spec.vocab_size]] = 1
        return np.packbits(allowed, bitorder="little").view(np.int32)


@cache
def _code(kind: type, *, is_beside: bool) -> Code:
    """The code of a grammar backend, told by one of its classes."""
    return Code(f"grammar ({kind.__module__})", is_beside=is_beside)


def apply_masks(xp: ArrayNamespace, logits: Array, rows: npt.NDArray[np.intp], masks: Masks) -> Array:
    """`logits` [rows, vocab] with -inf where the mask of a row forbids the token; unlisted rows as they are."""
    num_rows, width = logits.shape
    allowed = np.unpackbits(masks.view(np.uint8), axis=1, count=width, bitorder="little").view(np.bool_)
    if len(rows) == num_rows:
        return xp.where(xp.asarray(allowed), logits, -np.inf)

    masked = xp.where(xp.asarray(allowed), xp.take_rows(logits, rows), -np.inf)
    return xp.put_rows(xp.take_rows(logits, np.arange(num_rows)), rows, masked)
