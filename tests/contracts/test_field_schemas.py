"""The JSON schemas of sampling fields say what is checked: judged by the package jsonschema."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from histrio.contracts.request_fields import FieldTable
from histrio.errors import RequestError
from histrio_samplers.plugin import SAMPLERS

TABLE = FieldTable(SAMPLERS)
NUMBERS = (-1000, -101, -100, -3, -2, -1, -0.5, 0, 0.005, 0.01, 0.5, 1, 2, 2.5, 3, 10, 11, 100, 101, 1000, 1001, 2**31)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    "x",
    "",
    True,
    None,
    [],
    [1],
    [-1],
    [[1]],
    [[]],
    {},
    {"1": 1},
    {"1": 101},
    {"x": 1},
)


def passes(field: str, value: object) -> bool:
    try:
        TABLE.check({field: value})
    except RequestError:
        return False
    return True


@pytest.mark.parametrize("field", TABLE.known_fields)
def test_a_schema_admits_what_is_honoured_and_nothing_else(field: str) -> None:
    schema = TABLE.schemas()[field]
    judge = jsonschema.Draft202012Validator(schema)
    for value in VALUES:
        if not isinstance(value, bool):  # a number to Python, which msgspec and JSON tell apart
            assert judge.is_valid(value) == passes(field, value), value
    assert passes(field, schema["default"])


def test_a_schema_with_another_bound_is_found_out() -> None:
    """Control."""
    schema = TABLE.schemas()["top_p"] | {"maximum": 2}
    judge = jsonschema.Draft202012Validator(schema)
    assert any(judge.is_valid(value) != passes("top_p", value) for value in VALUES)


def test_every_field_has_one() -> None:
    assert sorted(TABLE.schemas()) == TABLE.known_fields
