"""How vectors are written: shortened, scaled, and as JSON."""

from __future__ import annotations

from base64 import b64encode

import msgspec
import numpy as np

from histrio.errors import RequestError
from histrio_api.answer.vectors import Vector
from histrio_api.schemas.embeddings import Embedding, EmbeddingRequest
from histrio_api.shared.edge import Edge

__all__ = ["embedding", "scaled", "shaped"]


def embedding(edge: Edge, request: EmbeddingRequest, index: int, vector: Vector) -> Embedding:
    """One vector as the request wants it. Raises `RequestError` where it cannot have that many numbers."""
    normalizes = edge.gateway.model.vectors.normalizes if request.normalize is None else request.normalize
    vector = shaped(edge, vector, request.dimensions, normalizes=normalizes)
    if request.encoding_format == "base64":
        return Embedding(index, msgspec.Raw(b'"' + b64encode(vector.tobytes()) + b'"'))
    return Embedding(index, msgspec.Raw(msgspec.json.encode(vector.tolist())))


def shaped(edge: Edge, vector: Vector, dimensions: int | None, *, normalizes: bool) -> Vector:
    """With so many numbers, None for all, and of length 1 where it `normalizes`. Raises `RequestError`."""
    trained = None if edge.settings.any_dimensions else edge.gateway.model.vectors.widths
    vector = _shortened(vector, dimensions, trained)
    return scaled(vector) if normalizes else vector


def scaled(vector: Vector) -> Vector:
    """To length 1; a vector of zeros stays."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / length).astype("<f4") if length else vector


def _shortened(vector: Vector, dimensions: int | None, trained: list[int] | None) -> Vector:
    """Its first numbers; `trained` are the widths below its own that the model was trained for, None for any."""
    width = len(vector)
    if dimensions is None or dimensions == width:
        return vector
    if dimensions < width and (trained is None or dimensions in trained):
        return vector[:dimensions]

    shorter = "any below" if trained is None else ", ".join(str(each) for each in trained if each < width)
    allowed = f"{width}{f', or {shorter}' if shorter else ''}"
    raise RequestError(f"dimensions: vectors of this model may have {allowed}", param="dimensions")
