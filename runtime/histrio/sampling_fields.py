"""Which request fields samplers honour, and within which bounds: nothing is ignored in silence.

The bounds stand once, as `msgspec.Meta` on the params struct of the sampler that owns the field; the texts a client
sees are made from them, and never repeat what the client sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from histrio.errors import PluginError, RequestError
from histrio.sampling import Sampler

__all__ = ["FieldTable"]

_MAX_PARAM_CHARS = 64


class FieldTable:
    """The fields of a set of samplers: who owns each, and what it may be.

    Raises `PluginError` if two samplers have one name or own one field, or if a field has no default.
    """

    def __init__(self, samplers: Sequence[type[Sampler]]) -> None:
        self._owners: dict[str, type[Sampler]] = {}
        self._types: dict[str, inspect.Type] = {}
        names = [sampler.name for sampler in samplers]
        for sampler in samplers:
            if names.count(sampler.name) > 1:
                raise PluginError(f"two samplers are named {sampler.name!r}: rename one of them")

            self._add(sampler)

    @property
    def known_fields(self) -> list[str]:
        """Every field some sampler honours, sorted."""
        return sorted(self._owners)

    def check(self, fields: Mapping[str, Any]) -> None:
        """Raise `RequestError` with the field as `param` for an unknown field or a value out of its bounds."""
        for field, value in fields.items():
            owner = self._owners.get(field)
            if owner is None:
                known = ", ".join(self.known_fields) or "none"
                raise RequestError(
                    f"this field is not known here; sampling fields are: {known}",
                    param=field[:_MAX_PARAM_CHARS],
                    code="unknown_parameter",
                )

            if not _fits(owner, field, value):
                raise RequestError(f"{field} must be {_allowed(self._types[field])}", param=field)

    def params(self, sampler: type[Sampler], fields: Mapping[str, Any]) -> msgspec.Struct:
        """The sampler's own part of checked fields, as its params struct; what is absent has its default."""
        own = {field: value for field, value in fields.items() if self._owners.get(field) is sampler}
        return msgspec.convert(own, sampler.params)

    def _add(self, sampler: type[Sampler]) -> None:
        info = inspect.type_info(sampler.params)
        assert isinstance(info, inspect.StructType), f"{sampler.__name__}.params is no msgspec struct"
        for field in info.fields:
            name, owner = field.encode_name, self._owners.get(field.encode_name)
            if owner is not None:
                raise PluginError(f"the samplers {owner.name!r} and {sampler.name!r} both own the field {name!r}")

            if field.required:
                raise PluginError(f"the field {name!r} of sampler {sampler.name!r} needs a default that does nothing")

            self._owners[name] = sampler
            self._types[name] = field.type


def _fits(owner: type[Sampler], field: str, value: Any) -> bool:
    """Whether the value has the type and bounds its owner declares."""
    if isinstance(value, float) and not math.isfinite(value):
        return False

    try:
        msgspec.convert({field: value}, owner.params)
    except msgspec.ValidationError:
        return False
    return True


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
    limits = [f"{words} {limit:g}" for words, limit in bounds if limit is not None]
    return f"{noun} {' and '.join(limits)}" if limits else noun
