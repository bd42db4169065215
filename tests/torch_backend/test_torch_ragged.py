"""Rows of different lengths share steps, join and leave, and say what they say alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import FAMILIES, MAX_LENGTH, Excuses, Reference

LENGTHS = [5, 33, 17, 2, 48, 11, 26, 1]
"""Prompt tokens of the eight rows; the longest spans several blocks and windows."""
CHUNK_TOKENS = 13
"""Most prompt tokens of one row in one step."""
NUM_TOKENS = 12


def run_together(chain: StageChain, references: list[Reference], swap: bool = False) -> list[list[int]]:
    """Greedy tokens of all rows. A new row joins at every step; each leaves when it has its tokens.

    With `swap`, two rows get each other's last token once: the control.
    """
    tokens: list[list[int]] = [[] for _ in references]
    fed = [0] * len(references)
    num_steps = 0
    while any(len(row) < NUM_TOKENS for row in tokens):
        num_steps += 1
        rows = []
        for slot, reference in enumerate(references[:num_steps]):
            known = reference.ids + tokens[slot]
            chunk = known[fed[slot] : fed[slot] + CHUNK_TOKENS]
            if len(tokens[slot]) < NUM_TOKENS:
                fed[slot] += len(chunk)
                rows.append(ChainRow(slot, chunk, int(fed[slot] == len(known))))
        if swap and num_steps == len(references):
            sampling = [index for index, row in enumerate(rows) if row.num_sampled]
            first, second = rows[sampling[0]], rows[sampling[1]]
            rows[sampling[0]] = ChainRow(first.slot, [*first.ids[:-1], second.ids[-1]], 1)
        _append(tokens, chain.step(rows), rows)
        for slot, row in enumerate(tokens):
            if len(row) == NUM_TOKENS:
                chain.leave(slot)
    return tokens


def _append(tokens: list[list[int]], logits: Any, rows: list[ChainRow]) -> None:
    sampled = [row.slot for row in rows if row.num_sampled]
    for slot, token in zip(sampled, logits.argmax(-1).tolist() if sampled else [], strict=True):
        tokens[slot].append(token)


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_rows_equal_single_runs(family: str, tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model(family)
    references = [tiny.refer(seed, length, NUM_TOKENS) for seed, length in enumerate(LENGTHS)]
    chain = open_chain(tiny.folder, (2,))
    excuses = Excuses()
    for tokens, reference in zip(run_together(chain, references), references, strict=True):
        excuses.compare(tokens, reference)

    assert excuses.num_tokens == len(LENGTHS) * NUM_TOKENS
    chain.close()


def test_a_swapped_token_is_seen(tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model("llama")
    references = [tiny.refer(seed, length, NUM_TOKENS) for seed, length in enumerate(LENGTHS)]
    chain = open_chain(tiny.folder)

    tokens = run_together(chain, references, swap=True)
    assert tokens != [reference.tokens for reference in references]
    chain.close()


@pytest.mark.parametrize("family", ["qwen3", "mistral", "deepseek_v3"])
def test_rewound_tokens_leave_no_trace(family: str, tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model(family)
    reference = tiny.refer(seed=3, num_prompt_tokens=19, num_tokens=6)
    chain = open_chain(tiny.folder, (1,))
    chain.step([ChainRow(0, [*reference.ids, 7, 8, 9, 10, 11], 0)])
    chain.rewind(0, 10)
    first = most_likely(chain, reference.ids[10:])

    assert first == reference.tokens[0]
    assert most_likely(chain, [first]) == reference.tokens[1]
    chain.close()


def test_several_positions_of_a_row_are_sampled(tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model("qwen3")
    one, two = tiny.refer(4, 9, 4), tiny.refer(5, 6, 4)
    chain = open_chain(tiny.folder, (1,))
    logits = chain.step([ChainRow(0, one.ids, 3), ChainRow(1, two.ids, 0), ChainRow(2, two.ids, 2)])

    assert logits is not None
    assert logits.argmax(-1).tolist() == [*one.logits[-3:].argmax(-1).tolist(), *two.logits[-2:].argmax(-1).tolist()]
    assert chain.step([ChainRow(1, two.tokens[:1], 0)]) is None
    chain.close()


def open_chain(folder: str, cuts: tuple[int, ...] = ()) -> StageChain:
    return StageChain(TorchFactory(), folder, cuts, HarnessOptions(max_sequence_length=MAX_LENGTH))


def most_likely(chain: StageChain, ids: Sequence[int]) -> int:
    """The token that follows, as the last stage has it."""
    logits = chain.step([ChainRow(0, ids)])
    assert logits is not None, "no row was sampled"
    return int(logits[0].argmax())
