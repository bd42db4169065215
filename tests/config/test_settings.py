"""The settings of `[engine]`: each key has one owner, which has it under the file's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import inspect

from histrio.config.settings import MemorySettings
from histrio.config.topology import TABLES, EngineTable, parse_tables
from histrio.contracts.backend import StageSpec

PARTS = {part.name: part.type for part in msgspec.structs.fields(EngineTable)}
FIELDS = [(part, field) for part, kind in PARTS.items() for field in msgspec.structs.fields(kind)]


class Planted(msgspec.Struct, rename="kebab"):
    """Keys as they should not be: one has an owner already, one is a name of its own."""

    max_batch_size: int = 1
    watermark: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(default=0.1, name="preemption-threshold")


def owned_twice(kinds: Iterable[type[msgspec.Struct]]) -> set[str]:
    counts = Counter(field.encode_name for kind in kinds for field in msgspec.structs.fields(kind))
    return {key for key, count in counts.items() if count > 1}


def renamed(kinds: Iterable[type[msgspec.Struct]]) -> set[str]:
    fields = [field for kind in kinds for field in msgspec.structs.fields(kind)]
    return {field.name for field in fields if field.encode_name != field.name.replace("_", "-")}


def another_value(field: msgspec.structs.FieldInfo) -> Any:
    """A value that the field may have besides its default."""
    return next(value for value in candidates(inspect.type_info(field.type)) if value != field.default)


def candidates(kind: inspect.Type) -> list[Any]:
    match kind:
        case inspect.UnionType(types=types):
            return [value for each in types for value in candidates(each)]
        case inspect.LiteralType(values=values):
            return list(values)
        case inspect.BoolType():
            return [True, False]
        case inspect.IntType():
            return [1, 2]
        case inspect.FloatType():
            return [0.125]
        case inspect.StrType():
            return ["another"]
        case inspect.DictType():
            return [{"key": 1}]
        case _:
            return []


def test_every_key_has_one_owner() -> None:
    assert owned_twice(PARTS.values()) == set()
    assert owned_twice([*PARTS.values(), Planted]) == {"max-batch-size", "preemption-threshold"}, "a control"


def test_every_key_has_its_name_in_the_code() -> None:
    assert renamed(kind for kinds in TABLES.values() for kind in kinds) == set()
    assert renamed([Planted]) == {"watermark"}, "a control"


@pytest.mark.parametrize(("part", "field"), FIELDS, ids=[field.encode_name for _, field in FIELDS])
def test_a_key_of_the_flat_file_reaches_its_owner_and_no_other(part: str, field: msgspec.structs.FieldInfo) -> None:
    value = another_value(field)
    engine = parse_tables({"model": {"path": "demo"}, "engine": {field.encode_name: value}}).engine
    owner = getattr(EngineTable(), part)
    changed = msgspec.structs.replace(owner, **{field.name: value})
    assert changed != owner
    assert engine == msgspec.structs.replace(EngineTable(), **{part: changed})


def test_a_stage_that_is_not_placed_has_the_share_of_the_file() -> None:
    assert StageSpec("model", 0, 1, 1).block_mem_ratio == MemorySettings().kv_share
