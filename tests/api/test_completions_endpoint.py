"""/v1/completions, judged by the official client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import tokenizers

from histrio.contracts.gateway import Submission
from histrio_api.testing import (
    Script,
    ScriptedGateway,
    running_endpoint,
    saying,
    served_model,
    write_tokenizer,
)

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

MODEL = "test/scripted"


def test_a_text_is_continued(endpoint: Endpoint) -> None:
    endpoint.says(" world")
    answer = endpoint.client.completions.create(model=MODEL, prompt="Hello")
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        " world",
        "stop",
    )
    assert endpoint.gateway.submissions[0].ids == [0, *endpoint.ids("Hello")], "BOS comes first"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 1 + len(endpoint.ids("Hello"))


def test_a_completion_has_16_tokens_unless_more_are_asked_for(endpoint: Endpoint) -> None:
    endpoint.complete(prompt="Hello")
    endpoint.complete(prompt="Hello", max_tokens=40)
    endpoint.complete(prompt=[5] * 511)
    endpoint.complete(prompt=[5] * 511, max_tokens=9)
    assert [each.max_new_tokens for each in endpoint.gateway.submissions] == [16, 40, 1, 1]
    assert endpoint.complete(prompt=[5] * 512).status_code == 400, "control: no room at all"


def test_bos_can_be_left_out(endpoint: Endpoint) -> None:
    endpoint.complete(prompt="Hello", add_special_tokens=False)
    assert endpoint.gateway.submissions[0].ids == endpoint.ids("Hello")


def test_a_stream_says_the_same_as_a_plain_answer(endpoint: Endpoint) -> None:
    endpoint.says(" wörld 🙂")
    options: Any = {"include_usage": True}
    chunks = list(endpoint.client.completions.create(model=MODEL, prompt="Hi", stream=True, stream_options=options))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == " wörld 🙂"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]].count("stop") == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(endpoint.ids(" wörld 🙂")) + 1


@pytest.mark.parametrize("stream", [False, True])
def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(endpoint: Endpoint, stream: bool) -> None:
    def script(submission: Submission, choice: int) -> Script:
        return saying(endpoint.ids(f"{len(submission.ids)}.{choice}"))

    endpoint.gateway.script = script
    prompts = [[5], [5, 6], [5, 6, 7]]
    texts = [""] * 6
    if stream:
        for chunk in endpoint.client.completions.create(model=MODEL, prompt=prompts, n=2, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
    else:
        answer = endpoint.client.completions.create(model=MODEL, prompt=prompts, n=2)
        texts = [choice.text for choice in answer.choices]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 6
    assert texts == ["1.0", "1.1", "2.0", "2.1", "3.0", "3.1"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_is_echoed_when_asked_for(endpoint: Endpoint, stream: bool) -> None:
    endpoint.says(" world")
    for prompt in ("Hello", endpoint.ids("Hello")):
        answer: Any = endpoint.client.completions.create(model=MODEL, prompt=prompt, echo=True, stream=stream)
        chunks = answer if stream else [answer]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello world"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, None),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [400]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": -1}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "top_logprobs": 1}, "top_logprobs"),
        ({"prompt": "a", "prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt": "a", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_a_400_with_the_field(
    endpoint: Endpoint, fields: dict[str, Any], param: str | None
) -> None:
    if param is None:
        # An empty text is BOS alone, which is a prompt; without it there is nothing to continue.
        assert endpoint.complete(**fields).status_code == 200
        fields, param = fields | {"add_special_tokens": False}, "prompt"
        endpoint.gateway.submissions.clear()
    with pytest.raises(openai.BadRequestError) as caught:
        endpoint.client.post("/completions", body={"model": MODEL} | fields, cast_to=object)
    assert caught.value.param == param
    assert endpoint.gateway.submissions == []


def test_if_one_prompt_is_refused_none_runs(endpoint: Endpoint) -> None:
    response = endpoint.complete(prompt=[[5], [5] * 512])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert endpoint.gateway.submissions == []


@pytest.mark.parametrize("writes_spaces", [False, True])
def test_spaces_between_special_tokens_are_those_of_the_tokenizer(tmp_path: Path, writes_spaces: bool) -> None:
    write_tokenizer(tmp_path)
    file = str(tmp_path / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(file)
    if writes_spaces:
        tokenizer.decoder = tokenizers.decoders.WordPiece()
        tokenizer.save(file)
    gateway = ScriptedGateway(served_model(tmp_path), lambda submission, choice: saying([1, 1]))
    with running_endpoint(gateway) as url:

        def complete(**fields: Any) -> httpx.Response:
            return httpx.post(f"{url}/v1/completions", json={"prompt": "a"} | fields)

        hidden = complete(spaces_between_special_tokens=False)
        shown = complete(skip_special_tokens=False)
        without = complete(skip_special_tokens=False, spaces_between_special_tokens=False)
    start = "<|im_start|>"
    assert (hidden.status_code, hidden.json()["choices"][0]["text"]) == (200, "")
    assert shown.json()["choices"][0]["text"] == (2 * f" {start}" if writes_spaces else 2 * start)
    if writes_spaces:
        assert (without.status_code, without.json()["error"]["param"]) == (400, "spaces_between_special_tokens")
    else:
        assert without.json()["choices"] == shown.json()["choices"]
