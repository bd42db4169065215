"""Which request fields are honoured, which cannot matter, and which are refused: nothing is ignored in silence.

A request is converted strictly. Only if that fails is it gone through for fields that its structs do not have: those
are judged by the table of known fields, and what remains is converted again.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from histrio.errors import RequestError
from histrio_api.error_shapes import MAX_PARAM_CHARS
from histrio_api.errors import from_validation
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.known_fields import ALIASES, KNOWN_FIELDS, KnownField

__all__ = ["convert_fields", "split_fields", "whole_number", "whole_numbers", "within_vocabulary"]

R = TypeVar("R", bound=msgspec.Struct)

_MAX_ID_DIGITS = 18
_MOST_TOKENS = 2**31 - 1
_OF_TOKENS = frozenset(name for name, own in ALIASES.items() if own == "max_tokens")


class _Place(NamedTuple):
    """Where a field stands."""

    path: str = ""
    """As the table has it, `messages[].role`."""
    exact: str = ""
    """With positions, `messages[0].role`."""

    def field(self, name: str) -> _Place:
        return _Place(f"{self.path}.{name}", f"{self.exact}.{name}") if self.path else _Place(name, name)

    def item(self, at: int) -> _Place:
        return _Place(f"{self.path}[]", f"{self.exact}[{at}]")


def split_fields(
    request: dict[str, Any],
    kind: type[R],
    sampling_fields: frozenset[str],
    honoured_by: str = "this server",
    ignored: IgnoredFields | None = None,
) -> tuple[R, dict[str, Any]]:
    """The checked request and its sampling fields. A null means that the field is not given.

    `honoured_by` names what honours these fields and no others, for messages; `ignored` takes the names of those that
    are left out. Raises `RequestError`.
    """
    ignored = ignored or IgnoredFields()
    own: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    names = kind.__struct_fields__
    for given, value in request.items():
        name = ALIASES.get(given, given)
        if name in names:
            target: dict[str, Any] | None = own
        elif name in sampling_fields:
            target = sampling
        else:
            _leave_out(_Place(name, given), value, ignored, honoured_by)
            target = None
        if target is None or value is None:
            continue
        meant = _MOST_TOKENS if name != given and given in _OF_TOKENS and value in (-1, -2) else value
        if name in target and target[name] != meant:
            raise _contradiction(name, request)
        target[name] = meant
    return convert_fields(own, kind, ignored), sampling


def convert_fields(given: dict[str, Any], kind: type[R], ignored: IgnoredFields, prefix: str = "") -> R:
    """The checked struct; `prefix` is the field that these stand in. Raises `RequestError`."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError:
        known = _without_others(given, _shape_of(kind), _Place(prefix, prefix), ignored)
    try:
        return msgspec.convert(known, kind)
    except msgspec.ValidationError as error:
        raise from_validation(error, prefix=f"{prefix}." if prefix else "") from None


def within_vocabulary(sampling: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The same sampling fields without what names tokens that do not exist: as many as there are, or one beyond them.

    A value without the form of its field is left to the checks of that field.
    """
    top_k, biases = sampling.get("top_k"), sampling.get("logit_bias")
    if isinstance(top_k, int) and top_k >= vocab_size:
        sampling = sampling | {"top_k": 0}
    if isinstance(biases, dict):
        sampling = sampling | {"logit_bias": {key: biases[key] for key in biases if not _is_beyond(key, vocab_size)}}
    return sampling


def whole_numbers(value: Any) -> Any:
    """A value of integers in lists, each of them as an integer."""
    return [whole_numbers(each) for each in value] if isinstance(value, list) else whole_number(value)


def whole_number(value: Any) -> Any:
    """5.0 as 5: to JSON it is an integer, and some languages write it so. Other values as they are."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_beyond(key: str, vocab_size: int) -> bool:
    return key.isascii() and key.isdecimal() and (len(key) > _MAX_ID_DIGITS or int(key) >= vocab_size)


class _Shape(NamedTuple):
    """What of a value may be written otherwise than its type has it: an object with further fields, or with nulls; a
    whole number as 5.0, which is an integer to JSON; or a list of such."""

    fields: dict[str, _Shape | None]
    """Of an object, by name; None for a field in which everything is known, or free."""
    required: frozenset[str]
    item: _Shape | None = None
    """Of a list."""
    is_integer: bool = False
    """It may be an integer, and no other number."""


@cache
def _shape_of(kind: type[msgspec.Struct]) -> _Shape | None:
    return _shape(inspect.type_info(kind))


def _shape(expected: inspect.Type) -> _Shape | None:
    """None where the whole value is known, or free."""
    match expected:
        case inspect.Metadata(type=inner):
            return _shape(inner)
        case inspect.UnionType(types=types):
            return reduce(_merged, map(_shape, types))
        case inspect.IntType():
            return _Shape({}, frozenset(), is_integer=True)
        case inspect.ListType(item_type=inner):
            item = _shape(inner)
            return None if item is None else _Shape({}, frozenset(), item)
        case inspect.StructType(fields=fields, forbid_unknown_fields=True):
            required = frozenset(field.encode_name for field in fields if field.required)
            return _Shape({field.encode_name: _shape(field.type) for field in fields}, required)
        case _:
            return None


def _merged(first: _Shape | None, second: _Shape | None) -> _Shape | None:
    """Of a value that may be either."""
    if first is None or second is None:
        return first or second
    assert not (first.fields and second.fields), "a value that may be of several structs"
    item = _merged(first.item, second.item)
    integer = first.is_integer or second.is_integer
    return _Shape(first.fields | second.fields, first.required | second.required, item, integer)


def _without_others(value: Any, shape: _Shape | None, place: _Place, ignored: IgnoredFields) -> Any:
    """The value without nulls, and without fields that its type does not have; integers are integers."""
    if shape is None:
        return value
    if shape.is_integer and isinstance(value, float):
        return whole_number(value)
    if isinstance(value, list) and shape.item is not None:
        return [_without_others(each, shape.item, place.item(at), ignored) for at, each in enumerate(value)]
    if not isinstance(value, dict) or not shape.fields:
        return value

    known = {}
    for name, each in value.items():
        if name not in shape.fields:
            _leave_out(place.field(name), each, ignored)
        elif each is not None or name in shape.required:
            inner = shape.fields[name]
            known[name] = each if inner is None else _without_others(each, inner, place.field(name), ignored)
    return known


def _leave_out(place: _Place, value: Any, ignored: IgnoredFields, honoured_by: str = "this server") -> None:
    """Raise `RequestError` if the field may not be left out, or note that it was if that is worth a word."""
    field = KNOWN_FIELDS.get(place.path)
    if field is not None and field.is_neutral(value):
        return
    if field is None or field.kind == "hint":
        ignored.add(place.path, place.exact)
        return
    raise _refusal(field, place.exact[:MAX_PARAM_CHARS], honoured_by)


def _contradiction(name: str, request: dict[str, Any]) -> RequestError:
    """Of two names of one field with different values."""
    first, second, *_ = (each for each in request if ALIASES.get(each, each) == name and request[each] is not None)
    return RequestError(f"{second}: differs from {first}; give one of them", param=second)


def _refusal(field: KnownField, shown: str, honoured_by: str) -> RequestError:
    why = f": {field.reason}" if field.kind == "refused" else ""
    allowed = " or ".join(msgspec.json.encode(each).decode() for each in field.neutral)
    only = f"leave it out or give {allowed}" if allowed else "leave it out"
    text = f"{shown}: not supported by {honoured_by}{why}; {only}"
    return RequestError(text, param=shown, code="unsupported_parameter")
