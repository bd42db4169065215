"""The chat template renders what the models were trained on."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("transformers")

from transformers import PreTrainedTokenizerFast

from demo.conversations import generate_conversations
from demo.tokenizer import load_tokenizer
from histrio.demo import target_path

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer(target_path())


def render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[dict[str, Any]], **options: Any) -> str:
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    assert isinstance(text, str)
    return text


def test_chat_is_chatml(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert render(tokenizer, messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_thinking_is_off_unless_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    plain = render(tokenizer, messages, add_generation_prompt=True)
    assert render(tokenizer, messages, add_generation_prompt=True, enable_thinking=False) == plain
    assert render(tokenizer, messages, add_generation_prompt=True, enable_thinking=True) == plain + "<think>\n"


def test_earlier_reasoning_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"},
        {"role": "assistant", "content": "Hello!", "reasoning_content": "hm"},
        {"role": "user", "content": "Bye"},
    ]
    assert render(tokenizer, messages) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    )


def test_tools_are_listed_and_called_in_hermes_format(tokenizer: PreTrainedTokenizerFast) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Add 1 and 2."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "4"},
    ]
    text = render(tokenizer, messages, tools=[ADD], add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\n# Tools\n\n")
    assert '<tools>\n{"type": "function", "function": {"name": "add", ' in text
    assert text.endswith(
        "<|im_start|>user\nAdd 1 and 2.<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_parts_of_text_are_joined(tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a stage?"}]
    rendered = render(tokenizer, [{"role": "user", "content": parts}])
    assert rendered == "<|im_start|>user\nWhat is a stage?<|im_end|>\n"


def test_template_equals_the_training_text(tokenizer: PreTrainedTokenizerFast) -> None:
    for conversation in itertools.islice(generate_conversations(seed=4), 300):
        messages = [message.as_dict() for message in conversation.messages]
        assert render(tokenizer, messages, tools=list(conversation.tools) or None) == conversation.text()
