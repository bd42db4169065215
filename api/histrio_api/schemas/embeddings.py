"""POST /v1/embeddings: what is asked, and the whole answer."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from histrio.config.model_kind import ModelKind
from histrio.messages import Pooling
from histrio_api.schemas.strict import PositiveInt, Strict, TokenId

__all__ = ["Embedding", "EmbeddingRequest", "Embeddings", "TextsRequest", "VectorUsage"]


class TextsRequest(Strict, frozen=True):
    """What all requests have in common of whose texts vectors or scores are made."""

    task: ClassVar[ModelKind] = "embed"
    """What is asked of the model."""

    model: str = ""
    """Empty or `default` for the one that is served."""
    user: Any = None
    """Whom the request is for; what is no text counts as nothing."""
    priority: Annotated[int, Meta(ge=0, le=100)] | None = None
    """0 is let in first; None for the most urgent that the API key may have."""
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    """Longer texts are cut to so many tokens, those that the tokenizer adds included; -1 for as many as the model
    takes."""
    add_special_tokens: bool = True
    pooling: Pooling | None = None
    """None for the model's own."""

    @classmethod
    def own_names(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """A body's fields under the names that the rest of the endpoint has for them. Raises `RequestError`."""
        return fields

    @property
    def most_tokens(self) -> int | None:
        """To how many tokens texts are cut: as `truncate_prompt_tokens`."""
        return self.truncate_prompt_tokens


class EmbeddingRequest(TextsRequest, frozen=True, kw_only=True):
    """POST /v1/embeddings. An input is text or token ids, or a list of either."""

    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: PositiveInt | None = None
    """Of models that were trained for shorter vectors: the first so many numbers."""
    normalize: bool | None = None
    """Scale vectors to length 1; None for what the model's files say."""


class Embedding(msgspec.Struct):
    """The vector of one input."""

    index: int
    embedding: msgspec.Raw
    """JSON of its numbers, or of their float32 bytes in base64."""
    object: str = "embedding"


class VectorUsage(msgspec.Struct):
    """Tokens of a request that draws none."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(msgspec.Struct):
    """The answer of /v1/embeddings."""

    data: list[Embedding]
    model: str
    usage: VectorUsage
    object: str = "list"
