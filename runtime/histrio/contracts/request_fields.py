"""Which request fields are honoured, and within which bounds: nothing is ignored in silence.

The bounds stand once, as `msgspec.Meta` on the struct of the sampler or engine backend that owns the field; the
texts a client sees are made from them, and never repeat what the client sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from histrio.config.field_docs import field_docs
from histrio.contracts.engine_backend import EngineFactory
from histrio.contracts.honours import OF_STAGES, Honours
from histrio.contracts.sampler import Sampler
from histrio.errors import PluginError, RequestError

__all__ = ["CORE_FIELDS", "FieldTable"]

_OF_EDGES = frozenset(
    """
    add_generation_prompt add_special_tokens chat_template_kwargs continue_final_message ebnf echo enable_thinking
    function_call functions grammar guided_choice guided_grammar guided_json guided_regex ignore_eos
    include_reasoning include_stop_str_in_output json_schema max_completion_tokens max_reasoning_tokens max_tokens
    messages metadata model n
    parallel_tool_calls prediction prompt prompt_cache_key prompt_cache_retention reasoning reasoning_effort regex
    request_id response_format return_token_ids safety_identifier skip_special_tokens spaces_between_special_tokens
    stop stop_token_ids stream stream_options structured_outputs suffix think thinking tool_choice tools
    truncate_prompt_tokens truncation_side user
    """.split()
)
CORE_FIELDS = _OF_EDGES.union(Honours.__struct_fields__) - {"grammar_kinds", "vocabulary_logprobs"}
"""Fields that requests have whatever the samplers are; none of them can be a sampler's."""
_MAX_PARAM_CHARS = 64
_MAX_INT = 2**63 - 1
"""Largest integer of a field without a bound of its own; larger ones fit into no message and no array."""


class _Owner(NamedTuple):
    """The owner of a field: a sampler or an engine backend."""

    name: str
    params: type[msgspec.Struct]


class FieldTable:
    """The fields of a set of samplers: the owner of each, and its bounds.

    Raises `PluginError` if two samplers have one name or own one field, or if a field has no default.
    """

    def __init__(self, samplers: Sequence[type[Sampler]]) -> None:
        self.unknown = "this field is not known here"
        """What is said of any other field."""
        self.honours = OF_STAGES
        """Which request fields besides these are honoured."""
        self.honoured_by = "this server"
        """What serves, in words."""
        self.can_continue: Callable[[dict[str, Any]], bool] = lambda _fields: True
        """Whether a begun answer with these fields goes on with the same tokens after a failure; with samplers any."""
        self._owners: dict[str, _Owner] = {}
        self._types: dict[str, inspect.Type] = {}
        self._bounded: set[str] = set()
        names = [sampler.name for sampler in samplers]
        for sampler in samplers:
            if names.count(sampler.name) > 1:
                raise PluginError(f"two samplers are named {sampler.name!r}: rename one of them")

            self._add(_Owner(sampler.name, sampler.params))

    @classmethod
    def of_engine(cls, factory: EngineFactory) -> FieldTable:
        """The fields that an engine backend enforces, in place of all samplers. Raises `PluginError`."""
        table = cls([])
        table.honoured_by = f"the backend {factory.name!r}"
        table.unknown = f"{table.honoured_by} does not honour this field"
        table.honours = _of_engine(factory)
        table.can_continue = factory.can_continue
        table._add(_Owner(factory.name, factory.fields))
        return table

    @property
    def known_fields(self) -> list[str]:
        """Every field that is honoured, sorted."""
        return sorted(self._owners)

    def schemas(self) -> dict[str, dict[str, Any]]:
        """For each field the JSON schema of its values, with its default, and a description if its owner has one."""
        found: dict[str, dict[str, Any]] = {}
        for owner in dict.fromkeys(self._owners.values()):
            _, kinds = msgspec.json.schema_components([owner.params], ref_template="{name}")
            properties = kinds[owner.params.__name__]["properties"]
            for field, text in field_docs(owner.params).items():
                properties.get(field, {}).setdefault("description", text)
            found |= properties
        return found

    def check(self, fields: Mapping[str, Any], vocab_size: int | None = None) -> None:
        """Raise `RequestError` with the field as `param` for an unknown field or a value out of its bounds.

        With `vocab_size`, also for a token id beyond the model's.
        """
        for field, value in fields.items():
            owner = self._owners.get(field)
            if owner is None:
                known = ", ".join(self.known_fields) or "none"
                raise RequestError(
                    f"{self.unknown}; sampling fields are: {known}",
                    param=field[:_MAX_PARAM_CHARS],
                    code="unknown_parameter",
                )

            if not _fits(owner, field, value) or not (field in self._bounded or _is_sendable(value)):
                raise RequestError(f"{field} must be {_allowed(self._types[field])}", param=field)
            if vocab_size is not None and _largest_token_id(self._types[field], value) >= vocab_size:
                raise RequestError(f"{field}: token ids must be below {vocab_size}", param=field)

    def owners(self, fields: Iterable[str]) -> set[str]:
        """The names of those that own these checked fields."""
        return {self._owners[field].name for field in fields}

    def params(self, sampler: type[Sampler], fields: Mapping[str, Any]) -> msgspec.Struct:
        """The sampler's own part of checked fields, as its params struct; what is absent has its default."""
        owner = _Owner(sampler.name, sampler.params)
        own = {field: value for field, value in fields.items() if self._owners.get(field) == owner}
        return msgspec.convert(own, sampler.params)

    def _add(self, owner: _Owner) -> None:
        info = inspect.type_info(owner.params)
        assert isinstance(info, inspect.StructType), f"the fields of {owner.name!r} are no msgspec struct"
        for field in info.fields:
            name, other = field.encode_name, self._owners.get(field.encode_name)
            if other is not None:
                raise PluginError(f"the samplers {other.name!r} and {owner.name!r} both own the field {name!r}")

            if field.required:
                raise PluginError(f"the field {name!r} of {owner.name!r} needs a default that does nothing")

            self._owners[name] = owner
            self._types[name] = field.type
            if _is_bounded(field.type):
                self._bounded.add(name)


def _of_engine(factory: EngineFactory) -> Honours:
    """What it says; version 1 of the contract says it of two fields only, by their names among `fields`."""
    if factory.traits.contract > 1:
        return factory.honours
    names = factory.fields.__struct_encode_fields__
    return Honours(seed="seed" in names, logprobs="logprobs" in names)


def _fits(owner: _Owner, field: str, value: Any) -> bool:
    """Whether the value has the type and bounds its owner declares."""
    if isinstance(value, float) and not math.isfinite(value):
        return False  # NaN is within all bounds

    try:
        msgspec.convert({field: value}, owner.params)
    except msgspec.ValidationError:
        return False
    return True


def _is_bounded(expected: inspect.Type) -> bool:
    """Whether every number in a value of this type has bounds that its owner declares."""
    match expected:
        case inspect.IntType() | inspect.FloatType():
            is_above = expected.ge is not None or expected.gt is not None
            return is_above and (expected.le is not None or expected.lt is not None)
        case inspect.Metadata(type=inner) | inspect.ListType(item_type=inner) | inspect.DictType(value_type=inner):
            return _is_bounded(inner)
        case inspect.UnionType(types=types):
            return all(map(_is_bounded, types))
        case _:
            return isinstance(expected, inspect.BoolType | inspect.LiteralType | inspect.NoneType | inspect.StrType)


def _is_sendable(value: Any) -> bool:
    """Whether every number in a JSON value has a place in messages and arrays."""
    match value:
        case int():
            return -_MAX_INT <= value <= _MAX_INT
        case float():
            return math.isfinite(value)
        case list():
            return all(map(_is_sendable, value))
        case dict():
            return all(map(_is_sendable, value.values()))
        case _:
            return True


def _largest_token_id(expected: inspect.Type, value: Any) -> int:
    """The largest number in the value that its type declares as `TokenId` or `TokenIdKey`; -1 if there is none."""
    match expected:
        case inspect.Metadata(extra={"is_token_id": True}):
            return int(value)
        case inspect.Metadata(type=inner):
            return _largest_token_id(inner, value)
        case inspect.ListType(item_type=inspect.Metadata(extra={"is_token_id": True})):
            return max(value, default=-1)
        case inspect.ListType(item_type=part) | inspect.DictType(key_type=part):
            return max((_largest_token_id(part, each) for each in value), default=-1)
        case inspect.UnionType(types=(inner, inspect.NoneType())) if value is not None:
            return _largest_token_id(inner, value)
        case _:
            return -1


def _allowed(expected: inspect.Type) -> str:
    """What a field may be, in words; `Meta(description=…)` of a plugin overrides them."""
    match expected:
        case inspect.Metadata(type=inner, extra_json_schema=schema):
            return str((schema or {}).get("description") or _allowed(inner))
        case inspect.IntType() | inspect.FloatType():
            return _allowed_number(expected)
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case inspect.NoneType():
            return "null"
        case inspect.UnionType(types=types):
            return " or ".join(_allowed(each) for each in types)
        case inspect.StrType():
            return "a string"
        case inspect.ListType(item_type=item):
            return f"a list, each item {_allowed(item)}"
        case inspect.DictType(value_type=value):
            return f"an object, each value {_allowed(value)}"
        case _:
            return "of another form, see the sampler's documentation"


def _allowed_number(expected: inspect.IntType | inspect.FloatType) -> str:
    """The range of a number in words, e.g. "a number above 0 and at most 1"."""
    noun = "an integer" if isinstance(expected, inspect.IntType) else "a number"
    bounds = (("at least", expected.ge), ("above", expected.gt), ("at most", expected.le), ("below", expected.lt))
    limits = [f"{words} {limit:.15g}" for words, limit in bounds if limit is not None]
    if noun == "an integer" and expected.le is None and expected.lt is None:
        limits.append(f"at most {_MAX_INT}")
    return f"{noun} {' and '.join(limits)}" if limits else noun
