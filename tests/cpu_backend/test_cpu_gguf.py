"""A model in a GGUF file computes what the same model in safetensors does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from histrio.config.gguf.folder import CACHE_VARIABLE, folder_of_gguf
from histrio.config.gguf.pointer import POINTER
from histrio.contracts.backend import StageSpec
from histrio.testing.gguf import F32, Q4_0, Q8_0
from histrio.testing.gguf_models import write_gguf_model
from histrio_cpu.factory import CpuFactory
from histrio_torch.testing import MOST_ERROR, NUM_LAYERS, VOCAB_SIZE, logits_error, refer
from histrio_torch.testing.families import make_model_of
from tests.cpu_backend.conftest import prompt
from tests.cpu_backend.test_cpu_families import logits_of

NUM_PROMPT_TOKENS = 21
_GEMMA = {"sliding_window": 12, "query_pre_attn_scalar": 16, "tie_word_embeddings": True}
_YARN = {
    **{"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0},
    **{"truncate": False, "original_max_position_embeddings": 32},
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
FAMILIES: dict[str, dict[str, Any]] = {
    **{"llama": {}, "qwen2": {}, "qwen3": {}, "qwen3_moe": _EXPERTS, "gemma2": _GEMMA, "gemma3_text": _GEMMA},
    **{"phi3": {"hidden_size": 64, "sliding_window": None}, "cohere": {"tie_word_embeddings": True}},
    **{"glm4": {"partial_rotary_factor": 0.5}, "smollm3": {"hidden_size": 64}, "olmo2": {"hidden_size": 64}},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 12, "rope_parameters": _YARN},
    **{"granite": {}, "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}},
}
"""Model type of transformers → settings, which a GGUF file can hold."""
WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
"""Rows of whole blocks."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def as_gguf(model: Path, folder: Path, block_type: int = F32) -> str:
    """The model folder that histrio makes of the model, written as a GGUF file, with some tokenizer of its size."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:VOCAB_SIZE]
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.save(str(model / "tokenizer.json"))
    return str(folder_of_gguf(write_gguf_model(model, folder / "model.gguf", block_type)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_in_a_gguf_file_equals_transformers(family: str, tmp_path: Path) -> None:
    reference = refer(make_model_of(family, tmp_path, **FAMILIES[family]), prompt(1, NUM_PROMPT_TOKENS), 1)
    folder = as_gguf(tmp_path, tmp_path)

    assert logits_error(logits_of(folder, reference.ids), reference.logits) <= MOST_ERROR
    assert logits_error(logits_of(folder, reference.ids, (1,)), reference.logits) <= MOST_ERROR


@pytest.mark.parametrize(("family", "note"), [("llama", "rotary_pairs_adjacent"), ("gemma2", "has_one_added")])
def test_a_lost_note_of_the_file_is_seen(family: str, note: str, tmp_path: Path) -> None:
    reference = refer(make_model_of(family, tmp_path, **FAMILIES[family]), prompt(1, NUM_PROMPT_TOKENS), 1)
    folder = as_gguf(tmp_path, tmp_path)
    pointer = json.loads(Path(folder, POINTER).read_text())
    for tensor in pointer["tensors"]:
        tensor.pop(note, None)
    Path(folder, POINTER).write_text(json.dumps(pointer))

    assert logits_error(logits_of(folder, reference.ids), reference.logits) > 100 * MOST_ERROR


@pytest.mark.parametrize(("block_type", "least", "most"), [(Q8_0, 1e-4, 0.06), (Q4_0, 0.03, 0.5)])
def test_blocks_are_as_near_as_their_bits_allow(block_type: int, least: float, most: float, tmp_path: Path) -> None:
    make_model_of("qwen3", tmp_path, **WIDE)
    ids = prompt(1, NUM_PROMPT_TOKENS)
    folder = as_gguf(tmp_path, tmp_path, block_type)

    assert least < logits_error(logits_of(folder, ids), logits_of(str(tmp_path), ids)) < most


def test_weight_bytes_are_told_before_and_behind_loading_alike(tmp_path: Path) -> None:
    make_model_of("llama", tmp_path, **WIDE)
    folder = as_gguf(tmp_path, tmp_path, Q8_0)
    spec = StageSpec(folder, 0, NUM_LAYERS, NUM_LAYERS, max_sequence_length=64)
    probe = CpuFactory().supports(spec)
    stage = CpuFactory().open(spec, lambda done, text: None)
    stage.close()

    assert probe.available
    assert probe.dtype == stage.capacity.dtype == "float32"
    assert probe.weight_bytes == pytest.approx(stage.capacity.param_bytes, rel=0.02)


def test_a_format_without_kernels_is_refused_by_name(tmp_path: Path) -> None:
    make_model_of("llama", tmp_path)
    folder = as_gguf(tmp_path, tmp_path)
    pointer = json.loads(Path(folder, POINTER).read_text())
    matrix = next(tensor for tensor in pointer["tensors"] if "q_proj.weight" in tensor["name"])
    matrix.update(block_type=28, num_bytes=matrix["num_bytes"] * 2)  # float64
    Path(folder, POINTER).write_text(json.dumps(pointer))
    probe = CpuFactory().supports(StageSpec(folder, 0, NUM_LAYERS, NUM_LAYERS))

    assert not probe.available
    assert "F64" in probe.reason
