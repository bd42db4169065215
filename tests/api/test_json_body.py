"""Bodies are decoded within bounds: of lists, objects and names, and of how deep they are in each other."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histrio.errors import RequestError
from histrio_api.request.json_body import MAX_JSON_DEPTH, decode_object
from histrio_api.shared.settings import ApiSettings

MAX_PARTS, MAX_VALUES = ApiSettings().max_json_parts, ApiSettings().max_json_values

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\[{:,\n', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('"\\:[', max_size=3), inner, max_size=3),
    max_leaves=12,
)


def decoded(body: bytes, **bounds: Any) -> dict[str, Any]:
    """Within the bounds that the settings have by default."""
    return decode_object(body, **{"max_parts": MAX_PARTS, "max_values": MAX_VALUES} | bounds)


def num_parts(value: Any) -> int:
    """Counted the plain way."""
    if isinstance(value, list):
        return 1 + sum(map(num_parts, value))
    if isinstance(value, dict):
        return 1 + sum(1 + num_parts(each) for each in value.values())
    return 0


def refusal(body: bytes, **bounds: Any) -> str:
    with pytest.raises(RequestError) as caught:
        decoded(body, **bounds)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    return str(caught.value)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_it_decodes_as_json_does(value: dict[str, Any]) -> None:
    assert decoded(json.dumps(value).encode()) == value


@given(VALUES)
def test_parts_are_counted_outside_of_texts_only(value: Any) -> None:
    body = json.dumps({"a": value}).encode()
    counted = num_parts(value)
    assert decoded(body, max_parts=counted) == {"a": value}
    if counted:
        assert "lists, objects and names" in refusal(body, max_parts=counted - 1)


@pytest.mark.parametrize("field", [b"[" + b"[]," * MAX_PARTS + b"0]", b"{" + b'"a":0,' * MAX_PARTS + b'"b":0}'])
def test_too_many_parts_are_refused_with_the_limit(field: bytes) -> None:
    assert f"more than {MAX_PARTS}" in refusal(b'{"prompt":' + field + b"}")
    assert decoded(b'{"metadata":' + field + b"}", labels={"metadata"}) == {"metadata": msgspec.Raw(field)}


def num_commas(value: Any) -> int:
    """Counted the plain way."""
    if isinstance(value, list | dict):
        inner = list(value.values() if isinstance(value, dict) else value)
        return max(0, len(inner) - 1) + sum(map(num_commas, inner))
    return 0


@given(VALUES)
def test_values_are_counted_outside_of_texts_only(value: Any) -> None:
    body = json.dumps({"a": value}).encode()
    counted = num_commas(value)
    assert decoded(body, max_values=counted) == {"a": value}
    if counted:
        assert "more than" in refusal(body, max_values=counted - 1)


def test_too_many_values_are_refused_with_the_limit() -> None:
    assert f"more than {MAX_VALUES} values" in refusal(b'{"tokens":[' + b"0," * MAX_VALUES + b"0,0]}")


def test_texts_and_numbers_are_no_parts() -> None:
    text = "[{:" * MAX_PARTS + '\\"' * 9
    body = json.dumps({"prompt": text, "ids": list(range(2 * MAX_PARTS))}).encode()
    assert decoded(body)["prompt"] == text


def test_labels_are_read_where_they_are_no_lists_and_objects() -> None:
    body = b'{"user": "me", "store": false, "trace": [], "metadata": {"a": [1]}, "n": 1}'
    labels = {"user", "store", "trace", "metadata"}
    rest = {"user": "me", "store": False, "trace": [], "n": 1}
    assert decoded(body, labels=labels) == rest | {"metadata": msgspec.Raw(b'{"a": [1]}')}
    assert decoded(body)["metadata"] == {"a": [1]}


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_has_a_limit_that_the_refusal_names(opening: str, closing: str) -> None:
    def nested(depth: int) -> bytes:
        return f'{{"a":{opening * (depth - 1)}0{closing * (depth - 1)}}}'.encode()

    assert decoded(nested(MAX_JSON_DEPTH))
    for depth in (MAX_JSON_DEPTH + 1, 900, 100_000):
        assert f"at most {MAX_JSON_DEPTH}" in refusal(nested(depth))


def test_many_parts_side_by_side_are_not_deep() -> None:
    assert len(decoded(b'{"a":[' + b"[]," * 1000 + b"0]}")["a"]) == 1001


def test_a_mistake_within_a_field_has_no_wrong_place() -> None:
    assert "byte" not in refusal(b'{"a": "\\ud83d"}')
    assert "byte" in refusal(b'{"a": 1,}')
