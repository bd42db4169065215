"""What sampling costs per step: 64 rows of a vocabulary of 151,936, and the bookkeeping of 16 and 64 rows.

Aims on two CPU cores: greedy at most 20 ms, all that requests usually ask for together at most 150 ms. `argmax` is what
greedy rows would cost without a chain, so the difference to `greedy` is the chain's own. Flat logits are the hard case
of a truncation: hundreds of thousands of tokens stay, and which ones cannot be known before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from amounts import amount
from pytest_benchmark.fixture import BenchmarkFixture

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from histrio.contracts.backend import ArrayNamespace
from histrio.messages import Ask, Open
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio_samplers.plugin import SAMPLERS
from histrio_torch.arrays import TorchArrays

VOCAB = amount(151_936, once=2_048)
NUM_ROWS = 64
PROMPT = np.random.default_rng(5).integers(0, VOCAB, 1000).tolist()

TRUNCATIONS: dict[str, Any] = {"temperature": 0.7, "top_k": 50, "top_p": 0.95}
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5}
FULL = TRUNCATIONS | PENALTIES | {"min_p": 0.05, "min_tokens": 10, "logit_bias": {"17": -5.0}}

MIXES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy_penalties": PENALTIES | {"temperature": 0},
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.95},
    "min_p": {"min_p": 0.05},
    "truncations": TRUNCATIONS,
    "full": FULL,
    "typical_p": {"typical_p": 0.95},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "xtc": {"xtc_probability": 0.5},
    "dry": {"dry_multiplier": 0.8},
    "mirostat": {"mirostat": 2},
}
ARRAYS: dict[str, ArrayNamespace] = {"torch": TorchArrays("cpu"), "numpy": NumpyArrays()}


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


def _chain(rows: int, fields: dict[str, Any]) -> SamplerChain:
    chain = SamplerChain(SAMPLERS, max_slots=rows)
    for slot in range(rows):
        chain.open(Open(slot, PROMPT, len(PROMPT), Ask(fields, stop_ids=[0], seed=slot), slot))
    return chain


def _logits(xp: ArrayNamespace, spread: float) -> Any:
    values = np.random.default_rng(0).standard_normal((NUM_ROWS, VOCAB)) * spread
    return xp.asarray(values.astype(np.float32))


@pytest.mark.parametrize("arrays", ARRAYS)
def test_argmax_of_64_rows(benchmark: BenchmarkFixture, arrays: str) -> None:
    xp = ARRAYS[arrays]
    logits = _logits(xp, spread=3)

    tokens = benchmark(lambda: xp.to_host(xp.argmax(logits)).tolist())

    assert len(tokens) == NUM_ROWS


@pytest.mark.parametrize("arrays", ARRAYS)
@pytest.mark.parametrize("mix", MIXES)
def test_64_rows_of_a_large_vocabulary(benchmark: BenchmarkFixture, mix: str, arrays: str) -> None:
    xp, chain, slots = ARRAYS[arrays], _chain(NUM_ROWS, MIXES[mix]), np.arange(NUM_ROWS)
    logits = _logits(xp, spread=3)

    sampled = benchmark(chain.sample, xp, logits, slots, slots + len(PROMPT))

    assert len(sampled.ids) == NUM_ROWS


@pytest.mark.parametrize("arrays", ARRAYS)
@pytest.mark.parametrize("mix", ["top_p", "typical_p", "truncations", "full"])
def test_64_rows_of_flat_logits(benchmark: BenchmarkFixture, mix: str, arrays: str) -> None:
    xp, chain, slots = ARRAYS[arrays], _chain(NUM_ROWS, MIXES[mix]), np.arange(NUM_ROWS)
    logits = _logits(xp, spread=0.1)

    sampled = benchmark(chain.sample, xp, logits, slots, slots + len(PROMPT))

    assert len(sampled.ids) == NUM_ROWS


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("mix", ["greedy", "greedy_penalties", "truncations", "full", "dry", "mirostat"])
def test_bookkeeping(benchmark: BenchmarkFixture, mix: str, rows: int) -> None:
    logits = np.random.default_rng(0).standard_normal((rows, 64)).astype(np.float32)
    chain, slots = _chain(rows, MIXES[mix]), np.arange(rows)

    sampled = benchmark(chain.sample, NumpyArrays(), logits, slots, slots + len(PROMPT))

    assert len(sampled.ids) == rows


DRAFTS = {slot: [1, 2, 3, 4] for slot in range(16)}
DRAWN_FROM = {slot: [[(token, 1 / 32) for token in range(32)]] * 4 for slot in range(16)}
"""32 tokens each, as many as a draft model tells of."""


@pytest.mark.parametrize("draft_probs", [{}, DRAWN_FROM], ids=["most likely", "drawn"])
@pytest.mark.parametrize("vocab", [64, VOCAB])
def test_speculation_of_4_drafts_for_16_rows(benchmark: BenchmarkFixture, vocab: int, draft_probs: Any) -> None:
    logits = np.random.default_rng(0).standard_normal((80, vocab)).astype(np.float32)
    slots, positions = np.repeat(np.arange(16), 5), np.tile(np.arange(5), 16) + len(PROMPT)
    chain = SamplerChain(SAMPLERS, max_slots=16)
    for slot in range(16):
        chain.open(Open(slot, PROMPT, len(PROMPT), seed=slot))

    sampled = benchmark(chain.sample, NumpyArrays(), logits, slots, positions, DRAFTS, draft_probs)

    assert len(sampled.num_ids) == 16
