"""What a model answers with, told from config.json: tokens, vectors of texts, or scores of texts.

The name of its class in transformers says which head it has, and so what can be asked of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

__all__ = ["TASKS", "ModelKind", "model_kind", "num_labels"]

ModelKind: TypeAlias = Literal["generate", "embed", "score"]
"""`generate`: it goes on with texts, and its hidden states make vectors; `embed`: it has no head, and makes vectors
only; `score`: its head classifies, and gives a number to a text or a pair of texts."""

TASKS: Mapping[ModelKind, tuple[ModelKind, ...]] = {
    "generate": ("generate", "embed", "score"),
    "embed": ("embed", "score"),
    "score": ("score",),
}
"""What can be asked of a model of each kind. Texts are scored by their vectors where no head does it."""

_CLASSIFIER = "ForSequenceClassification"
_HEADLESS = ("Model", "ForMaskedLM", "ForPreTraining")
"""Heads that predict hidden tokens are of no use to a text that has none."""
_WITH_HEAD = ("LMHeadModel", "ChatGLMModel")
"""Generate, though they end like a model without a head."""
_USUAL_LABELS = 2
"""Of transformers, for a config.json that names none."""


def model_kind(architecture: str) -> ModelKind:
    """By the first entry of `architectures`; `generate` for a name that says nothing."""
    if architecture.endswith(_CLASSIFIER):
        return "score"
    is_headless = architecture.endswith(_HEADLESS) and not architecture.endswith(_WITH_HEAD)
    return "embed" if is_headless else "generate"


def num_labels(config: Mapping[str, Any]) -> int:
    """How many numbers a classifier gives."""
    named = config.get("id2label")
    if isinstance(named, Mapping):
        return len(named)

    count = config.get("num_labels")
    return count if isinstance(count, int) else _USUAL_LABELS
