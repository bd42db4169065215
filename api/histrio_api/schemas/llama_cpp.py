"""llama.cpp's own endpoints: what /completion and /infill are asked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from histrio.errors import RequestError
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.schemas.local_options import local_options
from histrio_api.schemas.strict import NumTopLogprobs, Schema, Strict, TokenId

__all__ = ["ExtraFile", "InfillRequest", "LlamaPrompt", "LlamaRequest"]

LlamaPrompt = str | list[str | TokenId | list[str | TokenId]]
"""A text, ids, or both in one list; or a list of such prompts."""
_NEVER = -100
"""The bias of a token that must not come."""
_BIAS = {"anyOf": [{"type": "number", "minimum": _NEVER, "maximum": -_NEVER}, {"const": False}]}
_PAIR = {"type": "array", "prefixItems": [{"type": "integer", "minimum": 0}, _BIAS], "minItems": 2, "maxItems": 2}


class LlamaFields(GenerationRequest, frozen=True, kw_only=True):
    """What both have in common."""

    rules: ClassVar[Schema] = {"properties": {"logit_bias": {"anyOf": [{"type": "array", "items": _PAIR}]}}}

    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """All that fit by default; with 0 the prompt is read, and nothing is generated."""
    n_probs: NumTopLogprobs = 0
    """Log probabilities of each token, and of that many of the likeliest."""
    return_tokens: bool = False
    """A whole answer has its tokens too, as streams do."""
    add_special_tokens: bool = True

    @classmethod
    def own_names(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Raises `RequestError`."""
        given = local_options(fields)
        if isinstance(given.get("logit_bias"), list):
            given["logit_bias"] = dict(map(_bias, given["logit_bias"]))
        return given


class LlamaRequest(LlamaFields, frozen=True, kw_only=True):
    """POST /completion."""

    prompt: LlamaPrompt


class ExtraFile(Strict, frozen=True):
    """Another file that the model may look at."""

    text: str
    filename: str = ""


class InfillRequest(LlamaFields, frozen=True, kw_only=True):
    """POST /infill."""

    input_prefix: str = ""
    """What stands before the gap."""
    input_suffix: str = ""
    """What stands behind it."""
    input_extra: list[ExtraFile] = msgspec.field(default_factory=list)
    prompt: str = ""
    """What is filled in already."""


def _bias(pair: Any) -> tuple[str, Any]:
    """`[id, bias]`, where false forbids the token. Raises `RequestError`."""
    match pair:
        case [int() as token_id, bias] if not isinstance(token_id, bool):
            return str(token_id), _NEVER if bias is False else bias
        case _:
            text = "logit_bias: must be an object, or a list of pairs of a token's id and its bias"
            raise RequestError(text, param="logit_bias")
