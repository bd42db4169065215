"""Tiny random encoders in the format of Hugging Face, written with numpy alone: one makes vectors, one scores pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from histrio.testing.models import VOCAB_SIZE, write_safetensors, write_tokenizer

__all__ = ["ENCODERS", "write_encoder"]

_SIZES: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "bert": {**_SIZES, "architectures": ["BertModel"]},
    "bert_pairs": {
        **_SIZES,
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    },
}
"""Name → the configuration of a tiny model."""


def write_encoder(name: str, folder: Path, *, seed: int = 0) -> Path:
    """A folder that is the tiny encoder `name` of `ENCODERS` in float32, with a tokenizer. Returns the folder."""
    config = ENCODERS[name]
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    random = np.random.default_rng(seed)
    weights = {}
    for each, shape in _shapes(config).items():
        is_norm = each.endswith("LayerNorm.weight")
        gain = 0.2 if len(shape) == 1 else 2.0 / math.sqrt(shape[1])
        weights[each] = (is_norm + gain * random.standard_normal(shape)).astype(np.float32)
    write_safetensors(folder / "model.safetensors", weights)
    return folder


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = config["hidden_size"]
    scores = "id2label" in config
    prefix = "bert." if scores else ""
    rows = {
        "word_embeddings": config["vocab_size"],
        "position_embeddings": config["max_position_embeddings"],
        "token_type_embeddings": config["type_vocab_size"],
    }
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}embeddings.{name}.weight": (n, hidden) for name, n in rows.items()}
    shapes |= _norm(f"{prefix}embeddings.LayerNorm", hidden)
    for layer in range(config["num_hidden_layers"]):
        shapes |= _layer(f"{prefix}encoder.layer.{layer}.", hidden, config["intermediate_size"])
    shapes |= _linear(f"{prefix}pooler.dense", hidden, hidden)
    return shapes | (_linear("classifier", len(config["id2label"]), hidden) if scores else {})


def _layer(prefix: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        shapes |= _linear(f"{prefix}attention.{name}", hidden, hidden)
    shapes |= _norm(f"{prefix}attention.output.LayerNorm", hidden)
    shapes |= _linear(f"{prefix}intermediate.dense", inner, hidden)
    shapes |= _linear(f"{prefix}output.dense", hidden, inner)
    return shapes | _norm(f"{prefix}output.LayerNorm", hidden)


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
