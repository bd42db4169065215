"""The native library, built in place where it is not fresh, and tiny models that all tests of the CPU backend share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from histrio.kit.omp import bound_spinning

bound_spinning()

import torch  # noqa: E402 - the OpenMP setting is read while torch loads

from histrio.config.settings import MemorySettings  # noqa: E402
from histrio.contracts.backend import OpenedStage, Progress, StageSpec  # noqa: E402
from histrio_cpu.build import CannotBuild, build  # noqa: E402
from histrio_cpu.factory import CpuFactory  # noqa: E402
from histrio_torch.testing import FAMILIES, MAX_LENGTH, OTHERS, VOCAB_SIZE, Reference, refer  # noqa: E402
from histrio_torch.testing.families import make_model_of  # noqa: E402

_MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_PHI4_MINI_ROPE = {
    **{"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
    **{"short_factor": [1.0 + 0.1 * i for i in range(6)], "long_factor": [1.5 + 0.7 * i for i in range(6)]},
    "original_max_position_embeddings": MAX_LENGTH,
}
_YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32}

_DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}

CPU_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: FAMILIES[name] for name in ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3")},
    **{name: FAMILIES[name] for name in ("phi3", "phi3_longrope", "glm4")},
    **{name: OTHERS[name] for name in ("granite", "olmo2", "gpt_oss")},
    "llama_biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3": ("llama", {"rope_parameters": _LLAMA3_ROPE}),
    "dynamic": ("llama", {"rope_parameters": _DYNAMIC_ROPE}),
    "yarn": ("qwen3", {"rope_parameters": _YARN_ROPE}),
    "phi4": ("phi3", {"num_attention_heads": 8, "num_key_value_heads": 2, "sliding_window": None}),
    "phi4_mini": (
        "phi3",
        {
            **{"hidden_size": 64, "num_key_value_heads": 2, "sliding_window": 48, "tie_word_embeddings": True},
            **{"partial_rotary_factor": 0.75, "original_max_position_embeddings": MAX_LENGTH},
            "rope_parameters": _PHI4_MINI_ROPE,
        },
    ),
    "qwen2_sliding": ("qwen2", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 12}),
    "gemma": ("gemma", {"tie_word_embeddings": True}),
    "cohere": ("cohere", {"logit_scale": 0.25, "tie_word_embeddings": True}),
    "cohere_normed": ("cohere", {"logit_scale": 0.25, "tie_word_embeddings": True, "use_qk_norm": True}),
    "cohere2": (
        "cohere2",
        {"hidden_size": 64, "layer_types": _MIXED_LAYERS, "sliding_window": 12, "tie_word_embeddings": True},
    ),
    "glm": ("glm", {"partial_rotary_factor": 0.5}),
    "smollm3": ("smollm3", {"hidden_size": 64, "no_rope_layers": [1, 0, 1]}),
}
"""Name → (model type of transformers, settings on top of the common ones)."""
PARTS: dict[str, tuple[str, dict[str, Any]]] = {"gpt_oss": OTHERS["gpt_oss"]}
"""Families whose parts the library computes, though no files of them are loaded."""
ONE_OF_EACH = ("llama", "qwen3", "gemma2", "qwen3_moe", "cohere", "phi3")
"""Families that have between them all that the library does."""


class Int8Factory(CpuFactory):
    """Opens CPU stages whose blocks are int8."""

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        return super().open(msgspec.structs.replace(spec, memory=MemorySettings(kv_cache_dtype="int8")), progress)


@dataclass
class TinyModel:
    """A saved random model and transformers' own of it."""

    folder: str
    model: Any

    def refer(self, seed: int, num_prompt_tokens: int, num_tokens: int = 16) -> Reference:
        """What transformers says to a random prompt."""
        return refer(self.model, prompt(seed, num_prompt_tokens), num_tokens)


def prompt(seed: int, num_tokens: int) -> list[int]:
    """Random ids of the tiny vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB_SIZE, (num_tokens,), generator=generator).tolist()


@pytest.fixture(scope="session", autouse=True)
def _library() -> None:
    """The library that belongs to the sources; without a compiler there is nothing to test."""
    try:
        build()
    except CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyModel]:
    """Name in `CPU_FAMILIES` or `PARTS` → its tiny model."""
    made: dict[str, TinyModel] = {}

    def get(family: str) -> TinyModel:
        if family not in made:
            folder: Path = tmp_path_factory.mktemp(family)
            model_type, settings = {**CPU_FAMILIES, **PARTS}[family]
            made[family] = TinyModel(str(folder), make_model_of(model_type, folder, **settings))
        return made[family]

    return get
