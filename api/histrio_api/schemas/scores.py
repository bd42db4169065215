"""POST /v1/score and /v1/rerank, in the shapes of vLLM, Jina and Cohere: what is asked, and the whole answers."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from histrio.config.model_kind import ModelKind
from histrio_api.schemas.embeddings import TextsRequest, VectorUsage
from histrio_api.schemas.strict import NOT_EMPTY, Strict

__all__ = ["Document", "Ranked", "RerankRequest", "Reranking", "Score", "ScoreRequest", "Scores"]

_Texts = str | list[str]


class ScoreRequest(TextsRequest, frozen=True, kw_only=True):
    """POST /v1/score. Two texts, one and several, or two lists of one length."""

    task: ClassVar[ModelKind] = "score"
    text_1: _Texts
    text_2: _Texts


class Score(msgspec.Struct):
    """How near the texts of one pair are, or what the model's head gives them."""

    index: int
    score: float
    object: str = "score"


class Scores(msgspec.Struct):
    """The answer of /v1/score."""

    id: str
    created: int
    model: str
    data: list[Score]
    usage: VectorUsage
    object: str = "list"


class Document(Strict, frozen=True):
    """A document as an object."""

    text: str


class RerankRequest(TextsRequest, frozen=True, kw_only=True):
    """POST /v1/rerank."""

    task: ClassVar[ModelKind] = "score"
    query: str
    documents: Annotated[list[str | Document], NOT_EMPTY]
    top_n: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    """Most results; 0 for all."""
    return_documents: bool = True
    """Each result has its document beside the score."""


class Ranked(msgspec.Struct):
    """One document in the ranking."""

    index: int
    """Where it stands in the request."""
    relevance_score: float
    document: Document | UnsetType = UNSET


class Reranking(msgspec.Struct):
    """The answer of /v1/rerank, the nearest document first."""

    id: str
    model: str
    results: list[Ranked]
    usage: VectorUsage
