"""Ollama's API, judged by its official client, and held by its wire format where the client does not look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from histrio.contracts.gateway import Delta, GatewayStatus
from histrio.errors import Overloaded
from histrio.messages import Extras, RequestState
from histrio_api.testing import Gate, ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.tokenizer import Tokenizer

TEMPLATE = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
MODEL = "test/scripted"
HELLO = [{"role": "user", "content": "Hello"}]
CALL = '\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
DURATIONS = ("load_duration", "prompt_eval_duration", "eval_duration")


class Served:
    """An endpoint over a script, with the official client."""

    def __init__(self, url: str, gateway: ScriptedGateway, folder: Path) -> None:
        self.gateway, self.tokenizer = gateway, Tokenizer.load(folder, bos_id=0)
        self.http = httpx.Client(base_url=url)
        self.client = ollama.Client(host=url)

    def says(self, text: str) -> None:
        ids = self.tokenizer.encode(text, add_special=False)
        self.gateway.script = lambda submission, choice: saying(ids, num_logprobs=submission.ask.num_logprobs)

    def post(self, path: str, **fields: Any) -> httpx.Response:
        return self.http.post(path, json=fields)

    @property
    def prompt(self) -> str:
        """Of the last request."""
        return self.tokenizer.decode(self.gateway.submissions[-1].ids, skip_special=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from serve(tmp_path_factory.mktemp("ollama"), TEMPLATE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model without a chat template."""
    yield from serve(tmp_path_factory.mktemp("plain"), None)


def serve(folder: Path, template: str | None) -> Iterator[Served]:
    write_tokenizer(folder, chat_template=template)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "dtype": "bfloat16"}))
    (folder / "model.safetensors").write_bytes(b"x" * 1234)
    gateway = ScriptedGateway(served_model(folder, 2048), lambda submission, choice: saying([]))
    with running_endpoint(gateway, **{"keep-alive-s": 0.05}) as url:
        served = Served(url, gateway, folder)
        with served.http:
            yield served
        served.client.close()  # type: ignore[no-untyped-call]


@pytest.fixture
def served(shared: Served) -> Served:
    shared.says("Hi there!")
    shared.gateway.refusal = None
    shared.gateway.status = GatewayStatus(state="ready", progress=1.0)
    shared.gateway.submissions.clear()
    return shared


def test_the_client_chats(served: Served) -> None:
    answer = served.client.chat(MODEL, HELLO)
    assert (answer.message.role, answer.message.content) == ("assistant", "Hi there!")
    assert (answer.model, answer.done, answer.done_reason) == (MODEL, True, "stop")
    assert answer.prompt_eval_count == len(served.gateway.submissions[0].ids)
    assert answer.eval_count == len(served.tokenizer.encode("Hi there!", add_special=False)) + 1
    assert answer.message.thinking is None
    assert answer.message.tool_calls is None
    assert served.prompt.startswith("<|im_start|>user\nHello<|im_end|>")


def test_the_parts_of_its_time_are_the_whole_and_follow_what_happened(served: Served) -> None:
    gate = Gate()
    deltas = saying(served.tokenizer.encode("Hi", add_special=False))
    served.gateway.script = lambda submission, choice: [deltas[0], gate, *deltas[1:]]
    stream = served.client.chat(MODEL, HELLO, stream=True)
    next(stream)
    gate.open()
    last = [*stream][-1]
    parts = [last[name] for name in DURATIONS]
    assert all(part > 0 for part in parts)
    assert abs(sum(parts) - last["total_duration"]) <= len(parts), "but for rounding"
    assert isinstance(last["total_duration"], int)


def test_a_stream_is_the_same_answer_in_lines(served: Served) -> None:
    pieces = [*served.client.chat(MODEL, HELLO, stream=True)]
    assert "".join(each.message.content or "" for each in pieces) == "Hi there!"
    assert [each.done for each in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].done_reason == "stop"
    response = served.post("/api/chat", model=MODEL, messages=HELLO)
    assert response.headers["content-type"].startswith("application/x-ndjson")
    first = json.loads(response.text.splitlines()[0])
    assert first.keys() == {"model", "created_at", "message", "done"}
    assert first["created_at"].endswith("Z")


def test_answers_come_as_a_stream_unless_told_otherwise(served: Served) -> None:
    for path, given in (("/api/chat", {"messages": HELLO}), ("/api/generate", {"prompt": "Hello"})):
        assert len(served.post(path, **given).text.splitlines()) > 1
        assert len(served.post(path, stream=False, **given).text.splitlines()) == 1


def test_a_stream_that_waits_stays_readable(served: Served) -> None:
    gate = Gate()
    script = saying(served.tokenizer.encode("Hi", add_special=False))
    served.gateway.script = lambda submission, choice: [gate, *script]
    with served.http.stream("POST", "/api/chat", json={"messages": HELLO}) as response:
        chunks = response.iter_text()
        assert next(chunks).strip() == "", "what keeps the stream open is no line"
        gate.open()
        text = "".join(chunks)
    assert all(json.loads(line) for line in text.splitlines())


def test_a_prompt_becomes_a_chat(served: Served) -> None:
    answer = served.client.generate(MODEL, "Hello", system="Be brief.")
    assert answer.response == "Hi there!"
    assert "<|im_start|>system\nBe brief.<|im_end|>" in served.prompt
    assert served.prompt.endswith("<|im_start|>assistant\n")
    text = "".join(each.response or "" for each in served.client.generate(MODEL, "Hello", stream=True))
    assert text == "Hi there!"


def test_a_raw_prompt_is_the_prompt(served: Served) -> None:
    served.client.generate(MODEL, "Once upon", raw=True)
    assert served.prompt == "<|bos|>Once upon"


def test_a_model_without_a_template_takes_prompts_as_they_are(plain: Served) -> None:
    plain.says("a time")
    assert plain.client.generate(MODEL, "Once upon").response == "a time"
    assert plain.prompt == "<|bos|>Once upon"
    refused = plain.post("/api/generate", prompt="Once upon", system="Be brief.")
    assert (refused.status_code, refused.json()["error"].split(":")[0]) == (400, "system")


@pytest.mark.parametrize("think", [True, False])
def test_think_sets_the_templates_switch(served: Served, think: bool) -> None:
    served.says("<think>\nHm.\n</think>\n\nHi!" if think else "Hi!")
    answer = served.client.chat(MODEL, HELLO, think=think)
    assert (answer.message.thinking, answer.message.content) == (("Hm." if think else None), "Hi!")
    assert ("</think>" in served.prompt) is not think
    text = served.client.generate(MODEL, "Hello", think=think)
    assert (text.thinking, text.response) == (("Hm." if think else None), "Hi!")


def add(a: int, b: int = 0) -> int:
    """Adds.

    Args:
      a: the first
      b: the second
    """
    return a + b


def test_a_function_of_python_is_called_and_its_result_goes_back(served: Served) -> None:
    served.says(f"Let me see.{CALL}")
    answer = served.client.chat(MODEL, HELLO, tools=[add])
    assert answer.message.tool_calls is not None
    function = answer.message.tool_calls[0].function
    assert (function.name, function.arguments) == ("add", {"a": 1})
    assert '"description": "Adds."' in served.prompt

    served.says("It is 1.")
    result = {"role": "tool", "content": "1", "tool_name": "add"}
    assert served.client.chat(MODEL, [*HELLO, answer.message, result], tools=[add]).message.content == "It is 1."
    assert '{"name": "add", "arguments": {"a": 1}}' in served.prompt
    assert "<tool_response>\n1\n</tool_response>" in served.prompt


def test_streamed_calls_have_objects_for_arguments(served: Served) -> None:
    served.says(CALL)
    pieces = [*served.client.chat(MODEL, HELLO, tools=[add], stream=True)]
    calls = [call for each in pieces for call in each.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [("add", {"a": 1})]


def test_options_are_the_sampling_of_the_request(served: Served) -> None:
    options = {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "seed": 3, "num_predict": 5, "stop": ["X"], "num_ctx": 99}
    response = served.post("/api/chat", messages=HELLO, options=options, stream=False)
    assert response.status_code == 200, response.text
    submission = served.gateway.submissions[-1]
    assert submission.ask.sampling == {"temperature": 0.5, "top_k": 7, "top_p": 0.9}
    assert (submission.ask.seed, submission.max_new_tokens) == (3, 5)
    assert response.headers["x-histrio-ignored"] == "num_ctx"


def test_what_does_nothing_is_taken(served: Served) -> None:
    room = 2048
    options = {"seed": -1, "num_predict": -1, "repeat_last_n": 64, "repeat_penalty": 1.0, "tfs_z": 1.0, "num_keep": 4}
    response = served.post("/api/generate", prompt="Hello", options=options, format="", keep_alive="5m", stream=False)
    assert response.status_code == 200, response.text
    submission = served.gateway.submissions[-1]
    assert submission.ask.seed is None
    assert len(submission.ids) + submission.max_new_tokens == room
    assert response.headers["x-histrio-ignored"] == "keep_alive, num_keep"


def test_an_answer_ends_for_a_reason(served: Served) -> None:
    served.gateway.script = lambda submission, choice: [
        Delta([9], RequestState.FINISHED_MAX_LENGTH, Extras()),
    ]
    assert served.client.chat(MODEL, HELLO, options={"num_predict": 1}).done_reason == "length"


def test_log_probabilities_stand_beside_the_text(served: Served) -> None:
    whole = served.client.chat(MODEL, HELLO, logprobs=True, top_logprobs=2)
    assert whole.logprobs is not None
    assert "".join(each.token for each in whole.logprobs) == "Hi there!"
    assert [len(each.top_logprobs or ()) for each in whole.logprobs] == [2] * len(whole.logprobs)
    pieces = served.client.generate(MODEL, "Hello", logprobs=True, stream=True)
    assert "".join(entry.token for each in pieces for entry in each.logprobs or ()) == "Hi there!"
    assert served.client.chat(MODEL, HELLO).logprobs is None, "control: only where they are asked for"


def test_nothing_to_say_loads_the_model(served: Served) -> None:
    for answer in (served.client.generate(MODEL), served.client.chat(MODEL, [])):
        assert (answer.done, answer.done_reason) == (True, "load")
    assert [each.done_reason for each in served.client.generate(MODEL, "", stream=True)] == ["load"]
    malformed = {"type": "text", "structures": [{"begin": "a", "schema": None, "end": "b"}]}
    refused = served.post("/api/chat", model=MODEL, messages=[], response_format=malformed)
    assert (refused.status_code, "structures[0].schema" in refused.text) == (400, True), refused.text
    assert not served.gateway.submissions


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"images": ["aGk="]}, "images"),
        ({"context": [1, 2]}, "context"),
        ({"options": {"repeat_last_n": 64, "repeat_penalty": 1.2}}, "repeat_last_n"),
        ({"options": {"temperature": 9}}, "temperature"),
        ({"options": {"temperature": 1}, "temperature": 0.5}, "options.temperature"),
        ({"options": []}, "options"),
        ({"options": {"num_predict": "all"}}, "max_tokens"),
        ({"format": "yaml"}, "format"),
        ({"format": {"type": "object"}, "response_format": {"type": "json_object"}}, "format"),
        ({"n": 2}, "n is not supported by /api/generate; leave it out"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"raw": True, "system": "Be brief."}, "system"),
        ({"prompt": 7}, "prompt"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(served: Served, given: dict[str, Any], named: str) -> None:
    response = served.post("/api/generate", **({"prompt": "Hello"} | given))
    assert response.status_code == 400
    assert response.json().keys() == {"error"}
    assert response.json()["error"].split(":")[0] == named


def test_the_client_sees_errors_as_they_are(served: Served) -> None:
    with pytest.raises(ollama.ResponseError, match="no such model here") as unknown:
        served.client.chat("llama9", HELLO)
    assert unknown.value.status_code == 404
    images = [{"role": "user", "content": "Look", "images": ["aGk="]}]
    with pytest.raises(ollama.ResponseError, match=r"messages\[0\]\.images: not supported"):
        served.client.chat(MODEL, images)
    served.gateway.refusal = Overloaded("all credits are taken; try again soon")
    with pytest.raises(ollama.ResponseError, match="all credits are taken"):
        served.client.chat(MODEL, HELLO)


def test_an_error_in_the_middle_is_a_line(served: Served) -> None:
    failed = Delta([], RequestState.ERROR, Extras(reason="it broke", code="generation_failed"))
    served.gateway.script = lambda submission, choice: [*saying([9])[:1], failed]
    with pytest.raises(ollama.ResponseError, match="it broke"):
        [*served.client.chat(MODEL, HELLO, stream=True)]


def test_a_name_may_have_the_tag_that_clients_add(served: Served) -> None:
    assert served.client.chat(f"{MODEL}:latest", HELLO).model == MODEL
    assert served.post("/api/chat", messages=HELLO, model=f"{MODEL}:7b").status_code == 404, "control"


def test_the_model_is_listed_and_shown(served: Served) -> None:
    (listed,) = served.client.list().models
    assert (listed.model, int(listed.size or 0)) == (MODEL, 1234)
    assert listed.details is not None
    assert (listed.details.family, listed.details.quantization_level) == ("qwen3", "bfloat16")
    (running,) = served.client.ps().models
    assert (running.model, running.context_length, running.digest) == (MODEL, 2048, listed.digest)

    shown = served.client.show(MODEL)
    assert shown.template == TEMPLATE
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["qwen3.context_length"] == 2048
    assert "temperature 0.7" in (shown.parameters or "")
    assert served.post("/api/show", name=f"{MODEL}:latest").status_code == 200
    assert served.post("/api/show", model="llama9").status_code == 404
    assert served.http.get("/api/version").json()["version"] == "0.12.11"


def test_a_model_without_a_template_says_what_it_cannot(plain: Served) -> None:
    assert plain.client.show(MODEL).capabilities == ["completion"]


def test_a_model_that_loads_is_not_running(served: Served) -> None:
    served.gateway.status = GatewayStatus(state="loading", progress=0.5)
    assert not served.client.ps().models
    assert served.client.list().models
    with pytest.raises(ollama.ResponseError, match="is loading") as refused:
        served.client.chat(MODEL, HELLO)
    assert refused.value.status_code == 503


def test_the_served_model_is_pulled_at_once_and_others_are_told_how(served: Served) -> None:
    assert served.client.pull(MODEL).status == "success"
    assert [each.status for each in served.client.pull(MODEL, stream=True)] == ["success"]
    changes: list[Callable[[], object]] = [
        lambda: served.client.pull("llama9"),
        lambda: served.client.create("mine", from_=MODEL),
        lambda: served.client.copy(MODEL, "mine"),
        lambda: served.client.push(MODEL),
        lambda: served.client.delete(MODEL),
    ]
    for change in changes:
        with pytest.raises(ollama.ResponseError) as refused:
            change()
        assert refused.value.status_code in (404, 400)


def test_every_error_below_the_api_has_its_shape(served: Served) -> None:
    gone = served.http.get("/api/nowhere")
    wrong = served.http.get("/api/chat")
    foreign = served.http.post("/api/chat", headers={"origin": "http://evil.example"}, json={})
    assert [each.status_code for each in (gone, wrong, foreign)] == [404, 405, 403]
    assert all(
        each.json().keys() == {"error"} and isinstance(each.json()["error"], str) for each in (gone, wrong, foreign)
    )
    assert isinstance(served.http.get("/nowhere").json()["error"], dict), "control"
