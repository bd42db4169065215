"""GET /schema: the OpenAPI document has every route and every field, and what it says is what the endpoint does."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator.schemas import schema_v31

from histrio_api import forms
from histrio_api.forms.form import Form
from histrio_api.routes import ROUTES
from histrio_api.routes.described import Described
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model
from histrio_api.text.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "Hello"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1, "stop": ["x"], "top_k": 3},
    "/v1/completions": {"prompt": ["Hello", "you"], "logprobs": 1, "echo": False, "n_predict": 5},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5, "system": [{"type": "text", "text": "x"}]},
    "/v1/responses": {"input": MESSAGES, "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}},
    "/tokenize": {"messages": MESSAGES},
}


@pytest.fixture(scope="module")
def http(model_folder: Path, tokenizer: Tokenizer) -> Iterator[httpx.Client]:
    ids = tokenizer.encode("Hi!", add_special=False)
    gateway = ScriptedGateway(
        served_model(model_folder),
        lambda submission, choice: saying(ids, num_logprobs=submission.ask.num_logprobs),
    )
    with running_endpoint(gateway) as url, httpx.Client(base_url=url) as made:
        yield made


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    answer = http.get("/schema")
    assert answer.headers["content-type"] == "application/json"
    assert http.get("/openapi.json").content == answer.content
    document: dict[str, Any] = answer.json()
    return document


def schema_of(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The schema of a request's or an answer's JSON, with what it refers to."""
    schema: dict[str, Any] = part["content"]["application/json"]["schema"]
    return schema | {"components": document["components"]}


def find_forms() -> dict[str, Form[Any]]:
    """Every form that there is, by the name of its struct."""
    modules = [
        importlib.import_module(f"{forms.__name__}.{each.name}") for each in pkgutil.iter_modules(forms.__path__)
    ]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Form)]
    return {form.schema.__name__: form for form in found}


def test_a_validator_accepts_the_document(document: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(schema_v31)
    validator.validate(document)
    assert not validator.is_valid(document | {"paths": {"no-slash": {}}}), "control"
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(re.findall(r'"\$ref":\s*"([^"]+)"', json.dumps(document))) <= known


def beginning(path: str) -> str:
    """A path without its parameter, which is written otherwise in each."""
    return path.partition("{")[0] + path.rpartition("}")[2] if "{" in path else path


def test_every_route_is_in_it_with_what_it_does(document: dict[str, Any]) -> None:
    expected = {(beginning(path), each.method.lower()) for each in ROUTES for path in each.paths}
    found = {
        (beginning(path), method): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert found.keys() == expected
    assert all(each["summary"].endswith(".") for each in found.values())
    item_list = document["paths"]["/v1/responses/{response_id}/input_items"]["get"]["parameters"]
    assert [each["name"] for each in item_list] == ["response_id", "limit", "order", "after"]
    embedding = document["components"]["schemas"]["EmbeddingRequest"]["properties"]
    assert "temperature" not in embedding, "no sampler's field where nothing is sampled"
    assert "base64" in str(embedding["encoding_format"])


def test_every_field_of_every_form_is_in_it(document: dict[str, Any]) -> None:
    described = {form.asks: form for form in (Described.of(each.opt) for each in ROUTES) if form.asks is not None}
    found = find_forms()
    assert len(found) >= 7
    for name, form in found.items():
        assert form.schema in described, f"the route of {name} says opt=described_form(…)"
        properties = document["components"]["schemas"][name]["properties"]
        fields = {*form.schema.__struct_encode_fields__}
        assert properties.keys() > fields | {"temperature", "n_predict"}
    chat = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert chat["top_logprobs"]["description"] == "Needs `logprobs`; -1 for the whole vocabulary."
    assert chat["seed"]["description"] == "Any integer; its lowest 64 bits count."
    assert chat["temperature"]["anyOf"][0]["maximum"] == 2
    assert chat["n_predict"] == chat["max_tokens"] | {"description": "another name of max_tokens"}
    assert chat["n"]["anyOf"][0]["maximum"] == 16, "a setting"


@pytest.mark.parametrize(("path", "body"), REQUESTS.items())
def test_requests_and_answers_are_as_it_says(
    http: httpx.Client, document: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    operation = document["paths"][path]["post"]
    asked = jsonschema.Draft202012Validator(schema_of(document, operation["requestBody"]))
    answer = http.post(path, json=body | {"unknown": 1})
    assert answer.status_code == 200, answer.text
    asked.validate(body | {"unknown": 1})
    wrong = body | {next(iter(body)): 7}
    assert http.post(path, json=wrong).status_code == 400
    assert not asked.is_valid(wrong), "control"

    if "schema" in operation["responses"]["200"]["content"]["application/json"]:
        answered = jsonschema.Draft202012Validator(schema_of(document, operation["responses"]["200"]))
        answered.validate(answer.json())
        assert not answered.is_valid(answer.json() | {"id": 1}), "control"


def test_it_says_where_a_key_is_needed(model_folder: Path) -> None:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with running_endpoint(gateway, **{"api-keys": ["mine"]}) as url:
        assert httpx.get(f"{url}/schema").status_code == 401
        document = httpx.get(f"{url}/schema", headers={"x-api-key": "mine"}).json()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}
    paths = document["paths"]
    assert paths["/v1/responses"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert paths["/health"]["get"]["security"] == []
