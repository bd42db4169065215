"""No field of a request is ignored in silence."""

from __future__ import annotations

from typing import Any

import pytest

from histrio.contracts.request_fields import CORE_FIELDS
from histrio.errors import RequestError
from histrio_api.request.fields import NEUTRAL_VALUES, NO_EFFECT, split_fields
from histrio_api.request.json_body import decode_object
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.completions import CompletionRequest
from histrio_samplers.plugin import SAMPLERS

BASE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SAMPLING = frozenset({"temperature", "top_k"})


def split(**fields: Any) -> tuple[ChatRequest, dict[str, Any]]:
    return split_fields(BASE | fields, ChatRequest, SAMPLING)


@pytest.mark.parametrize("name", sorted(NO_EFFECT))
def test_fields_without_effect_are_accepted(name: str) -> None:
    assert split(**{name: "anything"})[1] == {}


@pytest.mark.parametrize("name", sorted(NEUTRAL_VALUES.keys() - SAMPLING))
def test_unsupported_fields_pass_only_at_their_neutral_value(name: str) -> None:
    def split_other(value: Any) -> dict[str, Any]:
        if name not in ChatRequest.__struct_fields__:
            return split(**{name: value})[1]
        return split_fields({"model": "m", "prompt": "hi", name: value}, CompletionRequest, SAMPLING)[1]

    for neutral in (None, *NEUTRAL_VALUES[name]):
        assert split_other(neutral) == {}
    with pytest.raises(RequestError, match="not supported") as caught:
        split_other({"some": "value"})
    assert (caught.value.param, caught.value.code, caught.value.status) == (name, "unsupported_parameter", 400)


def test_a_boolean_is_not_the_number_one() -> None:
    with pytest.raises(RequestError, match="best_of"):
        split(best_of=True)
    with pytest.raises(RequestError, match="logprobs"):
        split(logprobs=0)


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(RequestError, match="temprature: unknown field") as caught:
        split(temprature=1)
    assert caught.value.param == "temprature"
    with pytest.raises(RequestError, match="unknown field"):
        split(temprature=None)


def test_sampling_fields_are_those_that_samplers_registered() -> None:
    assert split(temperature=0.5, top_k=None)[1] == {"temperature": 0.5}
    with pytest.raises(RequestError, match="top_p: not supported"):
        split(top_p=0.9)
    assert split(top_p=1)[1] == {}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages[0].colour"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"n": 0}, "n"),
        ({"n": "two"}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": 3}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_use": True}}, "stream_options.include_use"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_value_is_located(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        split(**fields)
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize("secret", ["s3cret-value", "x" * 5000])
def test_the_text_never_repeats_a_value(secret: str) -> None:
    for fields in ({"messages": [{"role": secret}]}, {"tool_choice": secret}, {"stream": secret}, {"suffix": secret}):
        with pytest.raises(RequestError) as caught:
            split(**fields)
        assert secret not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'"text"', b'{"a":NaN}', b"\xff\xfe", b'{"a":"\xff"}', b"[" * 100_000, b'{"a":1e999}']
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        decode_object(body, max_parts=9, max_values=9)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_prompts_are_text_ids_or_lists_of_them() -> None:
    for prompt in ("text", ["a", "b"], [1, 2], [[1], [2, 3]]):
        assert split_fields({"model": "m", "prompt": prompt}, CompletionRequest, SAMPLING)[0].prompt == prompt
    with pytest.raises(RequestError):
        split_fields({"model": "m", "prompt": [-1]}, CompletionRequest, SAMPLING)


def test_the_core_knows_every_field_that_a_sampler_may_not_have() -> None:
    own = {*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__, *NO_EFFECT}
    missing = own - CORE_FIELDS
    assert not missing, f"add these to CORE_FIELDS in histrio/contracts/request_fields.py: {sorted(missing)}"
    assert not CORE_FIELDS - own, "a field that no request has"
    assert not CORE_FIELDS & {field for sampler in SAMPLERS for field in sampler.params.__struct_encode_fields__}
