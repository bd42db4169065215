"""Reasoning between marks that are words, as Apriel writes them: the prompt ends with the first."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from histrio_api.request.reasoning import _NUM_TAIL_TOKENS
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.reasoning_formats import FORMATS
from histrio_api.text.tokenizer import Tokenizer

OPENING = "Here are my reasoning steps:\n"
TEMPLATE = (
    "{% set told = 'The response comes after the marker [BEGIN FINAL RESPONSE].' %}{{ told }}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{{ opening }}{% endif %}"
)
ANSWER = "hm\n[BEGIN FINAL RESPONSE]\nYes\n[END FINAL RESPONSE]"


@pytest.mark.parametrize(
    ("template", "said"),
    [(TEMPLATE.replace("{{ opening }}", OPENING), ANSWER), (TEMPLATE.replace("{{ opening }}", ""), OPENING + ANSWER)],
    ids=["the prompt opens it", "the model opens it"],
)
def test_words_open_and_close_reasoning(tmp_path: Path, template: str, said: str) -> None:
    write_tokenizer(tmp_path, chat_template=template)
    tokenizer = Tokenizer.load(tmp_path)
    ids = tokenizer.encode(said, add_special=False)
    gateway = ScriptedGateway(served_model(tmp_path), lambda submission, choice: saying(ids))
    with running_endpoint(gateway) as url:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        message = httpx.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"].strip()) == ("hm", "Yes")
    with running_endpoint(gateway, **{"reasoning-parser": "off"}) as url:
        message = httpx.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["content"] == said, "a control: as the model wrote it"


def test_the_end_of_a_prompt_that_is_looked_at_holds_every_mark() -> None:
    marks = [each.marks for each in FORMATS if each.marks is not None]
    longest = max(len(mark.strip().encode()) for each in marks for mark in (each.open, each.close))
    assert longest < _NUM_TAIL_TOKENS, "a token has a byte at least"
