"""The two demo models: their shapes, and how their weights are stored."""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from demo.messages import END_OF_TEXT, IM_END
from demo.tokenizer import save_tokenizer

__all__ = ["SHAPES", "build_model", "load_model", "save_model"]

SHAPES: dict[str, dict[str, Any]] = {
    "target": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
    "draft": {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
}


def build_model(name: str, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A freshly initialised model of the shape `name`, in float32."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPES[name],
    )
    return Qwen3ForCausalLM(config)


def load_model(folder: Path) -> Qwen3ForCausalLM:
    """A saved model in float32, ready to generate."""
    model: Any = Qwen3ForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    return model.eval()  # type: ignore[no-any-return]


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the weights rounded to bfloat16, the configuration and the tokenizer; does not modify `model`."""
    folder.mkdir(parents=True, exist_ok=True)
    rounded: Any = Qwen3ForCausalLM(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.to(torch.bfloat16)
    rounded.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        top_k=20,
        eos_token_id=tokenizer.convert_tokens_to_ids([IM_END, END_OF_TEXT]),
        pad_token_id=tokenizer.pad_token_id,
    )
    rounded.save_pretrained(str(folder))
    save_tokenizer(tokenizer, folder)
