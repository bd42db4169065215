"""POST /api/embed and /api/embeddings."""

from __future__ import annotations

import time

from histrio_api.answer.embeddings import shaped
from histrio_api.answer.vectors import Texts, Vector
from histrio_api.forms.ollama import nanoseconds
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.request.prompts import require_at_most
from histrio_api.request.received import Arrival
from histrio_api.request.texts import encoded_texts
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.described import described
from histrio_api.routes.vectors import respond_with_vectors
from histrio_api.schemas.ollama_embeddings import (
    OllamaEmbedding,
    OllamaEmbeddingRequest,
    OllamaEmbeddings,
    OllamaEmbedRequest,
    OllamaTextsRequest,
)
from histrio_api.shared.edge import Edge

__all__ = ["ollama_embed", "ollama_embedding"]


@post("/api/embed", opt=described(OllamaEmbedRequest, OllamaEmbeddings))
async def ollama_embed(request: HttpRequest) -> Response:
    """One vector for each text."""
    return await respond_with_vectors(request, OllamaEmbedRequest, _inputs, _embeddings, "embd-")


@post("/api/embeddings", opt=described(OllamaEmbeddingRequest, OllamaEmbedding))
async def ollama_embedding(request: HttpRequest) -> Response:
    """The vector of one text, as older clients ask for it."""
    return await respond_with_vectors(request, OllamaEmbeddingRequest, _prompt, _embedding, "embd-")


def _inputs(edge: Edge, request: OllamaEmbedRequest, arrival: Arrival) -> Texts:
    given = request.input
    texts = given if isinstance(given, list) else _texts(given)
    require_at_most("input", "texts are accepted", len(texts), edge.settings.max_inputs)
    return _encoded(edge, request, arrival, texts, "input")


def _prompt(edge: Edge, request: OllamaEmbeddingRequest, arrival: Arrival) -> Texts:
    return _encoded(edge, request, arrival, _texts(request.prompt), "prompt")


def _texts(given: str) -> list[str]:
    """None where there is nothing to make a vector of."""
    return [given] if given else []


def _encoded(edge: Edge, request: OllamaTextsRequest, arrival: Arrival, texts: list[str], param: str) -> Texts:
    prompts = encoded_texts(edge, request, texts, param)
    return Texts(request, arrival, prompts, request.pooling or edge.gateway.model.vectors.pooling)


def _embeddings(edge: Edge, request: OllamaEmbedRequest, texts: Texts, vectors: list[Vector]) -> OllamaEmbeddings:
    scaled = [shaped(edge, vector, request.dimensions, normalizes=True).tolist() for vector in vectors]
    return OllamaEmbeddings(
        edge.gateway.model.id,
        scaled,
        total_duration=nanoseconds(time.perf_counter() - texts.arrival.at_s),
        load_duration=nanoseconds(texts.reading_s),
        prompt_eval_count=texts.usage.prompt_tokens,
    )


def _embedding(edge: Edge, request: OllamaEmbeddingRequest, texts: Texts, vectors: list[Vector]) -> OllamaEmbedding:
    return OllamaEmbedding(vectors[0].tolist() if vectors else [])
