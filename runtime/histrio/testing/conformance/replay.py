"""Undisturbed runs, and feeding their tokens again in other ways.

A trace is what the whole model says to one prompt alone. Replaying it feeds the trace's own tokens, whatever the logits
say, so that one difference does not make everything after it different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histrio.testing.chain import ChainRow, Logits, StageChain

__all__ = ["Replay", "Trace", "feed", "make_trace", "play", "replay"]


@dataclass(frozen=True, slots=True)
class Trace:
    """A prompt and its greedy continuation."""

    prompt: list[int]
    tokens: list[int]
    logits: Logits
    """[tokens, vocab] of which each token is the largest."""

    @property
    def ids(self) -> list[int]:
        """Prompt and tokens."""
        return self.prompt + self.tokens


class Replay:
    """A trace on its way through a slot, in chunks of at most `chunk` prompt tokens, from token `num_fed` on."""

    def __init__(self, trace: Trace, slot: int, chunk: int = 10**6, num_fed: int = 0) -> None:
        self.trace = trace
        self.slot = slot
        self.num_fed = num_fed
        self.logits: list[Logits] = []
        self._chunk = chunk

    @property
    def is_finished(self) -> bool:
        """Whether every token's logits are there."""
        return len(self.logits) == len(self.trace.tokens)

    def next_row(self) -> ChainRow:
        """The next chunk of the prompt, or the next token."""
        num_missing = len(self.trace.prompt) - self.num_fed
        num_tokens = min(self._chunk, num_missing) if num_missing > 0 else 1
        ids = self.trace.ids[self.num_fed : self.num_fed + num_tokens]
        self.num_fed += num_tokens
        return ChainRow(self.slot, ids, int(num_tokens >= num_missing))

    @property
    def result(self) -> Logits:
        """[tokens, vocab]"""
        return np.stack(self.logits)


def feed(chain: StageChain, replays: Sequence[Replay]) -> None:
    """One step with a row of each."""
    rows = [each.next_row() for each in replays]
    logits = chain.step(rows)
    sampling = [each for each, row in zip(replays, rows, strict=True) if row.num_sampled]
    num_logits = 0 if logits is None else len(logits)
    assert num_logits == len(sampling), f"{num_logits} rows of logits for {len(sampling)} sampled positions"
    for index, each in enumerate(sampling):
        assert logits is not None
        each.logits.append(logits[index])


def play(chain: StageChain, replays: Sequence[Replay], *, joining: bool = False) -> list[Logits]:
    """Feed all in common steps until every one is finished, and leave; `joining`: one more joins at every step."""
    num_steps = 0
    while not all(each.is_finished for each in replays):
        num_steps += 1
        running = [each for each in (replays[:num_steps] if joining else replays) if not each.is_finished]
        feed(chain, running)
        for each in running:
            if each.is_finished:
                chain.leave(each.slot)
    return [each.result for each in replays]


def replay(chain: StageChain, trace: Trace, *, slot: int = 0, chunk: int = 10**6) -> Logits:
    """One trace alone, from beginning to end."""
    return play(chain, [Replay(trace, slot, chunk)])[0]


def make_trace(chain: StageChain, prompt: Sequence[int], num_tokens: int) -> Trace:
    """Run one prompt alone."""
    tokens: list[int] = []
    logits: list[Logits] = []
    ids = list(prompt)
    while len(tokens) < num_tokens:
        found = chain.step([ChainRow(0, ids)])
        assert found is not None, "a sampled row gave no logits"
        assert len(found) == 1, f"one sampled row gave {len(found)} rows of logits"
        logits.append(found[0])
        tokens.append(int(found[0].argmax()))
        ids = tokens[-1:]
    chain.leave(0)
    return Trace(list(prompt), tokens, np.stack(logits))
