"""In half precisions a stage is as far from float32 as transformers in the same dtype, with norms as real ones are.

`HISTRIO_ALL_FAMILIES=1` tries every family in both dtypes instead of those that differ in what they round.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_torch import fused
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import FAMILIES, MAX_LENGTH, OTHERS, VOCAB_SIZE, make_model

NUM_ROWS, NUM_TOKENS = 4, 40
MOST = 1.25
"""How much farther: most families say exactly what transformers says, latent attention rounds elsewhere."""
IS_FULL = bool(os.environ.get("HISTRIO_ALL_FAMILIES"))
TRIED = (
    [(family, dtype) for family in [*FAMILIES, *OTHERS] for dtype in ("bfloat16", "float16")]
    if IS_FULL
    else [(family, "bfloat16") for family in ("llama", "gemma3", "olmo2", "gpt_oss", "deepseek_v3")]
    + [("gemma2", "float16")]
)


@pytest.mark.parametrize(("family", "dtype"), TRIED)
def test_half_precisions_are_as_exact_as_in_transformers(family: str, dtype: str, tmp_path: Path) -> None:
    # float16 ends at 65504, which transformers itself exceeds with such norms.
    exact = scores(make_model(family, tmp_path, has_outliers=dtype == "bfloat16"))
    own = distance(scores(loaded(tmp_path, dtype)), exact)

    assert distance(stage_scores(tmp_path, dtype), exact) <= MOST * own
    assert own > 0, "nothing was rounded"


def test_a_norm_that_outliers_hide_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = scores(make_model("gemma3", tmp_path, has_outliers=True))
    own = distance(scores(loaded(tmp_path, "bfloat16")), exact)
    monkeypatch.setattr(fused, "_is_same", lambda candidate, module, weight: True)

    assert distance(stage_scores(tmp_path, "bfloat16"), exact) > 3 * MOST * own


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Mean difference of a token's log probabilities, at the median of all tokens: experts that change are few."""
    return float((found - exact).abs().mean(-1).median())


def scores(model: Any) -> torch.Tensor:
    """[rows * tokens, vocab] log probabilities in transformers."""
    with torch.no_grad():
        logits = torch.cat([model(row[None]).logits[0] for row in prompts()])
    return torch.log_softmax(logits.double(), dim=-1)


def stage_scores(folder: Path, dtype: str) -> torch.Tensor:
    """The same of a stage."""
    chain = StageChain(
        TorchFactory(),
        str(folder),
        (),
        HarnessOptions(max_sequence_length=MAX_LENGTH, dtype=dtype, max_num_tokens_per_batch=NUM_ROWS * NUM_TOKENS),
    )
    logits = chain.step([ChainRow(slot, row.tolist(), NUM_TOKENS) for slot, row in enumerate(prompts())])
    chain.close()
    return torch.log_softmax(torch.as_tensor(logits).double(), dim=-1)


def loaded(folder: Path, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def prompts() -> torch.Tensor:
    return torch.randint(3, VOCAB_SIZE, (NUM_ROWS, NUM_TOKENS), generator=torch.Generator().manual_seed(1))
