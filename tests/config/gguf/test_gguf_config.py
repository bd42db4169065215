"""config.json and generation_config.json of GGUF files: rotary positions, ends of texts, and what is refused.

`tests/torch_backend/test_gguf_models.py` has transformers judge the files of every architecture.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from histrio.config.gguf.header import GgufTensor
from histrio.config.gguf.metadata import Metadata
from histrio.config.gguf.model_config import generation_config, make_config
from histrio.config.gguf.names import name_tensors
from histrio.errors import ModelError, UnsupportedModel

FILE = Path("x.gguf")
TENSORS = {"token_embd.weight": GgufTensor("token_embd.weight", 8, (100, 64), 0, 6800)}
LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.feed_forward_length": 96,
    "llama.context_length": 131072,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.key_length": 128,
    "llama.attention.value_length": 128,
    "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
    "llama.rope.freq_base": 500000.0,
    "llama.rope.dimension_count": 128,
}
PHI3 = {key.replace("llama", "phi3"): "phi3" if value == "llama" else value for key, value in LLAMA.items()}


def config(values: dict[str, Any], **tables: npt.NDArray[np.float32]) -> dict[str, Any]:
    return make_config(Metadata(values, FILE), TENSORS, lambda name: tables.get(name.removesuffix(".weight")))


def test_numbers_are_spelled_as_they_were_before_they_had_32_bits() -> None:
    made = config(LLAMA)
    assert (made["rms_norm_eps"], made["rope_theta"], made["vocab_size"]) == (1e-05, 500000.0, 100)
    assert made["rope_scaling"] is None
    assert made["tie_word_embeddings"] is True
    assert "torch_dtype" not in made, "blocks are no number format"


def llama3_table(factor: float, low: float, high: float, original: int, base: float = 500000.0) -> Any:
    """As the formula of Llama 3.1 says it, frequency by frequency."""
    table = []
    for index in range(0, 128, 2):
        wavelength = 2 * math.pi * base ** (index / 128)
        if wavelength < original / high:
            table.append(1.0)
        elif wavelength > original / low:
            table.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            table.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(table, np.float32)


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (4.0, 4096)])
def test_the_numbers_of_llama_3_are_found_in_its_table(factor: float, original: int) -> None:
    assert config(LLAMA, rope_freqs=llama3_table(factor, 1, 4, original))["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }


def test_another_table_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="not one of Llama 3's"):
        config(LLAMA, rope_freqs=llama3_table(8.0, 1, 3, 8192))
    with pytest.raises(ModelError, match="has 3 numbers for 64 frequencies"):
        config(LLAMA, rope_freqs=np.ones(3, np.float32))


def scaled(**values: Any) -> dict[str, Any]:
    return LLAMA | {f"llama.rope.scaling.{key}": value for key, value in values.items()}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"type": "none", "factor": 4.0}, None),
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 32768},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        ),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 32768, "yarn_beta_fast": 16.0},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 16.0},
        ),
    ],
)
def test_stretched_positions_are_those_of_the_file(values: dict[str, Any], expected: dict[str, Any] | None) -> None:
    assert config(scaled(**values))["rope_scaling"] == expected


def test_positions_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="of the kind 'spiral'"):
        config(scaled(type="spiral"))


def test_long_positions_of_phi_come_from_both_tables_and_a_part_of_each_head_may_be_rotated() -> None:
    values = PHI3 | {"phi3.rope.dimension_count": 96, "phi3.rope.scaling.original_context_length": 4096}
    made = config(
        values, rope_factors_short=np.array([1, 1.1], np.float32), rope_factors_long=np.array([2, 4.5], np.float32)
    )
    assert made["rope_scaling"] == {"rope_type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [2.0, 4.5]}
    assert (made["partial_rotary_factor"], made["original_max_position_embeddings"]) == (0.75, 4096)
    with pytest.raises(UnsupportedModel, match="rotates 96 of 128 dimensions"):
        config(LLAMA | {"llama.rope.dimension_count": 96})


def test_gpt_oss_has_its_published_configuration() -> None:
    values: dict[str, Any] = {
        "general.architecture": "gpt-oss",
        "gpt-oss.embedding_length": 2880,
        "gpt-oss.block_count": 4,
        "gpt-oss.context_length": 131072,
        "gpt-oss.expert_feed_forward_length": 2880,
        "gpt-oss.attention.head_count": 64,
        "gpt-oss.attention.head_count_kv": 8,
        "gpt-oss.attention.key_length": 64,
        "gpt-oss.attention.sliding_window": 128,
        "gpt-oss.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
        "gpt-oss.expert_count": 32,
        "gpt-oss.expert_used_count": 4,
        "gpt-oss.rope.freq_base": 150000.0,
        "gpt-oss.rope.scaling.type": "yarn",
        "gpt-oss.rope.scaling.factor": 32.0,
        "gpt-oss.rope.scaling.original_context_length": 4096,
    }
    made = config(values)
    assert made["architectures"] == ["GptOssForCausalLM"]
    assert made["layer_types"] == ["sliding_attention", "full_attention"] * 2
    assert made["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
    }
    published = {"head_dim": 64, "intermediate_size": 2880, "num_local_experts": 32, "num_experts_per_tok": 4}
    assert {key: made[key] for key in published} == published
    assert (made["sliding_window"], made["swiglu_limit"], made["rms_norm_eps"]) == (128, 7.0, 1e-05)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba'; those that are read are llama,"),
        ({"general.architecture": 3}, "names no architecture"),
        ({"llama.block_count": "two"}, "llama.block_count must be a whole number"),
        ({"llama.block_count": 2.5}, "llama.block_count must be a whole number"),
        ({"llama.rope.freq_base": True}, "llama.rope.freq_base must be a number"),
        ({"llama.attention.head_count_kv": np.array([2, 1])}, "head_count_kv differs from layer to layer"),
        ({"llama.attention.value_length": 64}, "keys and values of different lengths"),
    ],
)
def test_what_no_config_can_say_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ModelError, match=fault) as caught:
        config(LLAMA | changes)
    assert "x.gguf" in str(caught.value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ModelError, match=r"does not say llama\.context_length"):
        config({key: value for key, value in LLAMA.items() if key != "llama.context_length"})


def test_one_number_for_each_layer_is_read_where_all_are_the_same() -> None:
    assert config(LLAMA | {"llama.attention.head_count_kv": np.array([2, 2])})["num_key_value_heads"] == 2


def ends(tokens: list[str], kinds: list[int], **values: Any) -> list[int]:
    metadata = LLAMA | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        **{f"tokenizer.ggml.{key}": value for key, value in values.items()},
    }
    found: list[int] = generation_config(Metadata(metadata, FILE)).get("eos_token_id", [])
    return found


def test_a_text_ends_at_every_token_that_ends_a_turn() -> None:
    tokens = ["a", "<|end_of_text|>", "<|eot_id|>", "x", "<|im_end|>"]
    assert ends(tokens, [1, 3, 3, 3, 1], eos_token_id=1) == [1, 2]
    assert ends(tokens, [1, 1, 1, 3, 1], eos_token_id=1, eot_token_id=3) == [1, 3]
    assert ends(tokens, [1, 1, 1, 1, 1], eos_token_id=99) == []


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        ("llama", "blk.7.attn_k.weight", "model.layers.7.self_attn.k_proj.weight"),
        ("qwen3", "blk.7.attn_k.weight", "model.layers.7.self_attn.k_proj.weight"),
        ("gpt-oss", "blk.7.attn_sinks.weight", "model.layers.7.self_attn.sinks"),
        ("gpt-oss", "blk.7.ffn_gate_inp.bias", "model.layers.7.mlp.router.bias"),
        ("llama", "blk.7.ffn_down.2.weight", "model.layers.7.block_sparse_moe.experts.2.w2.weight"),
        ("phi3", "blk.7.attn_qkv.weight", "model.layers.7.self_attn.qkv_proj.weight"),
    ],
)
def test_tensors_have_the_names_of_published_checkpoints(architecture: str, name: str, expected: str) -> None:
    (entry,) = name_tensors(architecture, [GgufTensor(name, 0, (8, 4), 64, 128)], 1, FILE)
    assert (entry.name, entry.shape, entry.offset, entry.file_index) == (expected, (8, 4), 64, 1)
    assert entry.rotary_pairs_adjacent == (architecture == "llama" and "attn_k" in name)


def test_the_experts_of_a_stack_lie_one_behind_the_other() -> None:
    stack = GgufTensor("blk.0.ffn_up_exps.bias", 0, (3, 5), 64, 60)
    entries = list(name_tensors("gpt-oss", [stack], 0, FILE))
    assert [entry.name for entry in entries] == [f"model.layers.0.mlp.experts.{i}.up_proj.bias" for i in range(3)]
    assert [(entry.offset, entry.num_bytes, entry.shape) for entry in entries] == [
        (64, 20, (5,)),
        (84, 20, (5,)),
        (104, 20, (5,)),
    ]


def test_a_tensor_that_models_of_the_kind_do_not_have_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"x\.gguf: models of architecture qwen2 have no tensor 'blk\.0\.ssm"):
        list(name_tensors("qwen2", [GgufTensor("blk.0.ssm_a.weight", 0, (8,), 0, 32)], 0, FILE))
    tables = [GgufTensor("rope_freqs.weight", 0, (8,), 0, 32)]
    assert list(name_tensors("llama", tables, 0, FILE)) == []
