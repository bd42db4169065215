"""A real model for vectors says what sentence-transformers makes of it, or where that is not installed, transformers by
the recipe in the model's files: the mean over the tokens, scaled.

    python -m tests.real_models.build FOLDER
    HISTRIO_REAL_MODELS=FOLDER pytest tests/real_models/test_real_vectors.py
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from histrio.testing.harness import HarnessOptions, serving
from histrio_api.testing import endpoint_over
from histrio_torch.factory import TorchFactory
from tests.real_models.build import MINILM

MOST_ERROR = 1e-5
TEXTS = [
    "A cat sleeps on the warm stones of the harbour.",
    "On the quay a cat is taking a nap.",
    "The committee postponed the vote on the budget.",
    "Der Ausschuss vertagte die Abstimmung.",
    "猫が好きです。",
    "one hundred words " * 90,
    "x",
]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


async def test_a_real_model_makes_the_vectors_of_sentence_transformers(real_models: Path) -> None:
    folder = real_models / MINILM.name
    options = HarnessOptions(max_sequence_length=256, max_num_tokens_per_batch=512, num_cache_blocks=1024)
    async with (
        serving(folder, TorchFactory(), samplers=[], options=options) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        answer = await http.post("/v1/embeddings", json={"input": TEXTS, "truncate_prompt_tokens": -1})
    found = np.array([each["embedding"] for each in answer.json()["data"]])
    expected = judged(folder)
    assert np.abs(found - expected).max() <= MOST_ERROR
    assert np.abs(found - np.roll(expected, 1, axis=0)).max(axis=1).min() > 0.01, "a control: another text's vector"
    nearness = found @ found.T
    assert nearness[0, 1] > 0.5 > nearness[0, 2], "what means nearly the same is near"


def judged(folder: Path) -> Any:
    """[texts, width]"""
    if find_spec("sentence_transformers") is not None:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found, unused-ignore]

        return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)

    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for text in TEXTS:
        with torch.no_grad():
            states = model(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state
        mean = states[0].double().mean(dim=0)
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)
