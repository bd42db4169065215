"""What the last stage does besides computing: grammars, samplers, the draw, vectors, and what comes of each sequence.

last_stage.begin(step)          before the forward pass; masks are computed beside it
last_stage.draw(...)            after it

Where a grammar leaves a single token, the sequence gains it with the one drawn before it, and so do those that follow
as long as each is the only one. The next step computes them side by side, as it does with a prompt. Draws are counted
by position, so those that are skipped change none that come later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from histrio.contracts.backend import ArrayNamespace, StageOutput
from histrio.errors import GenerationStuck, PluginFailed
from histrio.messages import Extras, Open, Prepare, Row, Step, StepResult, TokenLogprobs
from histrio.stage.sampling.grammar_table import BROKEN_GRAMMAR, GrammarTable, StepMasks
from histrio.stage.sampling.pooler import NOT_NUMBERS as _NOT_NUMBERS
from histrio.stage.sampling.pooler import Pooler
from histrio.stage.sampling.prompt_scores import PromptScorer
from histrio.stage.sampling.sampler_chain import NOT_NUMBERS, Sampled, SamplerChain

__all__ = ["MAX_FORCED_TOKENS", "NOTHING_LEFT", "LastStage"]

log = logging.getLogger(__name__)

MAX_FORCED_TOKENS = 16
"""Most tokens that one sequence gains in a step without a draw."""
NOTHING_LEFT = "the request's fields leave no token to go on with"
_BROKEN_SAMPLER = "a sampler failed at this request"


class LastStage:
    """One sampler chain and, where grammars are registered, one grammar table."""

    def __init__(self, chain: SamplerChain, grammars: GrammarTable | None = None) -> None:
        self._chain = chain
        self._grammars = grammars
        self._masks: StepMasks | None = None
        self._scorer = PromptScorer()
        self._pooler = Pooler()
        self._unopened: set[int] = set()
        """Slots of sequences whose samplers or grammar could not be opened; they end with their first token."""

    def idle(self) -> None:
        """Read the vocabularies of grammars while no step waits."""
        if self._grammars is not None:
            self._grammars.idle()

    def prepare(self, command: Prepare, done: Callable[[], None]) -> None:
        """A request with a grammar is about to take a slot; `done` is called, on another thread, when it may."""
        assert self._grammars is not None, "the front takes no grammars where nothing enforces them"
        self._grammars.prepare(command.request, command.grammar, command.output_ids, done)

    def forget_prepared(self) -> None:
        """No request that was prepared will come."""
        if self._grammars is not None:
            self._grammars.forget_prepared()

    def open(self, command: Open) -> None:
        """A sequence takes a slot. If a plugin fails at it, it ends alone, because no other's state is touched."""
        self._unopened.discard(command.slot)
        self._scorer.open(command)
        self._pooler.open(command)
        if command.ask.pooling is not None:
            return  # nothing will be drawn

        try:
            self._open(command)
        except MemoryError:
            raise
        except (Exception, SystemExit):
            log.exception("a request cannot be opened, and ends alone")
            self._unopened.add(command.slot)
            self._chain.open_bare(command.slot)
            if self._grammars is not None:
                self._grammars.close(command.slot)

    def _open(self, command: Open) -> None:
        self._chain.open(command)
        if self._grammars is not None:
            # If batching's process died, it never sent `Close`; the slot may still hold a grammar of the old epoch.
            # Drop it.
            self._grammars.close(command.slot)
        if command.ask.grammar is not None:
            assert self._grammars is not None, "the front takes no grammars where nothing enforces them"
            output_ids = command.ids[command.num_prompt_tokens :]
            self._grammars.open(command.slot, command.ask.grammar, output_ids, request=command.request)

    def close(self, slot: int) -> None:
        """The slot is free."""
        self._unopened.discard(slot)
        self._scorer.close(slot)
        self._pooler.close(slot)
        self._chain.close(slot)
        if self._grammars is not None:
            self._grammars.close(slot)

    def shutdown(self) -> None:
        """End the grammars' thread. Safe to call twice."""
        if self._grammars is not None:
            self._grammars.shutdown()

    def begin(self, step: Step) -> None:
        """Start on the masks of the step."""
        self._masks = None
        if self._grammars is not None and not self._grammars.is_empty:
            sampled = [(row.slot, drafts) for row, drafts in _with_drafts(step) if row.num_sampled]
            self._masks = self._grammars.begin(sampled)

    def draw(self, xp: ArrayNamespace, output: StageOutput, step: Step) -> StepResult:
        """The step's result, its time aside. The token drawn from position p becomes token p + 1."""
        rows = [row for row in step.rows if row.num_sampled]
        logits, extras = self._scorer.split(xp, output.logits, step.rows)
        extras |= self._pooler.pool(xp, output.states, step.rows)
        if logits is None or not rows:
            return StepResult(step.step, step.epoch, [], extras=extras)

        counts = np.array([row.num_sampled for row in rows], np.intp)
        slots = np.repeat(np.array([row.slot for row in rows], np.intp), counts)
        # A row's last token is drawn at its end, the others before it.
        ends = np.array([row.start + row.num_tokens for row in rows], np.intp)
        positions = np.repeat(ends + 1 - counts.cumsum(), counts) + np.arange(len(slots))
        drafts = {row.slot: drafted for row, drafted in _with_drafts(step) if drafted} if step.drafts else {}
        masked = logits if self._masks is None else self._masks.apply(xp, logits)
        sampled = self._chain.sample(xp, masked, slots, positions, drafts, step.draft_probs, raw=logits)
        return self._result(step, rows, sampled, extras)

    def _result(self, step: Step, rows: list[Row], sampled: Sampled, extras: dict[int, Extras]) -> StepResult:
        """`extras` are those of the prompts, and vectors; what comes with the drawn tokens is added to them."""
        forced: dict[int, list[int]] = {}
        grammars = self._grammars if self._grammars is not None and not self._grammars.is_empty else None
        states = self._chain.take_states()
        # Rows without a grammar have nothing to be looked at, and most steps have no others.
        is_odd = grammars or self._unopened or sampled.logprobs or states or min(sampled.ids) < 0
        for index, (row, ids, logprobs) in enumerate(_gained(rows, sampled) if is_odd else ()):
            reason, code = self._fault(row.slot, ids[-1])
            if not reason and grammars is not None and grammars.has_grammar(row.slot):
                # Behind a draft that was wrong the slot first has to be rewound.
                can_jump = len(ids) == row.num_sampled and self._chain.can_skip_draws(row.slot)
                if more := grammars.follow(row.slot, ids, MAX_FORCED_TOKENS if can_jump else 0):
                    self._chain.observe_forced(row.slot, more)
                    forced[index] = more
                if reason := grammars.failure(row.slot):
                    code = PluginFailed.code if reason == BROKEN_GRAMMAR else GenerationStuck.code
            if reason or logprobs or row.slot in states:
                found = Extras(reason, code, logprobs, sampler_state=states.get(row.slot, {}))
                extras[row.slot] = Extras.joined([extras[row.slot], found]) if row.slot in extras else found
        ids, num_ids = _with_forced(sampled, len(rows), forced) if forced else (sampled.ids, sampled.num_ids)
        return StepResult(step.step, step.epoch, ids, num_ids=num_ids, extras=extras)

    def _fault(self, slot: int, last_id: int) -> tuple[str, str]:
        """Why a sequence cannot go on, and the code of the error; empty if it can."""
        if slot in self._unopened:
            return _BROKEN_SAMPLER, PluginFailed.code
        if last_id == NOT_NUMBERS:
            return _NOT_NUMBERS, PluginFailed.code
        return (NOTHING_LEFT, GenerationStuck.code) if last_id < 0 else ("", "")


def _with_drafts(step: Step) -> Iterator[tuple[Row, Sequence[int]]]:
    """Every row and its drafted tokens."""
    at = 0
    for row in step.rows:
        num_drafts = max(row.num_sampled - 1, 0) if step.drafts else 0
        yield row, step.drafts[at : at + num_drafts]
        at += num_drafts


def _gained(rows: list[Row], sampled: Sampled) -> Iterator[tuple[Row, list[int], list[TokenLogprobs]]]:
    """Every row with its tokens and their log probabilities, as far as these were asked for."""
    at = 0
    for index, row in enumerate(rows):
        end = at + (sampled.num_ids[index] if sampled.num_ids else 1)
        positions = range(at, end) if sampled.logprobs else ()
        logprobs = [sampled.logprobs[each] for each in positions if each in sampled.logprobs]
        yield row, sampled.ids[at:end], logprobs
        at = end


def _with_forced(sampled: Sampled, num_rows: int, forced: Mapping[int, Sequence[int]]) -> tuple[list[int], list[int]]:
    """`ids` and `num_ids` with the forced tokens of some rows behind those drawn there."""
    ids: list[int] = []
    num_ids: list[int] = []
    at = 0
    for index, count in enumerate(sampled.num_ids or [1] * num_rows):
        more = forced.get(index, ())
        ids += [*sampled.ids[at : at + count], *more]
        num_ids.append(count + len(more))
        at += count
    return ids, num_ids
