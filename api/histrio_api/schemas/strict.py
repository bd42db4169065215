"""What all requests are made of: structs that refuse what they don't know, and bounded numbers."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

__all__ = ["NumTopLogprobs", "PositiveInt", "PromptCut", "Strict", "TokenId"]

TokenId: TypeAlias = Annotated[int, Meta(ge=0)]
PositiveInt: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
PromptCut: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
NumTopLogprobs: TypeAlias = Annotated[int, Meta(ge=0, le=20)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a request: a field that we don't know is refused, not ignored."""
