"""GET /v1/models."""

from __future__ import annotations

import msgspec

__all__ = ["ModelCard"]


class ModelCard(msgspec.Struct):
    """One entry of /v1/models."""

    id: str
    created: int
    max_model_len: int
    """Longest prompt + answer in tokens."""
    object: str = "model"
    owned_by: str = "histrio"
