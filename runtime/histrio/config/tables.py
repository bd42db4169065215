"""Strict conversion of a TOML table into a msgspec struct, with the path of a mistake in the message.

msgspec alone stops at "unknown field". The message here also names the key, the keys that exist, and the key that was
probably meant. It repeats no text of the table unless the choice is fixed, because a table may hold secrets.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import inspect

from histrio.errors import TopologyError

__all__ = ["closest", "convert_parts", "convert_table", "did_you_mean"]

S = TypeVar("S", bound=msgspec.Struct)


_WORDS = {
    "`int`": "an integer",
    "`float`": "a number",
    "`str`": "a string",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "a table",
}
_INNER_PATH = re.compile(r" - at `\$(.*)`$")
_INDEX = re.compile(r"\[(\d+)\]")


def convert_table(table: Mapping[str, Any], kind: type[S], path: str, hints: Mapping[str, str] | None = None) -> S:
    """The table as a struct of `kind`; `path` is where it stands in the file.

    `hints` maps keys that do not exist here to a sentence that says why. Raises `TopologyError`.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    _check_keys(table, fields, path, hints or {})
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key in table:
            values[field.name] = _convert_value(table[key], field.type, _join(path, key))
        elif field.required:
            raise TopologyError(_join(path, key), "is missing")

    try:
        return kind(**values)
    except ValueError as error:
        raise TopologyError(path, str(error)) from None


def convert_parts(table: Mapping[str, Any], kind: type[S], path: str, hints: Mapping[str, str] | None = None) -> S:
    """The same for a struct of structs, whose keys all stand side by side in the table."""
    parts = {part.name: (part.type, _keys(part.type)) for part in msgspec.structs.fields(kind)}
    _check_keys(table, {key for _, keys in parts.values() for key in keys}, path, hints or {})
    return kind(
        **{
            name: convert_table({key: table[key] for key in keys if key in table}, part, path)
            for name, (part, keys) in parts.items()
        }
    )


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`; did you mean "x"?` for the closest known word, or nothing."""
    meant = closest(word, known)
    return f"; did you mean {meant!r}?" if meant else ""


def closest(word: str, known: Collection[str]) -> str | None:
    """The known word that was probably meant, if any is near."""
    return next(iter(get_close_matches(word.lower().replace("_", "-"), known, n=1, cutoff=0.6)), None)


def _keys(kind: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _check_keys(table: Any, known: Collection[str], path: str, hints: Mapping[str, str]) -> None:
    """Raise unless it is a table that has no other keys."""
    if not isinstance(table, Mapping):
        raise TopologyError(path, f"must be a table ([{path}] and keys below it), not {_type_words(table)}")

    for key in table:
        if key not in known:
            raise TopologyError(_join(path, key), _unknown_key(key, known, hints))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unknown_key(key: str, fields: Collection[str], hints: Mapping[str, str]) -> str:
    if key in hints:
        return hints[key]

    hint = did_you_mean(key, fields) or "."
    return f"unknown key{hint} Known keys: {', '.join(sorted(fields)) or 'none'}"


def _convert_value(value: Any, kind: Any, path: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return convert_table(value, kind, path)
    if (table := _table_of_list(kind)) is not None and isinstance(value, list):
        return [convert_table(each, table, f"{path}[{index}]") for index, each in enumerate(value)]

    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        inner = _INNER_PATH.search(text)
        inner_path, at_fault = (path + inner[1], _inner_value(value, inner[1])) if inner else (path, value)
        raise TopologyError(inner_path, _must_be(_INNER_PATH.sub("", text), at_fault, kind)) from None


def _table_of_list(kind: Any) -> type[msgspec.Struct] | None:
    """The struct, if `kind` is a list of structs: `[[double.brackets]]` in the file."""
    inner = get_args(kind)[0] if get_origin(kind) is list else None
    return inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None


def _inner_value(value: Any, path: str) -> Any:
    """The value at `[0]`, `[0][1]` … of a list."""
    for index in _INDEX.findall(path):
        value = value[int(index)] if isinstance(value, list) else value
    return value


def _must_be(text: str, value: Any, kind: Any) -> str:
    """msgspec's sentence in the words of a TOML file, e.g. "must be an integer >= 1, not 0"."""
    choices = _choices(inspect.type_info(kind))
    if choices and isinstance(value, str):
        return f"must be one of {', '.join(choices)}, not {value[:40]!r}{did_you_mean(value, choices)}"
    if choices and text.startswith("Invalid enum value"):
        return f"must be one of {', '.join(choices)}, not {_type_words(value)}"

    text = text.split(", got ")[0].replace(" | null", "").removeprefix("Expected ")
    for name, words in _WORDS.items():
        text = text.replace(name, words).replace(f"{name[:-1]} ", f"{words} ")
    return f"must be {text.strip('`')}, not {_type_words(value)}"


def _choices(expected: inspect.Type) -> list[str]:
    match expected:
        case inspect.Metadata(type=inner):
            return _choices(inner)
        case inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case inspect.UnionType(types=types):
            return [choice for each in types for choice in _choices(each)]
        case _:
            return []


def _type_words(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return "a string" if value else "an empty string"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"
