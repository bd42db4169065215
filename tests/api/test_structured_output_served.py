"""Forms of an answer over HTTP, from random weights: reasoning before them, structures in them, where they stick."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

import histrio.demo
from histrio_api.text.tokenizer import Tokenizer

pytestmark = [pytest.mark.anyio, pytest.mark.slow_start, pytest.mark.timeout(90)]  # replicas, and checking processes

QWEN = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
OPENS = "{{ messages[0].content }}\n<think>\n{# </think> #}"
PLAIN = "{{ messages[0].content }}\n"
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "b"]},
        "sizes": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["kind", "sizes"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
CALL = {"begin": '<tool_call>{"name": ', "schema": {"enum": ["a", "b"]}, "end": "}</tool_call>"}
NUM_RULES = 20
AMBIGUOUS_LATER = "\n".join(
    [
        "start: LETTER{40} s",
        "LETTER: /[a-z]/",
        f"s: {' | '.join(f's{n}' for n in range(NUM_RULES))}",
        *(f's{n}: /[a-z]/ | s s{(n + 1) % NUM_RULES} | s s{(n + 2) % NUM_RULES} "."' for n in range(NUM_RULES)),
    ]
)
HELLO = [{"role": "user", "content": "Hello"}]


def favouring(biases: dict[str, int]) -> dict[str, Any]:
    """Tokens that random weights shall find now and then."""
    tokenizer = Tokenizer.load(Path(histrio.demo.__file__).parent / "target")
    ids = {text: tokenizer.encode(text, add_special=False) for text in biases}
    assert all(len(each) == 1 for each in ids.values())
    return {"extra_body": {"logit_bias": {str(ids[text][0]): bias for text, bias in biases.items()}}}


def is_valid(text: str | None) -> bool:
    try:
        jsonschema.validate(json.loads(text or ""), SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


@pytest.mark.parametrize(
    ("template", "biases"), [(OPENS, {"</think>": 6}), (QWEN, {"<think>": 8, "</think>": 6})], ids=["opened", "may"]
)
async def test_reasoning_is_free_and_the_answer_behind_it_has_its_form(
    random_weights: Any, template: str, biases: dict[str, int]
) -> None:
    async with random_weights(template, has_demo_tokens=True) as served:
        fields = {"n": 6, "seed": 1, "max_tokens": 600} | favouring(biases)
        answer = await served.create(response_format=FORM, **fields)
        ended = [choice.message for choice in answer.choices if choice.finish_reason == "stop"]
        assert len(ended) >= 3
        assert all(is_valid(message.content) for message in ended)
        reasoning = [message.reasoning_content for message in ended if "reasoning_content" in message.model_extra]
        assert reasoning
        assert not any(is_valid(each) for each in reasoning)

        stream = await served.create(response_format=FORM, stream=True, **fields | {"n": 1})
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == (answer.choices[0].message.content or "")

        free = await served.create(**fields)
        assert not any(is_valid(choice.message.content) for choice in free.choices), "a control: the model itself"


async def test_a_plain_completion_has_its_form_behind_the_reasoning_that_it_was_given(random_weights: Any) -> None:
    async with random_weights(OPENS, has_demo_tokens=True) as served:
        for prompt, is_opened in (("x\n<think>\n", True), ("x", False)):
            answer = await served.client.completions.create(
                model="toy",
                prompt=prompt,
                temperature=1.0,
                seed=1,
                max_tokens=600,
                extra_body=favouring({"</think>": 6})["extra_body"] | {"json_schema": SCHEMA},
            )
            (choice,) = answer.choices
            _, mark, rest = choice.text.rpartition("</think>\n\n")
            assert choice.finish_reason == "stop"
            assert bool(mark) is is_opened
            assert is_valid(rest)


async def test_random_weights_write_structures_where_their_trigger_comes(random_weights: Any) -> None:
    form = {"type": "structural_tag", "structures": [CALL], "triggers": ["<tool_call>"]}
    pattern = re.compile(r'<tool_call>\{"name": "[ab]"\}</tool_call>')
    async with random_weights(PLAIN, has_demo_tokens=True) as served:
        fields = {"max_tokens": 300, "seed": 3, **favouring({"<tool_call>": 8})}
        text = (await served.create(response_format=form, **fields)).choices[0].message.content
        found = pattern.findall(text)
        assert len(found) >= 2
        assert len(pattern.sub("", text)) > len("".join(found)) / 10
        rest = pattern.sub("", text)
        assert "<tool_call>" not in rest.rpartition("<tool_call>")[0], "but for a structure that was cut short"
        assert "<tool_call>" in (await served.create(**fields)).choices[0].message.content
        assert not pattern.search((await served.create(**fields)).choices[0].message.content), "a control"


STUCK: list[tuple[dict[str, Any], str]] = [
    ({"allowed_token_ids": [70, 71], "bad_words_ids": [[70, 70], [70, 71], [71]]}, "leave no token"),
    ({"grammar": AMBIGUOUS_LATER, "max_tokens": 400}, "too complex"),
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_an_answer_that_gets_stuck_is_an_error_object_streamed_or_not(random_weights: Any, path: str) -> None:
    async with random_weights(PLAIN) as served, httpx.AsyncClient(base_url=served.url, timeout=60) as http:
        what = {"messages": HELLO} if "chat" in path else {"prompt": "Hello"}
        for fields, words in STUCK:
            body = {"model": "toy", "temperature": 1.0, "seed": 2} | what | fields
            answer = await http.post(path, json=body)
            error = answer.json()["error"]
            said = (answer.status_code, error["type"], error["code"])
            assert said == (422, "invalid_request_error", "generation_stuck"), "no client tries this again by itself"
            assert words in error["message"]

            lines = (await http.post(path, json=body | {"stream": True})).text.split("\n\n")
            assert json.loads(lines[-2].removeprefix("data: ")) == {"error": error}
            assert "[DONE]" not in "".join(lines)
        fine = await http.post(path, json={"model": "toy", "max_tokens": 4} | what)
        assert fine.status_code == 200, "a control: the server goes on"


async def test_fields_that_contradict_a_grammar_are_refused_before_anything_starts(random_weights: Any) -> None:
    async with random_weights(PLAIN) as served:
        for stream in (False, True):
            for field, value in (("allowed_token_ids", [5]), ("bad_words", ["a"]), ("bad_words_ids", [[5]])):
                with pytest.raises(openai.BadRequestError) as caught:
                    await served.create(response_format=FORM, stream=stream, extra_body={field: value})
                assert caught.value.param in (field, "bad_words_ids")
