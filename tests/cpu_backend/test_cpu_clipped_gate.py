"""A stage with gpt-oss's gate, biases of experts and routers, and sinks computes what transformers' own model does."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from histrio.errors import BackendError
from histrio_cpu.abi import Activation, Batch, Format, LayerConfig, LayerFlags, StageConfig, Storage, Tensor
from histrio_cpu.library import NativeStage, load_library
from histrio_torch.testing import VOCAB_SIZE
from tests.cpu_backend.conftest import prompt

ALPHA, LIMIT = 1.702, 7.0
NUM_TOKENS = 24
Floats = npt.NDArray[np.float32]


def test_the_native_layer_equals_transformers(tiny_model: Callable[[str], Any]) -> None:
    model, ids = tiny_model("gpt_oss").model, prompt(1, NUM_TOKENS)
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()

    assert np.abs(expected).max() > 0.5
    scale = np.abs(expected).max()
    assert np.abs(logits_of(model, ids) - expected).max() < 1e-4 * scale
    for control in ({"alpha": 1.0}, {"limit": 0.01}, {"without": Tensor.SINKS}, {"without": Tensor.ROUTER_BIAS}):
        assert np.abs(logits_of(model, ids, **control) - expected).max() > 1e-3 * scale, control


def test_a_clipped_gate_needs_a_limit() -> None:
    with pytest.raises(BackendError, match="a clipped gate needs a gate and a limit above 0"):
        new_stage(48, 1).layer(0, layer_config(sliding=False, alpha=ALPHA, limit=0.0))


def logits_of(
    model: Any, ids: list[int], alpha: float = ALPHA, limit: float = LIMIT, without: Tensor | None = None
) -> Floats:
    """[tokens, vocabulary] of the native stage, without one kind of tensor as a control."""
    config = model.config
    stage = new_stage(config.hidden_size, config.num_hidden_layers)
    rotary = model.model.rotary_emb
    stage.rope(0, rotary.inv_freq.numpy(), rotary.attention_scaling)
    put(stage, -1, Tensor.EMBEDDING, model.model.embed_tokens.weight)
    put(stage, -1, Tensor.FINAL_NORM, model.model.norm.weight)
    put(stage, -1, Tensor.HEAD, model.lm_head.weight)
    for index, layer in enumerate(model.model.layers):
        stage.layer(index, layer_config(config.layer_types[index] == "sliding_attention", alpha, limit))
        for tensor, values in tensors_of(layer):
            if tensor != without:
                put(stage, index, tensor, values)
        for expert in range(config.num_local_experts):
            for tensor, values in tensors_of_expert(layer.mlp.experts, expert):
                put(stage, index, tensor, values, expert)
    stage.ready()
    stage.allocate(4, 16)
    logits = run(stage, ids)
    stage.close()
    return logits


def new_stage(hidden: int, num_layers: int) -> NativeStage:
    return NativeStage(
        load_library(),
        StageConfig(
            **{"num_layers": num_layers, "hidden": hidden, "vocab": VOCAB_SIZE, "is_first": 1, "is_last": 1},
            **{"max_tokens": 64, "max_rows": 1, "max_logits": 64, "norm_eps": 1e-5},
            **{"embedding_scale": 1.0, "logit_scale": 1.0},
        ),
    )


def layer_config(sliding: bool, alpha: float, limit: float) -> LayerConfig:
    return LayerConfig(
        **{"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "intermediate": 64, "attention_scale": 0.25},
        **{"window": 12 if sliding else 0, "residual_scale": 1.0, "num_experts": 4, "experts_per_token": 4},
        **{"activation": Activation.CLIPPED, "gate_alpha": alpha, "gate_limit": limit},
        flags=LayerFlags.ROUTER_RENORMALIZE,
    )


def tensors_of(layer: Any) -> list[tuple[Tensor, torch.Tensor]]:
    attention, router = layer.self_attn, layer.mlp.router
    return [
        (Tensor.ATTN_NORM, layer.input_layernorm.weight),
        (Tensor.MLP_NORM, layer.post_attention_layernorm.weight),
        *((Tensor[each], getattr(attention, f"{each.lower()}_proj").weight) for each in "QKVO"),
        *((Tensor[f"{each}_BIAS"], getattr(attention, f"{each.lower()}_proj").bias) for each in "QKVO"),
        (Tensor.SINKS, attention.sinks),
        (Tensor.ROUTER, router.weight),
        (Tensor.ROUTER_BIAS, router.bias),
    ]


def tensors_of_expert(experts: Any, expert: int) -> list[tuple[Tensor, torch.Tensor]]:
    gate_up, bias = experts.gate_up_proj[expert].T, experts.gate_up_proj_bias[expert]
    return [
        *((Tensor.GATE, gate_up[::2]), (Tensor.UP, gate_up[1::2])),
        *((Tensor.GATE_BIAS, bias[::2]), (Tensor.UP_BIAS, bias[1::2])),
        *((Tensor.DOWN, experts.down_proj[expert].T), (Tensor.DOWN_BIAS, experts.down_proj_bias[expert])),
    ]


def put(stage: NativeStage, layer: int, tensor: Tensor, values: torch.Tensor, expert: int = 0) -> None:
    array = np.ascontiguousarray(values.detach().numpy(), np.float32)
    rows, columns = array.shape if array.ndim == 2 else (1, len(array))
    stage.put((layer, tensor, expert), array.view(np.uint8), (Format.F32, Storage.KEEP), (rows, columns))


def run(stage: NativeStage, ids: list[int]) -> Floats:
    token_ids, positions = np.array(ids, np.int64), np.arange(len(ids), dtype=np.int32)
    offsets, table = np.array([0, len(ids)], np.int32), np.array([2, 0, 3, 1], np.int32)
    start, logits = np.zeros(1, np.int32), np.empty((len(ids), VOCAB_SIZE), np.float32)
    stage.step(
        Batch(
            **{"struct_bytes": ctypes.sizeof(Batch), "num_rows": 1, "num_tokens": len(ids), "table_width": len(table)},
            **{"starts": start.ctypes.data, "offsets": offsets.ctypes.data, "block_tables": table.ctypes.data},
            **{"token_ids": token_ids.ctypes.data, "num_logits": len(ids), "logit_tokens": positions.ctypes.data},
            logits=logits.ctypes.data,
        )
    )
    return logits
