"""GET /v1/models."""

from __future__ import annotations

import msgspec

from histrio.config.model_kind import ModelKind

__all__ = ["ModelCard"]


class ModelCard(msgspec.Struct):
    """One entry of /v1/models."""

    id: str
    created: int
    max_model_len: int
    """Longest prompt + answer in tokens."""
    kind: ModelKind
    tasks: list[ModelKind]
    """What can be asked of it: `generate` text, `embed` texts, `score` and rank texts."""
    object: str = "model"
    owned_by: str = "histrio"
