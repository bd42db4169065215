"""What all requests are made of: structs that refuse what they don't know, and bounded numbers."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

__all__ = [
    "AnyTopLogprobs",
    "NamedTokens",
    "NumLogprobs",
    "NumTopLogprobs",
    "PositiveInt",
    "PromptCut",
    "Strict",
    "TokenBudget",
    "TokenId",
    "require_of_type",
]

TokenId: TypeAlias = Annotated[int, Meta(ge=0)]
PositiveInt: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
PromptCut: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
TokenBudget: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""-1 for no bound."""
NamedTokens: TypeAlias = Annotated[list[TokenId], Meta(max_length=128)]
NumLogprobs: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""At most `max-logprobs`."""
AnyTopLogprobs: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""The same, or -1 for the whole vocabulary."""
NumTopLogprobs: TypeAlias = Annotated[int, Meta(ge=0, le=20)]
"""Where the answer's form takes no more."""


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a request: a field that we don't know is refused, not ignored."""


def require_of_type(kind: str | None, custom: object, *, is_function: bool) -> None:
    """Raise `ValueError` unless a tool, or a call of one, has the field that its type names, and no other."""
    if (custom is not None) != (kind == "custom"):
        raise ValueError("the type custom has the field custom, and the type function has not")
    if kind != "custom" and not is_function:
        raise ValueError("Object missing required field `function`")
