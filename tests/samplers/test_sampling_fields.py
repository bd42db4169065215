"""A sampling field is honoured or refused, with the allowed range and without an echo."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest

from histrio.contracts.request_fields import FieldTable
from histrio.errors import PluginError, RequestError
from histrio_samplers.plugin import SAMPLERS
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_p import TopP, TopPParams

TABLE = FieldTable([Temperature, TopK, TopP])


def test_fields_of_all_samplers_are_known() -> None:
    assert TABLE.known_fields == ["temperature", "top_k", "top_p"]


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0}, {"temperature": 2.0}, {"top_k": -1}, {"top_k": 2**31 - 1}, {"top_p": 1}, {"top_p": 1e-9}],
)
def test_values_within_bounds_pass(fields: dict[str, Any]) -> None:
    TABLE.check(fields)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("temperature", -0.1, "temperature must be a number at least 0 and at most 2"),
        ("temperature", 2.1, "temperature must be a number at least 0 and at most 2"),
        ("temperature", float("nan"), "temperature must be a number at least 0 and at most 2"),
        ("temperature", "0.5", "temperature must be a number at least 0 and at most 2"),
        ("temperature", True, "temperature must be a number at least 0 and at most 2"),
        ("top_k", -2, "top_k must be an integer at least -1 and at most 2147483647"),
        ("top_k", 3.5, "top_k must be an integer at least -1 and at most 2147483647"),
        ("top_p", 0, "top_p must be a number above 0 and at most 1"),
        ("top_p", None, "top_p must be a number above 0 and at most 1"),
    ],
)
def test_values_out_of_bounds_are_refused_with_the_range(field: str, value: Any, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        TABLE.check({field: value})

    assert caught.value.param == field
    assert caught.value.status == 400
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("field", "value", "beyond"),
    [
        ("logit_bias", {"3": 1.0, "257": -1.0}, {"3": 1.0, "258": -1.0}),
        ("allowed_token_ids", [0, 257], [258, 0]),
        ("bad_words_ids", [[1], [3, 257]], [[1], [3, 258]]),
        ("dry_sequence_breaker_ids", [257], [257, 258]),
    ],
)
def test_token_ids_beyond_the_vocabulary_are_refused_where_it_is_known(field: str, value: Any, beyond: Any) -> None:
    table = FieldTable(list(SAMPLERS))
    table.check({field: value}, 258)
    table.check({field: beyond})
    with pytest.raises(RequestError) as caught:
        table.check({field: beyond}, 258)
    assert str(caught.value) == f"{field}: token ids must be below 258"
    assert (caught.value.param, caught.value.status) == (field, 400)


def test_other_numbers_and_nothing_are_no_token_ids() -> None:
    fields: dict[str, Any] = {
        "allowed_token_ids": None,
        "bad_words_ids": [],
        "logit_bias": {},
        "top_k": 10**6,
        "min_tokens": 5,
    }
    FieldTable(list(SAMPLERS)).check(fields, 2)


def test_an_unknown_field_is_refused_with_the_known_ones_and_no_echo() -> None:
    field = "mirostat" * 1000
    with pytest.raises(RequestError) as caught:
        TABLE.check({field: 1})

    assert caught.value.param == field[:64]
    assert caught.value.code == "unknown_parameter"
    assert "temperature, top_k, top_p" in str(caught.value)
    assert "mirostat" not in str(caught.value)


def test_each_sampler_gets_its_own_fields() -> None:
    params = TABLE.params(TopP, {"temperature": 0.5, "top_p": 0.25})

    assert params == TopPParams(top_p=0.25)
    assert params != TopPParams()


class _OtherParams(msgspec.Struct, frozen=True):
    style: Literal["plain", "fancy"] | None = None
    flags: Annotated[list[bool], msgspec.Meta(max_length=2)] = []
    weights: dict[str, Annotated[float, msgspec.Meta(lt=9)]] = {}
    name: Annotated[str, msgspec.Meta(description="a word of the list")] = ""


class _Other(TopP):
    name = "other"
    params: ClassVar[type[msgspec.Struct]] = _OtherParams


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("style", "wild", "style must be one of fancy, plain or null"),
        ("flags", [1], "flags must be a list, each item true or false"),
        ("weights", {"a": 10}, "weights must be an object, each value a number below 9"),
        ("name", 3, "name must be a word of the list"),
    ],
)
def test_other_types_are_described_too(field: str, value: Any, text: str) -> None:
    with pytest.raises(RequestError, match=f"^{text}$"):
        FieldTable([_Other]).check({field: value})


def test_two_samplers_cannot_own_one_field() -> None:
    class Second(TopP):
        name = "second"

    with pytest.raises(PluginError, match="'top_p' and 'second' both own the field 'top_p'"):
        FieldTable([TopP, Second])


def test_two_samplers_cannot_have_one_name() -> None:
    class TopPAgain(TopP):
        params: ClassVar[type[msgspec.Struct]] = _OtherParams

    with pytest.raises(PluginError, match="two samplers are named 'top_p'"):
        FieldTable([TopP, TopPAgain])


def test_a_field_needs_a_default() -> None:
    class Needy(msgspec.Struct, frozen=True):
        must: int

    class Demanding(TopP):
        params: ClassVar[type[msgspec.Struct]] = Needy

    with pytest.raises(PluginError, match="needs a default"):
        FieldTable([Demanding])


class _LooseParams(msgspec.Struct, frozen=True):
    least: Annotated[int, msgspec.Meta(ge=-1)] = 0
    most: Annotated[float, msgspec.Meta(le=2)] = 0.0
    many: list[int] = []
    named: dict[str, Any] = {}


class _Loose(TopP):
    name = "loose"
    params: ClassVar[type[msgspec.Struct]] = _LooseParams


@pytest.mark.parametrize("value", [2**63, 10**30])
@pytest.mark.parametrize(
    ("field", "form"), [("least", "{}"), ("most", "-{}"), ("many", "[{}]"), ("named", '{{"a": [{}]}}')]
)
def test_a_number_that_no_message_holds_is_refused_where_its_owner_sets_no_bound(
    field: str, form: str, value: int
) -> None:
    table = FieldTable([_Loose])
    table.check({field: msgspec.json.decode(form.format(2**63 - 1))})
    with pytest.raises(RequestError) as caught:
        table.check({field: msgspec.json.decode(form.format(value))})
    assert caught.value.param == field


def test_an_integer_without_a_bound_of_its_own_has_one_in_words() -> None:
    with pytest.raises(RequestError, match="an integer at least -1 and at most 9223372036854775807"):
        FieldTable([_Loose]).check({"least": 2**64})
