"""What `/schema` says is what the endpoint does: schemathesis makes bodies that it allows or forbids."""

from __future__ import annotations

import gc
import re
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from histrio_api.routes.body_schemas import UNSAID
from tests.api.hostile import HostileServer, hostile_server
from tests.api.test_hostile_clients import MOST_ERROR_BYTES, MOST_GROWTH_BYTES, assert_answers, resident_bytes

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra dev")

UNSAID_REFUSALS = {
    "names a model that": r"no such model here|not kept here|keeps no responses|none of the request's tools",
    "has a message of a role": r"no such role|a block of this type",
    "has a field that is known": r"\w+: not supported by",
    "has fields that contradict": r"differs from|only allowed|needs add_generation_prompt|asks for a (form|call)"
    r"|give one|cannot be combined|has no tools|give (either|tools or|tool_choice or)|leave(s)? no token|without tools",
    "has an item without the fields": r"the field is required",
    "has texts or ids that are none": r"must not be empty|at least one message|has \d+ texts|cannot be mixed"
    r"|a list cannot stand|tokens, more than|longer than|no room|list of lists",
    "asks for what the served model": r"this model has no|no such variable|the model's chat template does not|may have"
    r"|has a head of its own|at most \d+, for which|always writes them",
    "brings a grammar": r"grammar|regular expression|schema|choices|trigger|expression|structur",
}
"""How a rule begins that the document has in words → the refusals that it means."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileServer]:
    with hostile_server(tmp_path_factory.mktemp("described")) as running:
        yield running


@dataclass
class Judge:
    """Sends what is made, and holds each answer against the document."""

    http: httpx.Client
    document: dict[str, Any]
    faults: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    num_allowed: int = 0
    num_forbidden: int = 0
    last: deque[tuple[str, str, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=500))
    """Method, URL and the rest of the last requests."""

    def send(self, case: Any) -> None:
        """Send one request; what is wrong with its answer is kept."""
        sent = case.as_transport_kwargs(base_url=str(self.http.base_url))
        has_json = "json" in sent
        body = {"json": sent["json"]} if has_json else {"content": sent.get("data")}
        rest = {"params": sent.get("params"), **body}
        self.last.append((sent["method"], sent["url"], rest))
        answer = self.http.request(sent["method"], sent["url"], **rest)
        self.statuses[answer.status_code] += 1
        fault = self._fault(case, sent.get("json"), answer) if has_json else _hard_fault(answer)
        if fault:
            self.faults.append(f"{case.method} {case.path}: {fault}: {str(sent.get('json'))[:600]}")

    def _fault(self, case: Any, body: Any, answer: httpx.Response) -> str:
        operation = self.document["paths"][case.path][case.method.lower()]
        if (hard := _hard_fault(answer)) or "requestBody" not in operation:
            return hard
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        checked = jsonschema.Draft202012Validator(schema | {"components": self.document["components"]})
        if checked.is_valid(body):
            self.num_allowed += 1
            is_known = answer.status_code == 200 or any(
                re.search(each, answer.text) for each in UNSAID_REFUSALS.values()
            )
            return "" if is_known else f"allowed, and refused with {answer.text[:200]}"
        self.num_forbidden += 1
        is_said = answer.status_code in (400, 404) or "x-histrio-ignored" in answer.headers
        return "" if is_said else f"forbidden, and answered with {answer.status_code}: {_why(checked, body)}"


def _hard_fault(answer: httpx.Response) -> str:
    if answer.status_code >= 500:
        return f"status {answer.status_code}: {answer.text[:200]}"
    is_long = answer.status_code >= 400 and len(answer.content) > MOST_ERROR_BYTES
    return f"an error of {len(answer.content)} bytes" if is_long else ""


def _why(checked: jsonschema.Draft202012Validator, body: Any) -> str:
    error = jsonschema.exceptions.best_match(checked.iter_errors(body))
    return f"{error.json_path}: {error.message[:100]}"


def described(server: HostileServer, *, once_each: bool = False) -> dict[str, Any]:
    """The document; with `once_each`, of the operations that take the same body the first one."""
    document: dict[str, Any] = httpx.get(f"{server.url}/schema").json()
    seen: set[str] = set()
    for path, operations in [*document["paths"].items()]:
        asked = str([each["requestBody"] for each in operations.values() if "requestBody" in each] or path)
        if once_each and asked in seen:
            del document["paths"][path]
        seen.add(asked)
    return document


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """A document with what it says in words of the most common places: else few bodies would get beyond them."""
    narrowed: dict[str, Any] = deepcopy(document)
    schemas = narrowed["components"]["schemas"]
    schemas["ChatMessage"]["properties"]["role"]["enum"] = ["system", "user", "assistant"]
    schemas["Block"]["properties"]["type"] = {"const": "text"}
    kept = {"strict": False, "batch_timeout_ms": 0, "max_choices": 16, "max_prompts": 64, "max_batch_size": 64}
    for name, value in kept.items():  # what is changed here holds for all that follows
        schemas["Changes"]["properties"][name] = {"const": value}
    for each in schemas.values():
        if "model" in each.get("properties", {}):
            each["properties"]["model"] = {"enum": ["", "default", "toy"]}
    return narrowed


def judged(server: HostileServer, num_examples: int, document: dict[str, Any] | None = None) -> Judge:
    """All operations, with so many requests that the document allows, and as many that it forbids."""
    document = document or described(server)
    assert all(any(rule.startswith(each) for rule in UNSAID) for each in UNSAID_REFUSALS)
    assert all(rule in document["info"]["description"] for rule in UNSAID)
    with httpx.Client(base_url=server.url, timeout=60) as http:
        judge = Judge(http, document)
        for found in schemathesis.openapi.from_dict(narrowed(document)).get_all_operations():
            operation = found.ok()
            for mode in schemathesis.GenerationMode if operation.body else [schemathesis.GenerationMode.POSITIVE]:
                _send_each(judge, operation, mode, num_examples)
    return judge


def _send_each(judge: Judge, operation: Any, mode: Any, num_examples: int) -> None:
    @settings(
        max_examples=num_examples,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        judge.send(case)

    nothing_to_forbid = suppress(Unsatisfiable) if mode is schemathesis.GenerationMode.NEGATIVE else nullcontext()
    with nothing_to_forbid:
        each()


def growth_of_the_same_again(judge: Judge) -> int:
    """Bytes that the process grows by while the last requests come again and again; what makes them grows, too."""
    with httpx.Client(timeout=60) as http:
        for nth in range(6):
            if nth == 1:
                gc.collect()
                memory = resident_bytes()
            for method, url, rest in judge.last:
                http.request(method, url, **rest)
    gc.collect()
    return resident_bytes() - memory


@pytest.mark.timeout(180)
def test_what_the_document_allows_is_taken_and_what_it_forbids_is_refused(server: HostileServer) -> None:
    judge = judged(server, 3, described(server, once_each=True))
    print(dict(judge.statuses), f"{judge.num_allowed} allowed, {judge.num_forbidden} forbidden")
    assert not judge.faults, judge.faults[:5]
    assert min(judge.num_allowed, judge.num_forbidden) > 20, "a control: there are both"
    assert judge.statuses[200] > 20, "a control: what is allowed is answered"
    assert_answers(server)


def test_a_document_that_is_not_true_is_found_out(server: HostileServer) -> None:
    document = described(server)
    document["paths"] = {"/tokenize": document["paths"]["/tokenize"]}
    body = document["components"]["schemas"]["TokenizeRequest"]
    body["properties"] = {"prompt": {"const": "Hello"}, "with_pieces": {"type": "boolean"}}
    body["required"] = ["prompt", "with_pieces"]
    assert not judged(server, 8, document).faults, "a control"
    body["properties"]["with_pieces"] = {"const": 1}
    assert "allowed, and refused" in judged(server, 8, document).faults[0]
    body["properties"]["with_pieces"] = {"const": True}
    body["properties"]["prompt"] = {"const": 1}
    body["required"] = ["prompt"]
    assert any("allowed, and refused" in fault for fault in judged(server, 8, document).faults)


@pytest.mark.thorough
@pytest.mark.timeout(7200)
def test_twenty_thousand_requests_break_nothing(server: HostileServer) -> None:
    judge = judged(server, num_examples=360)
    growth = growth_of_the_same_again(judge)
    print(
        dict(judge.statuses), f"{judge.num_allowed} allowed, {judge.num_forbidden} forbidden, {growth / 2**20:.0f} MiB"
    )
    assert not judge.faults, judge.faults[:5]
    assert sum(judge.statuses.values()) >= 20_000
    assert growth < MOST_GROWTH_BYTES
    assert_answers(server)
