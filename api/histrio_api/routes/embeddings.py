"""POST /v1/embeddings."""

from __future__ import annotations

from histrio_api.answer.embeddings import embedding
from histrio_api.answer.vectors import Texts, Vector
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.request.received import Arrival
from histrio_api.request.texts import input_prompts
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.described import described
from histrio_api.routes.vectors import respond_with_vectors
from histrio_api.schemas.embeddings import EmbeddingRequest, Embeddings
from histrio_api.shared.edge import Edge

__all__ = ["embeddings"]


@post("/v1/embeddings", opt=described(EmbeddingRequest, Embeddings))
async def embeddings(request: HttpRequest) -> Response:
    """One vector for each text."""
    return await respond_with_vectors(request, EmbeddingRequest, _texts, _answer, "embd-")


def _texts(edge: Edge, request: EmbeddingRequest, arrival: Arrival) -> Texts:
    prompts = input_prompts(edge, request, request.input)
    return Texts(request, arrival, prompts, request.pooling or edge.gateway.model.vectors.pooling)


def _answer(edge: Edge, request: EmbeddingRequest, texts: Texts, vectors: list[Vector]) -> Embeddings:
    data = [embedding(edge, request, at, vector) for at, vector in enumerate(vectors)]
    return Embeddings(data, edge.gateway.model.id, texts.usage)
