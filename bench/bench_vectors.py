"""Vectors of 64 texts of 128 tokens: the torch backend behind the runtime, against transformers alone in one batch.

The ratio within one run is what counts. Both compute in float32 on the CPU with the same weights, the demo model's.
"""

from __future__ import annotations

import time
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from amounts import amount
from transformers import AutoModel

from histrio.contracts.gateway import Submission
from histrio.demo import target_path
from histrio.messages import Ask
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio_torch.factory import TorchFactory

NUM_TEXTS, NUM_TOKENS, NUM_ROUNDS = 64, 128, amount(5, once=1)
IDS = [[(13 * at + 29 * text) % 250 + 3 for at in range(NUM_TOKENS)] for text in range(NUM_TEXTS)]


async def vectors(harness: Harness) -> list[np.ndarray]:
    """Of all texts at once, as the endpoint submits them."""
    found: dict[int, np.ndarray] = {}

    async def one(text: int, ids: list[int]) -> None:
        (stream,) = harness.gateway.submit(Submission(ids, 0, Ask(pooling="mean")))
        (delta,) = [delta async for delta in stream]
        found[text] = np.frombuffer(delta.extras.pooled, "<f4")

    async with anyio.create_task_group() as tasks:
        for text, ids in enumerate(IDS):
            tasks.start_soon(one, text, ids)
    return [found[text] for text in range(NUM_TEXTS)]


async def measured() -> tuple[float, float]:
    """Texts per second of histrio and of transformers: the best of some rounds in turns."""
    model: Any = AutoModel.from_pretrained(target_path(), dtype=torch.float32).eval()
    batch = torch.tensor(IDS)

    def alone() -> np.ndarray:
        with torch.inference_mode():
            pooled: np.ndarray = model(batch, use_cache=False).last_hidden_state.mean(dim=1).numpy()
        return pooled

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
            found = await vectors(harness)
            between = time.perf_counter()
            expected = alone()
            ours.append(between - began)
            theirs.append(time.perf_counter() - between)
            np.testing.assert_allclose(found, expected, atol=1e-3)
    return NUM_TEXTS / min(ours), NUM_TEXTS / min(theirs)


def test_texts_per_second_against_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = anyio.run(measured)
    with capsys.disabled():
        print(f"\nvectors: {ours:.0f} texts/s, transformers alone {theirs:.0f} texts/s, ratio {ours / theirs:.2f}")
