"""The fields that ask for a form of the answer: each becomes one grammar, or a 400 that points into the request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from histrio.contracts.honours import Honours
from histrio.errors import RequestError
from histrio.messages import GrammarSpec
from histrio_api.request.fields import split_fields
from histrio_api.request.forced_calls import form_or_calls
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.structured import wanted_grammar
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.completions import CompletionRequest
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model
from histrio_api.text.calls.families import hermes

KINDS = ["choice", "gbnf", "json_object", "json_schema", "lark", "regex", "structural_tag"]
SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "string"}}, "required": ["z"]}
TEXT = msgspec.json.encode(SCHEMA).decode()
CHAT = {"model": "test/scripted", "messages": [{"role": "user", "content": "Hello"}]}
TAG = {"structures": [{"begin": "<f=1>", "schema": SCHEMA, "end": "</f>"}], "triggers": ["<f"]}
TAG_TEXT = msgspec.json.encode(TAG).decode()
(HERMES,) = hermes.FORMATS
GBNF, LARK = 'root ::= "a"', 'start: "a"'

UNIQUE = {"items": {"type": "array", "uniqueItems": True}}
FORMS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"response_format": {"type": "json_object"}}, "json_object", "", "response_format"),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json_schema", TEXT, "response_format.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}},
        "json_schema",
        TEXT,
        "response_format.json_schema.schema",
    ),
    ({"json_schema": SCHEMA}, "json_schema", TEXT, "json_schema"),
    ({"json_schema": TEXT}, "json_schema", TEXT, "json_schema"),
    ({"guided_json": SCHEMA}, "json_schema", TEXT, "guided_json"),
    ({"structured_outputs": {"json": SCHEMA}}, "json_schema", TEXT, "structured_outputs.json"),
    ({"structured_outputs": {"json_object": True}}, "json_object", "", "structured_outputs.json_object"),
    ({"regex": "a+"}, "regex", "a+", "regex"),
    ({"guided_regex": "a+"}, "regex", "a+", "guided_regex"),
    ({"structured_outputs": {"regex": "a+"}}, "regex", "a+", "structured_outputs.regex"),
    ({"guided_choice": ["a", "b"]}, "choice", '["a","b"]', "guided_choice"),
    ({"structured_outputs": {"choice": ["a"]}}, "choice", '["a"]', "structured_outputs.choice"),
    ({"grammar": GBNF}, "gbnf", GBNF, "grammar"),
    ({"grammar": LARK}, "lark", LARK, "grammar"),
    ({"ebnf": GBNF}, "gbnf", GBNF, "ebnf"),
    ({"guided_grammar": GBNF}, "gbnf", GBNF, "guided_grammar"),
    ({"structured_outputs": {"grammar": LARK}}, "lark", LARK, "structured_outputs.grammar"),
    ({"response_format": {"type": "structural_tag"} | TAG}, "structural_tag", TAG_TEXT, "response_format"),
    (
        {"structured_outputs": {"structural_tag": TAG}},
        "structural_tag",
        TAG_TEXT,
        "structured_outputs.structural_tag",
    ),
    (
        {"structured_outputs": {"structural_tag": json.dumps({"type": "structural_tag"} | TAG)}},
        "structural_tag",
        TAG_TEXT,
        "structured_outputs.structural_tag",
    ),
]


def wanted(kinds: list[str] = KINDS, **fields: Any) -> Any:
    request, sampling = split_fields(CHAT | fields, ChatRequest, frozenset({"min_tokens"}))
    return wanted_grammar(request, sampling, kinds, or_calls=partial(form_or_calls, request, HERMES, ()))


@pytest.mark.parametrize(("fields", "kind", "text", "param"), FORMS)
def test_every_spelling_becomes_its_grammar(fields: dict[str, Any], kind: str, text: str, param: str) -> None:
    found = wanted(**fields)
    assert (found.spec, found.param) == (GrammarSpec(kind, text), param)


@pytest.mark.parametrize(("fields", "kind", "text", "param"), FORMS)
def test_where_no_grammar_is_enforced_the_field_is_refused(
    fields: dict[str, Any], kind: str, text: str, param: str
) -> None:
    for kinds in ([], [other for other in KINDS if other != kind]):
        with pytest.raises(RequestError, match="not supported") as caught:
            wanted(kinds, **fields)
        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    "fields",
    [{}, {"response_format": {"type": "text"}}, {"response_format": None}, {"structured_outputs": {}}, {"regex": None}],
)
def test_any_text_needs_no_grammar(fields: dict[str, Any]) -> None:
    assert wanted([], **fields) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": "json"}, "response_format"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"structural_tag": '{"triggers":[]}'}}, "structured_outputs.structural_tag.structures"),
        ({"response_format": {"type": "structural_tag", "triggers": ["<"]}}, "response_format.structures"),
        ({"response_format": {"type": "structural_tag", "structures": []}}, "response_format.triggers"),
        ({"response_format": {"type": "structural_tag", "format": {"type": "or"}} | TAG}, "response_format.format"),
        (
            {"response_format": {"type": "structural_tag", "structures": [{"begin": "<"}], "triggers": ["<"]}},
            "response_format.structures[0].schema",
        ),
        ({"guided_choice": [1]}, "guided_choice[0]"),
        ({"regex": "a", "guided_regex": "b"}, "regex"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"regex": "a", "min_tokens": 3}, "min_tokens"),
    ],
)
def test_what_is_malformed_or_contradicts_itself_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        wanted(**fields)
    assert caught.value.param == param
    assert param in str(caught.value)


def test_what_only_seems_to_contradict_is_accepted() -> None:
    fields: dict[str, Any] = {
        "tools": [{"function": {"name": "f"}}],
        "tool_choice": "none",
        "min_tokens": 0,
        "ignore_eos": False,
    }
    assert wanted(regex="a", **fields).spec == GrammarSpec("regex", "a")


@pytest.fixture(scope="module")
def enforcing(model_folder: Path) -> Iterator[tuple[ScriptedGateway, httpx.Client]]:
    """An endpoint over a gateway that says it enforces all kinds."""
    model = msgspec.structs.replace(served_model(model_folder), honours=Honours(grammar_kinds=KINDS))
    gateway = ScriptedGateway(model, lambda submission, choice: saying([5]))
    with running_endpoint(gateway) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield gateway, http


@pytest.mark.timeout(60)  # starts a process that checks grammars
def test_the_grammar_travels_with_the_submission(enforcing: tuple[ScriptedGateway, httpx.Client]) -> None:
    gateway, http = enforcing
    for fields, kind, text, _ in FORMS:
        assert http.post("/v1/chat/completions", json=CHAT | fields).status_code == 200
        assert gateway.submissions[-1].ask.grammar == GrammarSpec(kind, text)
    completion = {"model": "test/scripted", "prompt": "x", "guided_choice": ["yes", "no"], "stream": True}
    assert http.post("/v1/completions", json=completion).status_code == 200
    assert gateway.submissions[-1].ask.grammar == GrammarSpec("choice", '["yes","no"]')
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert gateway.submissions[-1].ask.grammar is None


@pytest.mark.timeout(60)  # starts a process that checks grammars
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"strict": True, "schema": UNIQUE}}},
            "response_format.json_schema.schema.items.uniqueItems",
        ),
        ({"json_schema": {"anyOf": [{}, {"not": {"const": "s3cret", "type": 3}}]}}, "json_schema.anyOf[1].not.type"),
        ({"guided_json": '{"type": "s3cret"}'}, "guided_json.type"),
        ({"structured_outputs": {"json": {"enum": []}}}, "structured_outputs.json.enum"),
        ({"regex": "(s3cret"}, "regex"),
        ({"grammar": "root ::= s3cret"}, "grammar"),
        ({"guided_choice": []}, "guided_choice"),
        (
            {"response_format": {"type": "structural_tag"} | TAG | {"triggers": ["<s3cret"]}},
            "response_format.structures[0].begin",
        ),
        (
            {
                "response_format": {
                    "type": "structural_tag",
                    "structures": [{"begin": "<f", "schema": {"items": {"type": "s3cret"}}, "end": ""}],
                    "triggers": ["<f"],
                }
            },
            "response_format.structures[0].schema.items.type",
        ),
    ],
)
def test_a_grammar_that_cannot_be_enforced_is_a_400_with_its_place(
    enforcing: tuple[ScriptedGateway, httpx.Client], fields: dict[str, Any], param: str
) -> None:
    gateway, http = enforcing
    num_before = len(gateway.submissions)
    answer = http.post("/v1/chat/completions", json=CHAT | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert error["message"].startswith(f"{param}: ")
    assert "s3cret" not in json.dumps(error)
    assert len(gateway.submissions) == num_before


@pytest.mark.timeout(60)  # starts a process that checks grammars
def test_a_keyword_that_no_grammar_enforces_is_named_in_the_header(
    enforcing: tuple[ScriptedGateway, httpx.Client],
) -> None:
    _, http = enforcing
    tag = {"begin": "<f", "schema": UNIQUE, "end": ""}
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"strict": False, "schema": UNIQUE}}},
            "response_format.json_schema.schema.items.uniqueItems",
        ),
        ({"guided_json": UNIQUE}, "guided_json.items.uniqueItems"),
        (
            {"response_format": {"type": "structural_tag", "structures": [tag], "triggers": ["<f"]}},
            "response_format.structures[0].schema.items.uniqueItems",
        ),
    ]
    for fields, path in cases:
        for _ in range(2):  # the second one knows the verdict
            answer = http.post("/v1/chat/completions", json=CHAT | fields)
            assert (answer.status_code, answer.headers.get("x-histrio-ignored")) == (200, path), answer.text
        refused = http.post("/v1/chat/completions", json=CHAT | fields, headers={"x-histrio-strict": "true"})
        assert refused.status_code == 400
        assert (refused.json()["error"]["param"], refused.json()["error"]["code"]) == (path, "unsupported_keyword")
    plain = http.post("/v1/chat/completions", json=CHAT | {"guided_json": {"items": {"type": "string"}}})
    assert (plain.status_code, "x-histrio-ignored" in plain.headers) == (200, False), "a control"


def test_a_server_without_grammars_refuses_the_fields(endpoint: Any) -> None:
    for fields, _, _, param in FORMS:
        answer = endpoint.chat(**fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert endpoint.chat(response_format={"type": "text"}).status_code == 200


@pytest.mark.parametrize(
    ("given", "text", "param"),
    [
        ({"type": "limerick", "limerick": "AABBA"}, "AABBA", "response_format.limerick"),
        ({"type": "limerick", "limerick": {"rhyme": "AABBA"}}, '{"rhyme":"AABBA"}', "response_format.limerick"),
        ({"type": "limerick", "rhyme": "AABBA", "lines": 5}, '{"rhyme":"AABBA","lines":5}', "response_format"),
        ({"type": "limerick"}, "", "response_format"),
        ({"type": "regex", "regex": "a+"}, "a+", "response_format.regex"),
    ],
)
def test_a_kind_of_a_plugin_is_asked_for_by_its_name(given: dict[str, Any], text: str, param: str) -> None:
    request = split_fields({"model": "m", "prompt": "x", "response_format": given}, CompletionRequest, frozenset())[0]
    wanted = wanted_grammar(request, {}, ["limerick", "regex"])
    assert wanted is not None
    assert (wanted.spec.kind, wanted.spec.text, wanted.param) == (given["type"], text, param)
    with pytest.raises(RequestError, match=r"response_format.type: must be one of haiku, json_object"):
        wanted_grammar(request, {}, ["haiku"])


def test_a_kind_has_one_text() -> None:
    given = {"type": "limerick", "limerick": "x", "rhyme": "y"}
    request = split_fields({"model": "m", "prompt": "x", "response_format": given}, CompletionRequest, frozenset())[0]
    ignored = IgnoredFields()
    wanted = wanted_grammar(request, {}, ["limerick"], ignored=ignored)
    assert wanted is not None
    assert (wanted.spec.text, ignored.paths) == ("x", ["response_format.rhyme"])
    with pytest.raises(RequestError, match=r"response_format.rhyme: unknown field"):
        wanted_grammar(request, {}, ["limerick"], ignored=IgnoredFields(is_strict=True))
