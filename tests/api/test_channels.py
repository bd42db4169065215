"""Answers in channels: the final one is the content, the analysis the reasoning, and marks are never shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import openai
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from histrio_api.answer.answer_tokens import AnswerTokens
from histrio_api.schemas.logprobs import TokenLogprob
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.answers import AnswerParts
from histrio_api.text.channels import ChannelParser
from histrio_api.text.reasoning_formats import FORMATS
from histrio_api.text.template import ChatTemplate
from histrio_api.text.tokenizer import Tokenizer

MARKS = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m.role }}{{ '<|channel|>final' if m.role == 'assistant' }}"
    "{{ '<|message|>' + m.content + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
ANALYSIS = "<|channel|>analysis<|message|>The user greets me."
FINAL = "<|channel|>final<|message|>Hello, 5 <| 6!"
WHOLE = f"{ANALYSIS}<|end|><|start|>assistant{FINAL}"


def parse(pieces: list[str], passes_calls: bool = False) -> tuple[str, str]:
    parser = ChannelParser(passes_calls)
    found = [*(parser.push(piece) for piece in pieces), parser.flush()]
    return "".join(reasoning for reasoning, _ in found), "".join(answer for _, answer in found)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        (WHOLE, "The user greets me.", "Hello, 5 <| 6!"),
        (WHOLE + "<|return|>", "The user greets me.", "Hello, 5 <| 6!"),
        (FINAL + "<|end|>", "", "Hello, 5 <| 6!"),
        (ANALYSIS, "The user greets me.", ""),
        (ANALYSIS + "<|end|><|start|>assis", "The user greets me.", ""),
        ("<|channel|>commentary<|message|>I look.<|end|>" + FINAL, "", "I look.Hello, 5 <| 6!"),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", "{}", ""),
        ("<|start|>assistant<|message|>plain", "", "plain"),
        ('{"form": "demanded"}', "", '{"form": "demanded"}'),
        ("a < b", "", "a < b"),
    ],
)
@given(data=st.data())
def test_channels_are_told_apart_however_the_answer_is_cut(
    text: str, reasoning: str, answer: str, data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5).map(sorted))
    assert parse([text[start:end] for start, end in pairwise([0, *cuts, len(text)])]) == (reasoning, answer)
    assert parse(list(text)) == (reasoning, answer)


def test_a_header_without_end_is_not_held_for_ever() -> None:
    reasoning, answer = parse(["<|channel|>", *"x" * 1000])
    assert ("x" * 500 in reasoning, answer) == (True, "")


def test_the_template_says_whether_there_are_channels() -> None:
    other = "{# <|channel|>final<|message|> #}" + TEMPLATE.replace("final", "x")
    for source, name in ((TEMPLATE, "harmony"), (other, None)):
        written = ChatTemplate({"default": source}, {}).written_answer
        assert next((each.name for each in FORMATS if each.recognises(written)), None) == name


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        "<|channel|>analysis<|message|>So.<|end|><|start|>assistant to=functions.f<|channel|>commentary"
        " json<|message|>{}",
        " to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
        "<|channel|>final<|message|>Hi<|end|><|start|>assistant<|channel|>analysis to=functions.f<|message|>{}<|end|>",
    ],
)
def test_calls_are_passed_on_in_one_spelling_where_they_are_read(text: str) -> None:
    whole = parse([text], passes_calls=True)
    assert parse(list(text), passes_calls=True) == whole
    assert "<|channel|>commentary to=functions.f<|message|>{}" in whole[1]
    assert "to=functions" not in parse([text])[1], "a control: without tools they are none"


def test_tokens_of_the_answer_are_told_also_between_two_channels_of_reasoning() -> None:
    harmony = next(each for each in FORMATS if each.name == "harmony")
    text = f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{WHOLE}"
    tokens, told, at = AnswerTokens(AnswerParts("already", harmony)), [], 0
    for spelling in re.findall(r"<\|\w+\|>|.", text):
        told += tokens.push((at, TokenLogprob(spelling, -1.0, [], [])), spelling)
        at += len(spelling)
    told += tokens.flush()
    assert "".join(entry.token for _, entry in told) == "I look.Hello, 5 <| 6!"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("channels")
    write_tokenizer(folder, chat_template=TEMPLATE)
    file = str(folder / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(file)
    tokenizer.add_special_tokens(MARKS)
    tokenizer.save(file)
    ids = Tokenizer.load(folder).encode(WHOLE, add_special=False)
    model = msgspec.structs.replace(served_model(folder), vocab_size=tokenizer.get_vocab_size())
    gateway = ScriptedGateway(model, lambda submission, choice: saying(ids))
    with running_endpoint(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_chat_shows_the_final_channel_and_the_analysis_apart(client: openai.OpenAI) -> None:
    chat: Any = {"model": "test/scripted", "messages": [{"role": "user", "content": "Hi"}]}
    message: Any = client.chat.completions.create(**chat).choices[0].message
    assert (message.content, message.reasoning_content) == ("Hello, 5 <| 6!", "The user greets me.")
    deltas: list[Any] = [chunk.choices[0].delta for chunk in client.chat.completions.create(stream=True, **chat)]
    assert "".join(delta.content or "" for delta in deltas) == "Hello, 5 <| 6!"
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "The user greets me."
    with pytest.raises(openai.BadRequestError, match="tool-parser"):
        client.chat.completions.create(tools=[{"type": "function", "function": {"name": "f"}}], **chat)
