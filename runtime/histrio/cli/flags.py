"""Flags of `rt-launch` for keys of the topology, made from the fields of its tables.

A key with one value has a flag of its name, with the type and the default of its field and the docstring as help. What
people write is not checked here: the table that it goes into is checked as a whole, file or not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import inspect

from histrio.config.field_docs import field_docs
from histrio.config.settings import (
    AdmissionSettings,
    BatchingSettings,
    MemorySettings,
    SizeSettings,
    SpeculationSettings,
)
from histrio.config.topology import TABLES, ClusterTable, ModelTable, RuntimeTable, StageTable

__all__ = ["WITHOUT_FLAG", "Switch", "add_flags", "is_scalar"]

_TITLES: dict[type[msgspec.Struct], str] = {
    ModelTable: "model",
    StageTable: "stages",
    AdmissionSettings: "admission",
    SizeSettings: "sizes",
    MemorySettings: "memory",
    BatchingSettings: "batching",
    SpeculationSettings: "speculation",
    RuntimeTable: "processes and logs",
    ClusterTable: "cluster, which other machines can join",
}
_SPELLINGS = {
    "model.path": ("--model",),
    "stage.backend": ("--backend", "--gpu-backend"),
    "engine.kvcache-mem-ratio": ("--kvcache-mem-ratio", "--kv-cache-memory-fraction"),
    "engine.prefix-cache": ("--prefix-cache", "--no-prefix-cache", "--disable-prefix-cache"),
}
"""Path of a key → its flags, where they are not simply the name of the key; those of other serving programs too."""
WITHOUT_FLAG = {
    "stage.layers": "--layers has those of all stages",
    "stage.host": "stages differ in it",
    "stage.process": "stages differ in it",
    "cluster.name": "a name alone does not tell of what",
    "cluster.listen": "the endpoint listens, too",
    "cluster.port": "--port is the endpoint's",
    "cluster.folder": "a folder alone does not tell of what",
    "stage.python": "stages differ in it",
    "engine.kv-cache-memory-fraction": "another name of kvcache-mem-ratio, and so is its flag",
}
"""Path of a key with one value that has no flag → why."""
_TYPES: dict[type[inspect.Type], type] = {inspect.IntType: int, inspect.FloatType: float, inspect.StrType: str}
_OFF = ("--no-", "--disable-")


def add_flags(parser: argparse.ArgumentParser) -> dict[str, argparse._ArgumentGroup]:
    """One group for each owner of keys; answers them by table, the last one of each."""
    groups = {}
    for table, kinds in TABLES.items():
        for kind in kinds:
            groups[table] = parser.add_argument_group(_TITLES[kind])
            docs = field_docs(kind)
            for field in msgspec.structs.fields(kind):
                path = f"{table}.{field.encode_name}"
                if is_scalar(field) and path not in WITHOUT_FLAG:
                    _add_flag(groups[table], path, field, docs.get(field.name, ""))
    return groups


def is_scalar(field: msgspec.structs.FieldInfo) -> bool:
    """Whether the key has one value, and no table or list of them."""
    return not isinstance(_type(field), inspect.DictType | inspect.ListType)


class Switch(argparse.Action):
    """A key that is true or false, and a flag for either."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Set it as the flag says."""
        setattr(namespace, self.dest, option_string is not None and not option_string.startswith(_OFF))


def _add_flag(group: argparse._ArgumentGroup, path: str, field: msgspec.structs.FieldInfo, text: str) -> None:
    kind, name = _type(field), field.encode_name
    text = text.replace("`", "").replace("%", "%%").removesuffix(".") + _default(field)
    if isinstance(kind, inspect.BoolType):
        switches = _SPELLINGS.get(path, (f"--{name}", f"--no-{name}"))
        group.add_argument(*switches, dest=path, action=Switch, nargs=0, default=None, help=text)
        return

    values = kind.values if isinstance(kind, inspect.LiteralType) else ()
    group.add_argument(
        *_SPELLINGS.get(path, (f"--{name}",)),
        dest=path,
        type=type(values[0]) if values else _TYPES[type(kind)],
        metavar=_metavar(kind, name, values),
        help=text,
    )


def _type(field: msgspec.structs.FieldInfo) -> inspect.Type:
    """The type of the field's value, without None."""
    found = inspect.type_info(field.type)
    kinds = found.types if isinstance(found, inspect.UnionType) else (found,)
    return next(each for each in kinds if not isinstance(each, inspect.NoneType))


def _metavar(kind: inspect.Type, name: str, values: Sequence[Any]) -> str:
    """The choices, or N for a number of things, or the last word of the key: a unit, or what it names."""
    if values:
        return "|".join(str(value) for value in values)
    return "N" if isinstance(kind, inspect.IntType) else name.split("-")[-1].upper()


def _default(field: msgspec.structs.FieldInfo) -> str:
    """What is added to the help; the docstring itself says what happens where nothing is the default."""
    match field.default:
        case None | msgspec.NODEFAULT:
            return ""
        case bool(value):
            return f" (default: {'yes' if value else 'no'})"
        case float(value):
            return f" (default: {value:g})"
        case value:
            return f" (default: {value})"
