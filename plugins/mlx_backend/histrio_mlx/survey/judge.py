"""The judge that histrio did not write: transformers, on tiny random models with config.json as repositories have it.

`published.json` spells the keys as published, with values that have an effect wherever a model reads them. Weights are
drawn by transformers and disturbed, biases and buffers too. Needs torch and transformers.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_mlx.config import normalise
from histrio_mlx.factory import MlxFactory
from histrio_mlx.families import Family, assumed, family_name, load_record
from histrio_mlx.refusals import NEUTRAL, odd_keys

__all__ = ["CLOSE", "judge_model", "judged_family", "of_family", "published", "save_model"]

CLOSE = 1e-3
"""Most that logits may differ, relative to the largest: mlx-lm computes some activations exactly, others don't."""

_LENGTH, _NUM_PROMPT, _MAX_LENGTH = 70, 48, 128
_SEED, _NOISE, _CONSTANT_NOISE = 5, 0.08, 0.3
_Floats = npt.NDArray[np.float32]


@cache
def published() -> dict[str, dict[str, Any]]:
    """Name → a small config.json."""
    found: dict[str, dict[str, Any]] = json.loads(
        Path(__file__).with_name("published.json").read_text(encoding="utf-8")
    )
    return found


def of_family(family: str) -> list[str]:
    """Names of the published configurations that mlx-lm runs with the code of this family."""
    aliases = load_record().aliases
    return [name for name, config in published().items() if family_name(config, aliases) == family]


def judged_family(name: str, verdict: Family) -> Family:
    """The verdict with what transformers says about it: a family that it contradicts does not run."""
    found: dict[str, float] = {}
    for model in of_family(name):
        with assumed(name, Family(runs=True, judged_keys=list(NEUTRAL))):
            error, control = judge_model(published()[model])
        if not error <= CLOSE < control:
            return Family(
                num_layers=verdict.num_layers, reason=f"{model}: logits differ by {error:.0e} from transformers"
            )
        found[model] = float(f"{error:.1e}")
    keys = {key for model in found for key in odd_keys(normalise(published()[model], _MAX_LENGTH))}
    return msgspec.structs.replace(verdict, judge=found, judged_keys=sorted(keys))


def judge_model(config: dict[str, Any]) -> tuple[float, float]:
    """How far one stage is from transformers, and from transformers with another first token, by the largest logit."""
    random = np.random.default_rng(1)
    ids: list[int] = random.integers(3, int(config["vocab_size"]), _LENGTH).tolist()
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(config, Path(folder))
        expected, other = (_expected(model, [first, *ids[1:]]) for first in (ids[0], ids[0] ^ 1))
        limits = HarnessOptions(
            kv_block_size=16, num_cache_blocks=64, max_num_tokens_per_batch=256, max_sequence_length=_MAX_LENGTH
        )
        with closing(StageChain(MlxFactory(), Path(folder), [], limits)) as chain:
            found = _play(chain, ids)
    scale = np.abs(expected).max()
    return float(np.abs(found - expected).max() / scale), float(np.abs(found - other).max() / scale)


def save_model(config: dict[str, Any], folder: Path) -> Any:
    """Write config.json as it is, and random float32 weights; returns transformers' model of it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    file = folder / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(_SEED)
    settings = AutoConfig.from_pretrained(folder)
    maker: Any = AutoModelForCausalLM
    model = maker.from_config(settings, dtype=torch.float32, attn_implementation="eager").eval()
    stored = model.state_dict()
    with torch.no_grad():
        for name, array in [*model.named_parameters(), *model.named_buffers()]:
            if name in stored and array.is_floating_point():
                is_constant = array.numel() > 1 and bool(array.max() == array.min())
                array.add_(torch.randn(array.shape) * (_CONSTANT_NOISE if is_constant else _NOISE))
    model.save_pretrained(folder)
    file.write_text(json.dumps(config), encoding="utf-8")
    return model


def _expected(model: Any, ids: list[int]) -> _Floats:
    import torch

    with torch.no_grad():
        logits: _Floats = model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
    return logits


def _play(chain: StageChain, ids: list[int]) -> _Floats:
    """[tokens, vocab]: the beginning in one step, the rest token by token."""
    parts = [chain.step([ChainRow(0, ids[:_NUM_PROMPT], _NUM_PROMPT)])]
    parts += [chain.step([ChainRow(0, [token])]) for token in ids[_NUM_PROMPT:]]
    return np.concatenate([part for part in parts if part is not None])
