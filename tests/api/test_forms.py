"""A generating endpoint is a schema, a form and a route: the way of a request knows none of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import histrio_api
from histrio.errors import HistrioError
from histrio_api.answer.choice import Choice
from histrio_api.answer.generation import Generation
from histrio_api.forms.form import Form
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.request.prepared import Prepared
from histrio_api.request.prompts import text_prompt
from histrio_api.request.received import Received
from histrio_api.request.scores import Scores
from histrio_api.request.structured import requested_grammar
from histrio_api.routes import ROUTES
from histrio_api.routes.common import HttpRequest
from histrio_api.routes.respond import respond
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model
from histrio_api.text.tokenizer import Tokenizer

MODEL = "test/scripted"
ROOMS = ("request", "answer", "shared")


class LinesRequest(GenerationRequest, frozen=True, kw_only=True):
    """What this file's own endpoint takes."""

    text: str


def prepare_lines(edge: Edge, received: Received[LinesRequest]) -> Prepared:
    request = received.request
    prompt = text_prompt(edge, request.text, "text", add_special=False)
    return Prepared(
        received=received,
        prompts=[prompt],
        prompt_param="text",
        num_wanted_tokens=request.max_tokens,
        scores=Scores(),
        grammar=requested_grammar(edge, received),
    )


class LinesAnswer:
    """A line for each piece, as no other endpoint has them."""

    def __init__(self, edge: Edge, prepared: Prepared, generation: Generation) -> None:
        self.id = generation.id

    def opening(self) -> bytes:
        return f"<{self.id[:6]}\n".encode()

    def piece(self, choice: Choice, text: str) -> bytes:
        return f"{text}\n".encode() if text else b""

    def waiting(self, *, is_recovering: bool) -> bytes:
        return b""

    def closing(self) -> bytes:
        return b">\n"

    def failure(self, error: HistrioError) -> bytes:
        return f"!{error.code}\n".encode()

    def whole(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"id": self.id, "lines": list(texts)}


LINES = Form(LinesRequest, "lines_", prepare_lines, LinesAnswer, media_type="text/plain")


@post("/lines")
async def lines(request: HttpRequest) -> Response:
    return await respond(request, LINES)


@pytest.fixture(scope="module")
def gateway(model_folder: Path, tokenizer: Tokenizer) -> ScriptedGateway:
    ids = tokenizer.encode("one two", add_special=False)
    return ScriptedGateway(served_model(model_folder), lambda submission, choice: saying(ids))


@pytest.fixture(scope="module")
def client(gateway: ScriptedGateway) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("histrio_api.service.app.ROUTES", [*ROUTES, lines])
        with running_endpoint(gateway) as url, httpx.Client(base_url=url) as made:
            yield made


def test_the_whole_answer_is_the_forms(client: httpx.Client, gateway: ScriptedGateway, tokenizer: Tokenizer) -> None:
    answer = client.post("/lines", json={"model": MODEL, "text": "Hello", "n": 2, "max_tokens": 5})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"id": answer.headers["x-request-id"], "lines": ["one two", "one two"]}
    assert answer.json()["id"].startswith("lines_")
    submission = gateway.submissions[-1]
    assert (submission.ids, submission.max_new_tokens) == (tokenizer.encode("Hello", add_special=False), 5)
    assert submission.id == answer.json()["id"]


def test_a_stream_is_the_forms_too(client: httpx.Client) -> None:
    answer = client.post("/lines", json={"model": MODEL, "text": "a", "stream": True})
    assert answer.headers["content-type"].startswith("text/plain")
    opening, *pieces, closing = answer.text.split("\n")[:-1]
    assert (opening, closing) == ("<lines_", ">")
    assert "".join(pieces) == "one two"


def test_an_error_in_a_stream_is_written_by_the_form(client: httpx.Client, gateway: ScriptedGateway) -> None:
    usual, gateway.script = gateway.script, lambda submission, choice: [RuntimeError("a bug")]
    answer = client.post("/lines", json={"model": MODEL, "text": "a", "stream": True})
    gateway.script = usual
    assert answer.text.endswith("!internal_error\n")


def test_what_a_form_does_not_know_is_checked_for_it(client: httpx.Client) -> None:
    for fields, param in (
        ({"text": ""}, "text"),
        ({"text": "a", "n": 10_000}, "n"),
        ({"text": "a", "messages": []}, "messages"),
        ({"text": "a", "max_tokens": 0}, "max_tokens"),
        ({"text": "a", "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"text": "a", "regex": "a"}, "regex"),
    ):
        answer = client.post("/lines", json={"model": MODEL} | fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def kinds_asked_for(source: str) -> list[str]:
    """Classes of requests that a module tells from each other."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, kinds]):
                found += [each.id for each in ast.walk(kinds) if isinstance(each, ast.Name)]
            case ast.MatchClass(cls=ast.Name(id=name)):
                found.append(name)
            case _:
                pass
    return [name for name in found if name.endswith("Request")]


def test_neither_half_asks_which_endpoint_a_request_came_to() -> None:
    folder = Path(histrio_api.__file__).parent
    modules = [file for room in ROOMS for file in (folder / room).glob("*.py")]
    assert len(modules) > 20
    assert {file.name: kinds_asked_for(file.read_text(encoding="utf-8")) for file in modules} == {
        file.name: [] for file in modules
    }


def test_a_planted_question_is_found() -> None:
    assert kinds_asked_for("if isinstance(request, (int, ChatRequest)): pass") == ["ChatRequest"]
    assert kinds_asked_for("match request:\n    case CompletionRequest():\n        pass") == ["CompletionRequest"]


def test_a_request_is_never_changed() -> None:
    request = msgspec.convert({"model": "m", "messages": []}, ChatRequest)
    with pytest.raises(AttributeError, match="immutable"):
        request.skip_special_tokens = False  # type: ignore[misc]
    assert request.skip_special_tokens
