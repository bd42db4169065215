"""POST /v1/score and /v1/rerank, with the other URLs that their clients know."""

from __future__ import annotations

import time

from msgspec import UNSET, UnsetType

from histrio.errors import RequestError
from histrio.messages import Pooling
from histrio_api.answer.similarity import head_scores, similarities
from histrio_api.answer.vectors import Texts, Vector
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.request.prompts import require_at_most
from histrio_api.request.received import Arrival
from histrio_api.request.texts import encoded_pairs, encoded_texts
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.described import described
from histrio_api.routes.vectors import respond_with_vectors
from histrio_api.schemas.scores import Document, Ranked, Reranking, RerankRequest, Score, ScoreRequest, Scores
from histrio_api.shared.edge import Edge

__all__ = ["rerank", "score"]

_HEADS_POOLING: Pooling = "last"
"""A head's number stands behind the last token, from which on the whole pair is known."""


@post(["/v1/score", "/score"], opt=described(ScoreRequest, Scores))
async def score(request: HttpRequest) -> Response:
    """How near the texts of each pair are."""
    return await respond_with_vectors(request, ScoreRequest, _pairs, _scores, "score-")


@post(["/v1/rerank", "/v2/rerank", "/rerank"], opt=described(RerankRequest, Reranking))
async def rerank(request: HttpRequest) -> Response:
    """Documents in the order of how near they are to a query."""
    return await respond_with_vectors(request, RerankRequest, _query_and_documents, _ranking, "rerank-")


def _pairs(edge: Edge, request: ScoreRequest, arrival: Arrival) -> Texts:
    firsts, seconds = _listed(request.text_1), _listed(request.text_2)
    if not firsts or not seconds or len(firsts) not in (1, len(seconds)):
        text = f"text_1: has {len(firsts)} texts and text_2 has {len(seconds)}; give one, or as many as text_2 has"
        raise RequestError(text, param="text_1")

    require_at_most("text_2", "texts are accepted together with text_1", len(firsts) + len(seconds), _most(edge))
    if _has_head(edge):
        pairs = list(zip(firsts * (len(seconds) // len(firsts)), seconds, strict=True))
        return Texts(request, arrival, encoded_pairs(edge, request, pairs, "text_2"), _HEADS_POOLING)

    prompts = encoded_texts(edge, request, firsts, "text_1") + encoded_texts(edge, request, seconds, "text_2")
    return Texts(request, arrival, prompts, request.pooling or edge.gateway.model.vectors.pooling)


def _scores(edge: Edge, request: ScoreRequest, texts: Texts, vectors: list[Vector]) -> Scores:
    found = _found(edge, vectors, len(_listed(request.text_1)))
    return Scores(
        id=texts.id,
        created=int(time.time()),
        model=edge.gateway.model.id,
        data=[Score(index, value) for index, value in enumerate(found)],
        usage=texts.usage,
    )


def _query_and_documents(edge: Edge, request: RerankRequest, arrival: Arrival) -> Texts:
    if not request.documents:
        raise RequestError("documents: must not be empty", param="documents")

    require_at_most("documents", "texts are accepted together with query", 1 + len(request.documents), _most(edge))
    documents = [_text(each) for each in request.documents]
    if _has_head(edge):
        pairs = [(request.query, each) for each in documents]
        return Texts(request, arrival, encoded_pairs(edge, request, pairs, "documents"), _HEADS_POOLING)

    prompts = encoded_texts(edge, request, [request.query], "query")
    prompts += encoded_texts(edge, request, documents, "documents")
    return Texts(request, arrival, prompts, request.pooling or edge.gateway.model.vectors.pooling)


def _ranking(edge: Edge, request: RerankRequest, texts: Texts, vectors: list[Vector]) -> Reranking:
    found = _found(edge, vectors, 1)
    nearest = sorted(range(len(found)), key=lambda index: -found[index])[: request.top_n or None]
    results = [Ranked(index, found[index], _shown(request, index)) for index in nearest]
    return Reranking(texts.id, edge.gateway.model.id, results, texts.usage)


def _has_head(edge: Edge) -> bool:
    """Whether the model reads both texts of a pair together."""
    return edge.gateway.model.kind == "score"


def _found(edge: Edge, vectors: list[Vector], num_firsts: int) -> list[float]:
    """The scores of all pairs; without a head the vectors of the first texts come before those of the second."""
    if _has_head(edge):
        return head_scores(vectors, squeezes=edge.gateway.model.vectors.squeezes)
    return similarities(vectors[:num_firsts], vectors[num_firsts:])


def _shown(request: RerankRequest, index: int) -> Document | UnsetType:
    return Document(text=_text(request.documents[index])) if request.return_documents else UNSET


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _text(document: str | Document) -> str:
    return document if isinstance(document, str) else document.text


def _most(edge: Edge) -> int:
    return edge.settings.max_inputs
