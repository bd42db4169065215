"""What all requests are made of: structs that refuse what they don't know, and bounded numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec import Meta

from histrio.contracts.sampler import TOKEN_ID

__all__ = [
    "ARRAY",
    "NOT_EMPTY",
    "NULL",
    "OBJECT",
    "STRING",
    "AnyTopLogprobs",
    "NamedTokens",
    "NumLogprobs",
    "NumTopLogprobs",
    "OnlyText",
    "PositiveInt",
    "PromptCut",
    "Schema",
    "Strict",
    "TokenBudget",
    "TokenId",
    "by_type",
    "require_of_type",
]

Schema: TypeAlias = Mapping[str, Any]
TokenId: TypeAlias = Annotated[int, Meta(ge=0, extra_json_schema={"title": TOKEN_ID})]
OnlyText: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": ["text"]})]
"""A type of which all others are refused by name."""
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

NOT_EMPTY = Meta(extra_json_schema={"minItems": 1})
"""Of lists that must not be empty; the check has words of its own."""
ARRAY, NULL, OBJECT, STRING = ({"type": name} for name in ("array", "null", "object", "string"))


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a request: a field that we don't know is refused, not ignored."""

    rules: ClassVar[Schema] = {}
    """What checks ask beyond the types of fields, for the OpenAPI document: keywords of a JSON schema, of which those
    in `properties` go before the fields' own."""


def by_type(default: str = "", /, **fields: Schema) -> dict[str, Any]:
    """The rules of a struct whose `type` says which of its fields must be there, and which must not (`NULL`).

    `default` is the type where none is given.
    """
    of_types = []
    for name, expected in fields.items():
        kind = {"enum": [name, None] if name == default else [name]}
        required = [each for each, schema in expected.items() if schema is not NULL]
        if name != default:
            required.append("type")
        of_types.append({"properties": {"type": kind, **expected}, "required": required})
    return {"anyOf": of_types}


def require_of_type(kind: str | None, custom: object, *, is_function: bool) -> None:
    """Raise `ValueError` unless a tool, or a call of one, has the field that its type names, and no other."""
    if (custom is not None) != (kind == "custom"):
        raise ValueError("the type custom has the field custom, and the type function has not")
    if kind != "custom" and not is_function:
        raise ValueError("Object missing required field `function`")
