"""How likely the tokens of a prompt were, for requests that ask.

The logits of position p tell of the token at p + 1. Rows that are scored have such positions before the sampled ones;
they are taken out here, so that grammars and samplers see nothing but what is drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from histrio.contracts.backend import Array, ArrayNamespace
from histrio.errors import BackendError
from histrio.messages import Extras, Open, Row, TokenLogprobs
from histrio.stage.sampling.logprobs import token_logprobs

__all__ = ["PromptScorer", "Scores"]

Scores = dict[int, Extras]
"""Slot → `prompt_logprobs`: one for each scored position of a step, of the token that follows it."""


class PromptScorer:
    """Keeps the prompts of slots until they are scored."""

    def __init__(self) -> None:
        self._asked: dict[int, Open] = {}

    def open(self, command: Open) -> None:
        """A sequence takes a slot."""
        self.close(command.slot)
        if command.num_prompt_logprobs is not None:
            self._asked[command.slot] = command

    def close(self, slot: int) -> None:
        """The slot is free. Closing a free slot does nothing."""
        self._asked.pop(slot, None)

    def split(self, xp: ArrayNamespace, logits: Array | None, rows: Sequence[Row]) -> tuple[Array | None, Scores]:
        """Of a step's logits [scored and sampled positions, vocab]: those of the sampled positions, None without any,
        and the scores. Raises `BackendError` if scored logits are not numbers."""
        if logits is None or not self._asked:
            return logits, {}

        scores: Scores = {}
        sampled: list[int] = []
        at = 0
        for row in rows:
            first, at = at, at + row.num_scored + row.num_sampled
            sampled.extend(range(first + row.num_scored, at))
            if row.num_scored:
                scores[row.slot] = Extras(prompt_logprobs=self._score(xp, logits[first : first + row.num_scored], row))
            if row.num_sampled:
                self.close(row.slot)  # the prompt is through
        if not scores:
            return logits, scores

        return xp.take_rows(logits, np.array(sampled, np.intp)) if sampled else None, scores

    def _score(self, xp: ArrayNamespace, logits: Array, row: Row) -> list[TokenLogprobs]:
        command = self._asked[row.slot]
        assert command.num_prompt_logprobs is not None, "only those are kept that ask"
        end = row.start + row.num_tokens - row.num_sampled + 1
        ids = command.ids[end - row.num_scored : end]
        found = token_logprobs(xp, logits, ids, [command.num_prompt_logprobs] * len(ids), with_ranks=True)
        if any(math.isnan(each.logprob) for each in found):
            raise BackendError("the model's logits are not numbers: the prompt has no log probabilities")
        return found
