"""Ollama's /api/embed and /api/embeddings: what is asked, and the whole answers."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from histrio_api.schemas.embeddings import TextsRequest
from histrio_api.schemas.ollama import RULES, own_names
from histrio_api.schemas.strict import PositiveInt, Schema

__all__ = ["OllamaEmbedRequest", "OllamaEmbedding", "OllamaEmbeddingRequest", "OllamaEmbeddings", "OllamaTextsRequest"]


class OllamaTextsRequest(TextsRequest, frozen=True, kw_only=True):
    """What both have in common."""

    rules: ClassVar[Schema] = RULES

    truncate: bool = True
    """Cut texts to what the model takes; false refuses longer ones."""

    @classmethod
    def own_names(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Raises `RequestError`."""
        return own_names(fields)

    @property
    def most_tokens(self) -> int | None:
        """As `truncate_prompt_tokens` says, or else `truncate`."""
        if self.truncate_prompt_tokens is None and self.truncate:
            return -1
        return self.truncate_prompt_tokens


class OllamaEmbedRequest(OllamaTextsRequest, frozen=True, kw_only=True):
    """POST /api/embed."""

    input: str | list[str] = ""
    """Empty to have the model loaded, and nothing else."""
    dimensions: PositiveInt | None = None
    """Of models that were trained for shorter vectors: the first so many numbers."""


class OllamaEmbeddingRequest(OllamaTextsRequest, frozen=True, kw_only=True):
    """POST /api/embeddings."""

    prompt: str = ""
    """Empty to have the model loaded, and nothing else."""


class OllamaEmbeddings(msgspec.Struct):
    """The answer of /api/embed. Durations are nanoseconds."""

    model: str
    embeddings: list[list[float]]
    """Each of length 1."""
    total_duration: int
    load_duration: int
    """Until the texts were encoded: a model is never loaded for a request."""
    prompt_eval_count: int
    """Tokens of all texts."""


class OllamaEmbedding(msgspec.Struct):
    """The answer of /api/embeddings."""

    embedding: list[float]
    """Not scaled; empty for an empty prompt."""
