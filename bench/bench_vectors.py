"""Vectors of 64 texts of 128 tokens: the torch backend behind the runtime, against transformers alone in one batch.

The ratio within one run is what counts. Both compute in float32 on the CPU with the same weights, the demo model's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from transformers import AutoModel

from histrio.contracts.gateway import Submission
from histrio.demo import target_path
from histrio.messages import Ask
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio_torch.factory import TorchFactory

NUM_TEXTS, NUM_TOKENS, NUM_ROUNDS = 64, 128, 5
IDS = [[(13 * at + 29 * text) % 250 + 3 for at in range(NUM_TOKENS)] for text in range(NUM_TEXTS)]


async def vectors(harness: Harness) -> None:
    """All texts at once, as the endpoint submits them."""

    async def one(ids: list[int]) -> None:
        (stream,) = harness.gateway.submit(Submission(ids, 0, Ask(pooling="mean")))
        (delta,) = [delta async for delta in stream]
        assert np.isfinite(np.frombuffer(delta.extras.pooled, "<f4")).all()

    async with anyio.create_task_group() as tasks:
        for ids in IDS:
            tasks.start_soon(one, ids)


async def measured() -> tuple[float, float]:
    """Texts per second of histrio and of transformers: the best of some rounds in turns."""
    model: Any = AutoModel.from_pretrained(target_path(), dtype=torch.float32).eval()
    batch = torch.tensor(IDS)

    def alone() -> None:
        with torch.inference_mode():
            model(batch, use_cache=False).last_hidden_state.mean(dim=1)

    options = HarnessOptions(
        kv_block_size=16,
        num_cache_blocks=1024,
        max_batch_size=64,
        max_num_tokens_per_batch=2048,
        chunked_prefill_size=2048,
    )
    ours, theirs = [], []
    async with serving(target_path(), TorchFactory(), samplers=[], options=options) as harness:
        for _ in range(NUM_ROUNDS):
            began = time.perf_counter()
            await vectors(harness)
            ours.append(time.perf_counter() - began)
            theirs.append(_timed(alone))
    return NUM_TEXTS / min(ours), NUM_TEXTS / min(theirs)


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def test_texts_per_second_against_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = anyio.run(measured)
    with capsys.disabled():
        print(f"\nvectors: {ours:.0f} texts/s, transformers alone {theirs:.0f} texts/s, ratio {ours / theirs:.2f}")
