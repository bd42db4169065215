"""LoRA and DoRA adapters act as transformers does with the weights that they amount to, whole and split."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import torch

from histrio.contracts.backend import StageSpec
from histrio.errors import ModelUnavailable, UnsupportedModel
from histrio.testing.chain import ChainRow
from histrio_mlx.factory import MlxFactory
from histrio_mlx.testing import NUM_LAYERS, MlxChain, as_torch, quantize
from histrio_torch.testing import MOST_ERROR, Reference, logits_error, refer

RANK, SCALE = 4, 3.0
NAMES = ("self_attn.q_proj", "mlp.down_proj")
ADAPTED_LAYERS = 3
"""Counted from the last one, as mlx-lm does."""
IDS = list(range(5, 26))


Adapted = tuple[Any, Path, Reference]


@pytest.fixture(params=["lora", "dora"])
def adapted(request: pytest.FixtureRequest, mlx_model: Callable[..., Any], tmp_path: Path) -> Adapted:
    """The tiny model, the adapter's folder, and what transformers says of the model with the adapter in its weights."""
    tiny = mlx_model("llama")
    merged = copy.deepcopy(tiny.model)
    weights = make_adapter(merged, request.param, tmp_path)
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), weights)
    return tiny, tmp_path, refer(merged, IDS, 12)


def make_adapter(model: torch.nn.Module, kind: str, folder: Path) -> dict[str, mx.array]:
    """Random adapter weights; what they amount to goes into `model`."""
    settings = {"rank": RANK, "scale": SCALE, "dropout": 0.1, "keys": list(NAMES)}
    config = {"fine_tune_type": kind, "num_layers": ADAPTED_LAYERS, "lora_parameters": settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(7)
    weights: dict[str, mx.array] = {}
    for layer in range(NUM_LAYERS - ADAPTED_LAYERS, NUM_LAYERS):
        for name in NAMES:
            path = f"model.layers.{layer}.{name}"
            weight = model.get_parameter(f"{path}.weight")
            width, height = weight.shape
            a = torch.randn(height, RANK, generator=generator) / height**0.5
            b = torch.randn(RANK, width, generator=generator) / RANK**0.5
            total = weight.data + SCALE * (a @ b).T
            parts = {"lora_a": a, "lora_b": b}
            if kind == "dora":
                parts["m"] = torch.rand(width, generator=generator) + 0.5
                total = total * (parts["m"] / total.norm(dim=1))[:, None]
            weight.data = total
            weights.update({f"{path}.{leaf}": mx.array(part.numpy()) for leaf, part in parts.items()})
    return weights


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (1, 3)])
def test_an_adapter_is_the_same_whole_and_split(adapted: Adapted, cuts: tuple[int, ...]) -> None:
    tiny, folder, reference = adapted
    chain = MlxChain(tiny.folder, cuts, adapter=folder)
    logits = as_torch(chain.step([ChainRow(0, IDS, len(IDS))]))
    chain.leave(0)

    assert logits_error(logits, reference.logits) <= MOST_ERROR
    assert chain.greedy(IDS, 12) == reference.tokens
    chain.close()
    plain = MlxChain(tiny.folder, cuts)
    without = as_torch(plain.step([ChainRow(0, IDS, len(IDS))]))
    assert logits_error(without, reference.logits) > 0.01, "a control: the adapter matters"
    plain.close()


def test_an_adapter_for_another_model_is_refused(adapted: Adapted) -> None:
    tiny, folder, _ = adapted
    weights = dict(mx.load(str(folder / "adapters.safetensors")))  # type: ignore[arg-type]
    first = f"model.layers.3.{NAMES[0]}.lora_b"
    cases: dict[str, dict[str, Any]] = {
        "another shape": weights | {first: mx.zeros((RANK, 8))},
        "are missing": {name: array for name, array in weights.items() if name != first},
        "belong to no layer": weights | {"model.layers.9.mlp.up_proj.lora_a": mx.zeros((8, RANK))},
    }
    for words, changed in cases.items():
        mx.save_safetensors(str(folder / "adapters.safetensors"), changed)
        with pytest.raises(UnsupportedModel, match=words):
            MlxChain(tiny.folder, adapter=folder)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        (None, ModelUnavailable, r"adapter_config\.json"),
        ({"peft_type": "LORA"}, UnsupportedModel, "PEFT"),
        ({"fine_tune_type": "full"}, UnsupportedModel, "'full'"),
        ({"fine_tune_type": "lora", "lora_parameters": {}}, ModelUnavailable, r"adapters\.safetensors"),
    ],
)
def test_a_folder_that_is_no_adapter_is_refused(
    config: Any, error: type[Exception], words: str, mlx_model: Callable[..., Any], tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    folder = mlx_model("llama").folder
    spec = StageSpec(str(folder), 0, NUM_LAYERS, NUM_LAYERS, adapter=str(tmp_path))

    assert not MlxFactory().supports(spec).available
    with pytest.raises(error, match=words):
        MlxChain(folder, adapter=tmp_path)


def test_an_adapter_on_quantized_weights_acts_there_too(adapted: Adapted, tmp_path: Path) -> None:
    tiny, folder, reference = adapted
    quantize(tiny.folder, tmp_path / "quantized", {"group_size": 64, "bits": 8, "mode": "affine"})
    chains = [MlxChain(tmp_path / "quantized", cuts, adapter=folder) for cuts in ((), (2,))]
    chains.append(MlxChain(tmp_path / "quantized"))
    whole, split, without = (as_torch(chain.step([ChainRow(0, IDS, len(IDS))])) for chain in chains)

    assert logits_error(split, whole) < 1e-5
    error = logits_error(whole, reference.logits)
    assert MOST_ERROR < error < 0.5 * logits_error(without, reference.logits), "rounded, but with the adapter"
    for chain in chains:
        chain.close()
