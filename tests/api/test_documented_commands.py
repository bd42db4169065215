"""Commands as pages show them, letter by letter: this project's own, and those of the systems that it unites."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from histrio.demo import __file__ as demo
from tests.api.conftest import Endpoint, Served

ROOT = Path(__file__).parents[2]
TEMPLATE = (Path(demo).parent / "target" / "chat_template.jinja").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = re.compile(r"^curl (?:[^\n]*\\\n)*[^\n]*$", re.MULTILINE)
NEEDS_KEYS = "/v1/usage"
OWN = [command for page in PAGES for command in SHOWN.findall(page.read_text("utf-8")) if NEEDS_KEYS not in command]

PARALLAX = """curl --location 'http://localhost:3001/v1/chat/completions' \
--header 'Content-Type: application/json' --data '{
    "max_tokens": 1024,
    "messages": [
      {
        "role": "user",
        "content": "hello"
      }
    ],
    "stream": true
}'"""
WHOLE = {"choices": [{"message": {"role": "assistant", "content": "text"}, "finish_reason": "stop"}], "model": "name"}
LATER = {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
CHAT = "curl http://localhost:3001/v1/chat/completions -d "
MORE = "curl http://localhost:3001/v1/"
UNITED: list[tuple[str, Any]] = [
    (CHAT + """'{"messages":[{"role":"user","content":"test"}],"stream":false}'""", WHOLE | LATER),
    (CHAT + """'{"model": "default", "messages": [{"role": "user", "content": "test"}], "stream": false,
        "max_tokens": 512,
        "sampling_params": {"temperature": 0.7, "top_k": 5, "top_p": 0.9}, "stop": null}'""", WHOLE | LATER),
    ("""curl -X POST http://localhost:3001/v1/inference -H "Content-Type: application/json" -d '{
        "model": "Qwen/Qwen3-0.6B", "prompt": "Explain quantum computing", "max_tokens": 512}'""",
     {"success": True, "completion": "text", "tokens": 3, "tier": "premium", "metadata": {"model": "name"}}),
    ("curl http://localhost:3001/health", {"status": "ready"}),
    (MORE + """generate -d '{"prompt": "Your prompt here", "max_tokens": 100, "temperature": 0.7, "top_p": 0.95,
        "stream": false, "use_speculative": true}'""",
     {"text": "text", "tokens_generated": 3, "generation_time": 0.5, "method": "speculative"}),
    (MORE + """generate_batch -d '{"prompts": ["First prompt", "Second prompt", "Third prompt"], "max_tokens": 100,
        "temperature": 0.7}'""",
     {"results": [{"text": "text", "tokens_generated": 3}] * 3, "total_time": 0.5, "batch_size": 3}),
    (MORE + "stats", {
        "total_requests": 42, "average_latency": 0.234,
        "batching_stats": {"total_batches": 10, "avg_batch_size": 4.2, "total_tokens": 12345},
        "speculative_stats": {"acceptance_rate": 0.85, "draft_length": 4},
    }),
    ("curl -X POST 'http://localhost:3001/v1/configure?use_speculative_decoding=true&max_batch_size=4'",
     {"use_speculative": True, "max_batch_size": 4}),
    (MORE + """completions -d '{"prompt": ["Once upon a time", "The sky is"], "max_tokens": 8, "n": 2}'""",
     {"object": "text_completion", "choices": [{"text": "text", "index": 0}] * 4} | LATER),
    (MORE + "models", {"object": "list", "data": [{"id": "toy", "object": "model"}]}),
]  # fmt: skip
"""Commands of Parallax, ParallaxPay, and both servers of MLX ParaLLM; and of each answer what those document."""


def request_of(command: str, url: str) -> httpx.Request:
    """What curl would send, to the server at `url`."""
    words = iter(shlex.split(command.replace("\\\n", " "))[1:])
    method, target, body, headers = "", "", "", {}
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-H" | "--header":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-d" | "--data":
                body = next(words)
            case "-N" | "--location":
                pass
            case _:
                target = re.sub(r"^http://[\w.]+:3001/", f"{url}/", word)
    if body:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    return httpx.Request(method or ("POST" if body else "GET"), target, headers=headers, content=body)


def misses(found: Any, documented: Any, place: str = "") -> list[str]:
    """Where an answer is not as it is documented: what is missing, or of another kind."""
    inner: list[tuple[str, Any, Any]]
    if isinstance(documented, dict) and isinstance(found, dict):
        inner = [(name, found.get(name), each) for name, each in documented.items()]
    elif isinstance(documented, list) and isinstance(found, list) and len(found) == len(documented):
        inner = [(str(at), found[at], each) for at, each in enumerate(documented)]
    else:
        is_number = isinstance(documented, int | float) and not isinstance(documented, bool)
        kinds = (int, float) if is_number else type(documented)
        return [] if isinstance(found, kinds) else [f"{place}: {found!r}"]
    return [miss for name, value, each in inner for miss in misses(value, each, f"{place}.{name}")]


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.mark.anyio
async def test_commands_of_this_projects_pages_are_answered(random_weights: Serve) -> None:
    assert len(OWN) >= 7
    async with random_weights(TEMPLATE) as served, httpx.AsyncClient() as http:
        assert (await http.post(f"{served.url}/v1/configure", json={"any_model": True})).status_code == 200
        for command in OWN:
            request = request_of(command.replace("max_batch_size=16", "max_batch_size=8"), served.url)
            answer = await http.send(request)
            assert answer.status_code == 200, f"{command}\n{answer.text}"
            assert "x-histrio-ignored" not in answer.headers, command
            if b'"stream": true' in request.content:
                assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.anyio
async def test_commands_of_the_systems_united_here_are_answered_as_those_document_it(random_weights: Serve) -> None:
    async with random_weights(TEMPLATE) as served, httpx.AsyncClient(timeout=60) as http:
        answer = await http.send(request_of(PARALLAX, served.url))
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        *chunks, last, rest = [each for each in answer.text.split("\n\n") if not each.startswith(":")]
        assert (last, rest) == ("data: [DONE]", "")
        chunk = json.loads(chunks[0].removeprefix("data: "))
        assert misses(chunk, {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}}]}) == []

        named = request_of(UNITED[2][0], served.url)
        assert (await http.send(named)).status_code == 404, "another model's name is an error until it is allowed"
        await http.post(f"{served.url}/v1/configure", json={"any_model": True})
        for command, documented in UNITED:
            answer = await http.send(request_of(command, served.url))
            assert answer.status_code == 200, f"{command}\n{answer.text}"
            assert misses(answer.json(), documented) == [], command
            assert misses(answer.json(), documented | {"other": 1}) == [".other: None"], "control"


def test_parallaxes_sampling_params_are_fields_of_the_request(endpoint: Endpoint) -> None:
    nested = {"temperature": 0.3, "top_k": 5, "max_new_tokens": 7, "stop_strs": ["x"]}
    assert endpoint.chat(sampling_params=nested).status_code == 200
    submission = endpoint.gateway.submissions[-1]
    assert (submission.ask.sampling, submission.max_new_tokens) == ({"temperature": 0.3, "top_k": 5}, 7)
    assert endpoint.chat(sampling_params=None, temperature=0.4).status_code == 200
    assert endpoint.gateway.submissions[-1].ask.sampling == {"temperature": 0.4}
    assert endpoint.complete(prompt="Hello", sampling_params={"top_p": 0.5}).status_code == 200
    assert endpoint.gateway.submissions[-1].ask.sampling["top_p"] == 0.5
    for given, named in (
        ({"sampling_params": [1]}, "sampling_params: must be an object"),
        ({"sampling_params": {"temperature": 9}}, "temperature"),
        ({"sampling_params": {"temperature": 1}, "temperature": 0.5}, "sampling_params.temperature: differs from"),
    ):
        answer = endpoint.chat(**given)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(named)
