"""What sampling costs per step: 64 rows of a vocabulary of 151,936, and the bookkeeping of 16 rows.

Aims on two CPU cores: greedy at most 20 ms, temperature + top-k + top-p at most 150 ms.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from histrio.arrays import NumpyArrays
from histrio.sampler_chain import SamplerChain
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_p import TopP
from histrio_torch.arrays import TorchArrays

VOCAB = 151_936

MIXES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.95},
    "all": {"temperature": 0.7, "top_k": 50, "top_p": 0.95},
}


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


def _chain(rows: int, fields: dict[str, Any]) -> SamplerChain:
    chain = SamplerChain([Temperature, TopK, TopP], max_rows=rows)
    for slot in range(rows):
        chain.open(slot, fields, [], 0, seed=slot, choice=0)
    return chain


@pytest.mark.parametrize("mix", MIXES)
def test_64_rows_of_a_large_vocabulary(benchmark: BenchmarkFixture, mix: str) -> None:
    logits = torch.tensor(np.random.default_rng(0).standard_normal((64, VOCAB)).astype(np.float32) * 3)
    chain, slots = _chain(64, MIXES[mix]), np.arange(64)

    tokens = benchmark(chain.sample, TorchArrays("cpu"), logits, slots, slots)

    assert len(tokens) == 64


@pytest.mark.parametrize("mix", ["greedy", "all"])
def test_bookkeeping_of_16_rows(benchmark: BenchmarkFixture, mix: str) -> None:
    logits = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    chain, slots = _chain(16, MIXES[mix]), np.arange(16)

    tokens = benchmark(chain.sample, NumpyArrays(), logits, slots, slots)

    assert len(tokens) == 16
