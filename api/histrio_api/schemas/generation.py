"""The fields that chat and plain completions share, in requests and in answers.

A request struct has only fields that are honoured. What else a request may carry is decided in `fields.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from histrio.errors import RequestError
from histrio_api.schemas.formats import StructuredOutputs
from histrio_api.schemas.strict import PositiveInt, Strict, TokenId
from histrio_api.schemas.unfolded import unfolded

__all__ = ["AnsweredChoice", "GenerationRequest", "StreamOptions", "UsageStats"]

UsageStats: TypeAlias = Literal["none", "last", "every"]

_NumDrafts = Annotated[int, Meta(ge=0, le=64)]
_Priority = Annotated[int, Meta(ge=0, le=100)]
_Salt = Annotated[str, Meta(max_length=256)]


class StreamOptions(Strict, frozen=True):
    """What a stream carries beside the text."""

    include_usage: bool = False
    """A last chunk without choices has the usage."""
    continuous_usage_stats: bool = False
    """Every chunk has the usage so far; needs `include_usage`."""

    @property
    def usage_stats(self) -> UsageStats:
        """Which chunks have a usage."""
        if not self.include_usage:
            return "none"
        return "every" if self.continuous_usage_stats else "last"


class GenerationRequest(Strict, frozen=True):
    """What chat and plain completions have in common; sampling fields are kept apart."""

    model: str = ""
    """Empty or `default` for the one that is served."""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: PositiveInt | None = None
    n: PositiveInt = 1
    seed: int | None = None
    """Any integer; its lowest 64 bits count."""
    stop: str | list[str] = msgspec.field(default_factory=list)
    stop_token_ids: list[TokenId] = msgspec.field(default_factory=list)
    include_stop_str_in_output: bool = False
    """The text of an answer ends with the stop string, or with the token of `stop_token_ids`, that ended it."""
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    """False: special tokens that are shown have none between them, of tokenizers that write none."""
    priority: _Priority | None = None
    """0 is let in first, and so is a request without one, unless its API key says otherwise."""
    cache_salt: _Salt = ""
    """Prefixes are shared only among requests of the same salt."""
    max_speculation: _NumDrafts | None = None
    """Most tokens drafted at a time, within what `[engine]` allows; 0 for none."""
    user: Any = None
    """Whom the request is for; what is no text counts as nothing."""
    safety_identifier: Any = None
    """The successor of `user`."""
    response_format: dict[str, Any] | None = None
    """A `ResponseFormat`, or a kind of grammar that a plugin enforces."""
    structured_outputs: StructuredOutputs | None = None
    json_schema: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    grammar: str | None = None
    ebnf: str | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    @classmethod
    def own_names(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """A body's fields under the names that the rest of the endpoint has for them. Raises `RequestError`."""
        given = unfolded(fields, "sampling_params")
        newer = "max_completion_tokens"
        if newer not in given or newer in cls.__struct_fields__:
            return given
        if given.get("max_tokens", given[newer]) != given[newer]:
            raise RequestError(f"{newer}: differs from max_tokens; give one of them", param=newer)
        return {name: value for name, value in given.items() if name != newer} | {"max_tokens": given[newer]}

    @property
    def user_name(self) -> str:
        """`safety_identifier`, or else `user`."""
        named = self.safety_identifier or self.user
        return named if isinstance(named, str) else ""

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


class AnsweredChoice(msgspec.Struct, kw_only=True):
    """What the choices of a whole answer have in common."""

    index: int
    finish_reason: str
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    """Of all tokens that were generated, where ids are asked for."""
