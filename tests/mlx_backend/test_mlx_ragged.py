"""Rows of different lengths share steps, join and leave, and say what they say alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histrio.contracts.backend import Capability
from histrio.testing.chain import ChainRow, StageChain
from histrio_mlx.testing import FAMILIES, MlxChain
from histrio_torch.testing import Excuses, Reference, refer
from histrio_torch.testing.families import make_model_of

LENGTHS = [5, 33, 17, 2, 48, 11, 26, 1]
"""Prompt tokens of the eight rows; the longest spans several blocks and windows."""
CHUNK_TOKENS = 13
"""Most prompt tokens of one row in one step."""
NUM_TOKENS = 12


def run_together(chain: MlxChain, references: list[Reference], swap: bool = False) -> list[list[int]]:
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
    for slot, token in zip(sampled, np.array(logits).argmax(-1).tolist() if sampled else [], strict=True):
        tokens[slot].append(token)


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_rows_equal_single_runs(family: str, mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model(family)
    references = [tiny.refer(seed, length, NUM_TOKENS) for seed, length in enumerate(LENGTHS)]
    chain = open_chain(tiny, (2,))
    excuses = Excuses()
    for tokens, reference in zip(run_together(chain, references), references, strict=True):
        excuses.compare(tokens, reference)

    assert excuses.num_tokens == len(LENGTHS) * NUM_TOKENS
    chain.close()


def test_a_swapped_token_is_seen(mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model("llama")
    references = [tiny.refer(seed, length, NUM_TOKENS) for seed, length in enumerate(LENGTHS)]
    chain = open_chain(tiny)

    tokens = run_together(chain, references, swap=True)
    assert tokens != [reference.tokens for reference in references]
    chain.close()


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "mistral", "deepseek_v3"])
def test_rewound_tokens_leave_no_trace(family: str, mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model(family)
    reference = tiny.refer(seed=3, num_prompt_tokens=19, num_tokens=6)
    chain = open_chain(tiny, (1,))
    chain.step([ChainRow(0, [*reference.ids, 7, 8, 9, 10, 11], 0)])
    chain.rewind(0, 10)
    first = most_likely(chain, reference.ids[10:])

    assert first == reference.tokens[0]
    assert most_likely(chain, [first]) == reference.tokens[1]
    chain.rewind(0, 18)
    assert most_likely(chain, [(first + 1) % 100, 5]) != reference.tokens[1]
    chain.close()


@pytest.mark.parametrize("cuts", [(), (1, 3)])
def test_several_positions_of_a_row_are_sampled(cuts: tuple[int, ...], mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model("qwen3")
    one, two = tiny.refer(4, 9, 4), tiny.refer(5, 6, 4)
    chain = open_chain(tiny, cuts)
    logits = chain.step([ChainRow(0, one.ids, 3), ChainRow(1, two.ids, 0), ChainRow(2, two.ids, 2)])

    expected = [*one.logits[-3:].argmax(-1).tolist(), *two.logits[-2:].argmax(-1).tolist()]
    assert np.array(logits).argmax(-1).tolist() == expected
    assert chain.step([ChainRow(1, two.tokens[:1], 0)]) is None
    chain.close()


def test_copied_blocks_continue_like_the_original(mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model("llama")
    reference = tiny.refer(6, 20, 4)
    chain = open_chain(tiny, (2,))
    chain.step([ChainRow(0, reference.ids, 0)])
    chain.share([chain.copy(block) for block in chain.tables[0]], slot=1, length=20)
    chain.step([ChainRow(0, [9, 9, 9], 0)])
    copied = chain.step([ChainRow(1, reference.tokens[:1])])
    spoilt = chain.step([ChainRow(0, reference.tokens[:1])])

    assert copied is not None
    assert spoilt is not None
    assert int(copied[0].argmax()) == reference.tokens[1]
    assert float(np.abs(copied - spoilt).max()) > 1e-2, "a control: the original went another way"
    chain.close()


HYBRIDS: Mapping[str, dict[str, Any]] = {
    "falcon_h1": {
        "num_hidden_layers": 3,
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "qwen3_next": {
        "num_hidden_layers": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}


@pytest.mark.parametrize(
    "family", [name if name != "qwen3_next" else pytest.param(name, marks=pytest.mark.thorough) for name in HYBRIDS]
)
def test_recurrent_states_stay_with_their_slots(family: str, tmp_path: Path) -> None:
    model = make_model_of(family, tmp_path, hidden_size=64, **HYBRIDS[family])
    references = [refer(model, [7 + seed, *range(20, 19 + length)], NUM_TOKENS) for seed, length in enumerate(LENGTHS)]
    chain = MlxChain(tmp_path, (1,))
    excuses = Excuses()
    for tokens, reference in zip(run_together(chain, references), references, strict=True):
        excuses.compare(tokens, reference)

    again = chain.greedy(references[1].ids, NUM_TOKENS)
    assert again == references[1].tokens, "a new sequence finds nothing of the one before in its slot"
    assert set(chain.size.capabilities) == {Capability.BATCH, Capability.ALL_POSITION_LOGITS}
    chain.close()


def open_chain(tiny: Any, cuts: tuple[int, ...] = ()) -> MlxChain:
    return MlxChain(tiny.folder, cuts)


def most_likely(chain: StageChain, ids: Sequence[int]) -> int:
    """The token that follows, as the last stage has it."""
    logits = chain.step([ChainRow(0, ids)])
    assert logits is not None, "no row was sampled"
    return int(logits[0].argmax())
