"""No field of a request is ignored in silence: it is honoured, or named, or refused."""

from __future__ import annotations

from inspect import get_annotations
from typing import Any

import pytest
from openai.types import completion_create_params as completion_params
from openai.types import embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import input_token_count_params, response_create_params

from histrio.contracts.request_fields import CORE_FIELDS
from histrio.errors import RequestError
from histrio_api.forms.anthropic_chat import NOT_OF_MESSAGES
from histrio_api.forms.responses import NOT_OF_RESPONSES
from histrio_api.request.fields import convert_fields, split_fields
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.json_body import decode_object
from histrio_api.request.known_fields import ALIASES, HINTS, KNOWN_FIELDS
from histrio_api.schemas.anthropic import MessagesRequest
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.completions import CompletionRequest
from histrio_api.schemas.embeddings import EmbeddingRequest
from histrio_api.schemas.formats import ResponseFormat
from histrio_api.schemas.responses import ResponsesRequest
from histrio_api.schemas.scores import RerankRequest, ScoreRequest
from histrio_samplers.plugin import SAMPLERS

BASE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SAMPLING = frozenset({"temperature", "top_k"})


def split(**fields: Any) -> tuple[ChatRequest, dict[str, Any]]:
    return split_fields(BASE | fields, ChatRequest, SAMPLING)


def ignored_of(path: str, value: Any, *, is_strict: bool = False) -> list[str]:
    """What is named of a chat, or of a completion for a field of chats, that has this value there."""
    ignored = IgnoredFields(is_strict=is_strict)
    if path.startswith("response_format."):
        convert_fields({"type": "text", path.split(".")[1]: value}, ResponseFormat, ignored, "response_format")
    elif path.startswith(OF_MESSAGES_ALONE):
        split_fields(with_field(MESSAGES, path.split("."), value), MessagesRequest, SAMPLING, ignored=ignored)
    elif path.startswith(OF_RESPONSES_ALONE):
        split_fields(with_field(RESPONSE, path.split("."), value), ResponsesRequest, SAMPLING, ignored=ignored)
    elif path in ChatRequest.__struct_fields__:
        split_fields({"model": "m", "prompt": "hi", path: value}, CompletionRequest, SAMPLING, ignored=ignored)
    else:
        split_fields(with_field(WHOLE, path.split("."), value), ChatRequest, SAMPLING, ignored=ignored)
    return ignored.paths


CALL: dict[str, Any] = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
WHOLE: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}], "tool_calls": [CALL]}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "stream_options": {},
    "structured_outputs": {"structural_tag": {"structures": [], "triggers": []}},
}
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 1,
    "system": [{"type": "text", "text": "x"}],
    "messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "x"}]}]}],
    "thinking": {"type": "enabled"},
    "output_config": {},
}
RESPONSE: dict[str, Any] = {
    "model": "m",
    "input": [{"role": "assistant", "content": [{"type": "output_text", "text": "x"}]}],
    "reasoning": {},
    "text": {},
}
OF_RESPONSES_ALONE = ("input[].", "reasoning.", "text.")
OF_MESSAGES_ALONE = ("system[].", "messages[].content[].content[].", "thinking.", "output_config.")


def with_field(whole: dict[str, Any], names: list[str], value: Any) -> dict[str, Any]:
    """`whole` with this value at a path such as `messages[].content[].x`."""
    if names[:1] == ["speculative"] and len(names) > 1:
        return whole | {".".join(names): value}  # llama.cpp's, with a dot in its name

    def put(inside: dict[str, Any], names: list[str]) -> dict[str, Any]:
        first, *rest = names
        if not rest:
            return inside | {first: value}
        name = first.removesuffix("[]")
        inner = inside[name]
        return inside | {name: [put(inner[0], rest)] if first != name else put(inner, rest)}

    return put(whole, names)


NOT_HONOURED = sorted(
    path
    for path, field in KNOWN_FIELDS.items()
    if field.kind != "alias"
    and path
    not in {"reasoning.effort", "reasoning.enabled", "reasoning.max_tokens", "thinking.budget_tokens", "include[]"}
    and path not in {*CompletionRequest.__struct_fields__, *SAMPLING}
)


@pytest.mark.parametrize("path", NOT_HONOURED)
def test_every_known_field_is_silent_at_its_neutral_values_and_else_named_or_refused(path: str) -> None:
    field = KNOWN_FIELDS[path]
    if path not in {"messages", "prompt"}:
        for neutral in (None, *field.neutral):
            assert ignored_of(path, neutral) == []
            assert ignored_of(path, neutral, is_strict=True) == []
    if path in HINTS:
        assert ignored_of(path, "some value") == [path]
        with pytest.raises(RequestError, match="has no effect here") as caught:
            ignored_of(path, "some value", is_strict=True)
    else:
        with pytest.raises(RequestError, match="not supported") as caught:
            ignored_of(path, "some value")
    assert caught.value.param == path.replace("[]", "[0]")
    assert (caught.value.code, caught.value.status) == ("unsupported_parameter", 400)
    assert "some value" not in str(caught.value)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_another_name_of_a_field_means_the_field(alias: str, name: str) -> None:
    fields = SAMPLING | {"repetition_penalty", "repeat_last_n", "min_tokens"}
    flags = dict.fromkeys(("add_special_tokens", "include_stop_str_in_output"), (True, False))
    value, other = (flags | {"stop": ("a", "b")}).get(name, (5, 6))

    def honoured(**given: Any) -> tuple[ChatRequest, dict[str, Any]]:
        return split_fields(BASE | given, ChatRequest, fields, ignored=IgnoredFields(is_strict=True))

    for given in ({alias: value}, {alias: value, name: value}, {alias: value, name: None}, {alias: None, name: value}):
        assert honoured(**given) == honoured(**{name: value}) != honoured()
    for first, second in ((alias, name), (name, alias)):
        with pytest.raises(RequestError, match=f"{second}: differs from {first}") as caught:
            honoured(**{first: value, second: other})
        assert caught.value.param == second


def test_another_name_is_refused_where_the_field_is_not_honoured() -> None:
    assert split(repeat_penalty=1.0)[1] == {}
    with pytest.raises(RequestError, match="repeat_penalty: not supported"):
        split(repeat_penalty=1.1)


@pytest.mark.parametrize("number", [-1, -2])
def test_a_negative_number_of_tokens_means_all_that_fit(number: int) -> None:
    assert split(n_predict=number)[0].max_tokens == split(num_predict=number)[0].max_tokens == 2**31 - 1
    with pytest.raises(RequestError, match="max_tokens"):
        split(max_tokens=number)


FORMS: dict[str, set[str]] = {
    "chats": {*ChatRequest.__struct_fields__},
    "completions": {*CompletionRequest.__struct_fields__},
    "messages": {*MessagesRequest.__struct_fields__} - NOT_OF_MESSAGES.keys(),
    "responses": {*ResponsesRequest.__struct_fields__} - NOT_OF_RESPONSES.keys(),
    "embeddings": {*EmbeddingRequest.__struct_fields__},
    "scores": {*ScoreRequest.__struct_fields__},
    "rerankings": {*RerankRequest.__struct_fields__},
}
"""What each form honours."""
HINTS_ELSEWHERE = {"reasoning_effort", "reasoning", "enable_thinking", "thinking", "think", "metadata", "store"}
HINTS_ELSEWHERE |= {"max_reasoning_tokens"}
"""What a form honours, and others may do without."""
REFUSED_ELSEWHERE = {"system"}


def test_the_table_has_every_field_that_the_structs_have() -> None:
    assert HINTS_ELSEWHERE < HINTS
    by_samplers = {field for sampler in SAMPLERS for field in sampler.params.__struct_encode_fields__}
    by_samplers |= {"bad_words", "dry_sequence_breakers"}
    expected = dict.fromkeys(by_samplers, "samplers")
    for name in set[str]().union(*FORMS.values()) - HINTS_ELSEWHERE - REFUSED_ELSEWHERE:
        expected[name] = " ".join(form for form, names in FORMS.items() if name in names)
    # Chats tell it from max_tokens; the other forms take it as another name of that.
    expected["max_completion_tokens"] = "chats completions messages responses"
    assert {name: field.reason for name, field in KNOWN_FIELDS.items() if field.kind == "honoured"} == expected


def test_the_table_has_every_field_that_the_official_client_can_send() -> None:
    for params in (
        chat_params.CompletionCreateParamsBase,
        completion_params.CompletionCreateParamsBase,
        response_create_params.ResponseCreateParamsBase,
        input_token_count_params.InputTokenCountParams,
        embedding_create_params.EmbeddingCreateParams,
    ):
        missing = {*get_annotations(params), "stream"} - KNOWN_FIELDS.keys()
        assert not missing
    assert "web_search_options" in get_annotations(chat_params.CompletionCreateParamsBase), "control"


def test_what_is_left_out_within_fields_leaves_the_rest_as_it_was() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}
    ignored = IgnoredFields()
    request, _ = split_fields(
        {
            "model": "m",
            "messages": [message, message | {"colour": 1, "name": None}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"unknown": 1}, "x": 1}}],
            "tool_choice": {"type": "function", "function": {"name": "f", "y": 2}},
            "stream_options": {"include_usage": True, "include_use": True},
            "stop": ["a"],
        },
        ChatRequest,
        SAMPLING,
        ignored=ignored,
    )
    plain = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    expected, _ = split_fields(
        {
            "model": "m",
            "messages": [plain, plain],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"unknown": 1}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "stream_options": {"include_usage": True},
            "stop": ["a"],
        },
        ChatRequest,
        SAMPLING,
        ignored=IgnoredFields(is_strict=True),
    )
    assert request == expected
    assert ignored.paths == [
        "messages[].content[].cache_control",
        "messages[].colour",
        "tools[].function.x",
        "tool_choice.function.y",
        "stream_options.include_use",
    ]


def test_a_boolean_is_not_the_number_one() -> None:
    with pytest.raises(RequestError, match="best_of"):
        split(best_of=True)
    with pytest.raises(RequestError, match="logprobs"):
        split(logprobs=0)


@pytest.mark.parametrize("value", [1, None])
def test_an_unknown_field_is_named(value: Any) -> None:
    assert ignored_of("temprature", value) == ["temprature"]
    with pytest.raises(RequestError, match="temprature: unknown field") as caught:
        ignored_of("temprature", value, is_strict=True)
    assert (caught.value.param, caught.value.code) == ("temprature", "unknown_parameter")


def test_a_strict_request_is_told_where_within_its_fields() -> None:
    with pytest.raises(RequestError, match="unknown field") as caught:
        ignored_of("messages[].tool_calls[].function.x", 1, is_strict=True)
    assert caught.value.param == "messages[0].tool_calls[0].function.x"


def test_sampling_fields_are_those_that_samplers_registered() -> None:
    assert split(temperature=0.5, top_k=None)[1] == {"temperature": 0.5}
    with pytest.raises(RequestError, match="top_p: not supported"):
        split(top_p=0.9)
    assert split(top_p=1)[1] == {}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": 3, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1, "name": 3}]}, "messages[0].name"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"n": 0}, "n"),
        ({"n": "two"}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": 0.5}, "seed"),
        ({"n_predict": "x"}, "max_tokens"),
        ({"stop": 3}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
        ({"messages": [{"role": "user", "audio": {"id": "x"}}]}, "messages[0].audio"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"model": 3}, "model"),
    ],
)
def test_a_wrong_value_is_located(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        split(**fields)
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize("secret", ["s3cret-value", "x" * 5000])
def test_the_text_never_repeats_a_value(secret: str) -> None:
    for fields in (
        {"messages": [{"role": [secret]}]},
        {"tool_choice": secret},
        {"stream": secret},
        {"suffix": secret},
    ):
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
    own = {*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__}
    others = {*EmbeddingRequest.__struct_fields__}
    missing = own - CORE_FIELDS
    assert not missing, f"add these to CORE_FIELDS in histrio/contracts/request_fields.py: {sorted(missing)}"
    assert not CORE_FIELDS - own - others - HINTS, "a field that no request has"
    assert not CORE_FIELDS & {field for sampler in SAMPLERS for field in sampler.params.__struct_encode_fields__}
