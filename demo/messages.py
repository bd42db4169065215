"""What the generator writes: conversations, and the text that the chat template makes of them.

`segments` is the chat template (see `tokenizer.CHAT_TEMPLATE`) once more, in Python, because training has to know
which part of the text the model says itself. A test holds the two together.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Conversation", "Message", "ToolCall", "assistant", "user"]

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"

TOOLS_PREAMBLE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_POSTAMBLE = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


@dataclass(frozen=True)
class ToolCall:
    """A call that the assistant makes."""

    name: str
    arguments: dict[str, Any]

    def text(self) -> str:
        """The call in Hermes format."""
        call = {"name": self.name, "arguments": self.arguments}
        return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str
    reasoning: str = ""
    """What the assistant thinks before it speaks; empty when it does not think."""
    tool_calls: tuple[ToolCall, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The message as OpenAI's API spells it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning

        if self.tool_calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return message

    def spoken(self) -> str:
        """What the assistant says in this turn, without its reasoning."""
        parts = [self.content] if self.content else []
        return "\n".join(parts + [call.text() for call in self.tool_calls])


@dataclass(frozen=True)
class Conversation:
    """Messages, the tools that may be called, and whether the last answer is thought through first."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = field(default=())
    opened_by_template: bool = False
    """Whether `<think>` is part of the prompt (`enable_thinking`) or said by the model because it was asked to."""

    def segments(self) -> Iterator[tuple[str, bool]]:
        """The rendered text in pieces, each with whether the assistant says it."""
        messages = self.messages
        if self.tools:
            system = messages[0].content if messages[0].role == "system" else ""
            yield self._tool_system(system), False
            messages = messages[1:] if messages[0].role == "system" else messages

        for index, message in enumerate(messages):
            if message.role == "assistant":
                yield from self._assistant(message, is_last=index == len(messages) - 1)
            elif message.role == "tool":
                yield self._tool_response(messages, index), False
            else:
                yield f"{IM_START}{message.role}\n{message.content}{IM_END}\n", False

    def text(self) -> str:
        """The whole rendered conversation."""
        return "".join(text for text, _ in self.segments())

    def _tool_system(self, system: str) -> str:
        head = f"{system}\n\n" if system else ""
        tools = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in self.tools)
        return f"{IM_START}system\n{head}{TOOLS_PREAMBLE}{tools}{TOOLS_POSTAMBLE}{IM_END}\n"

    def _assistant(self, message: Message, is_last: bool) -> Iterator[tuple[str, bool]]:
        yield f"{IM_START}assistant\n", False
        if message.reasoning and is_last:
            yield "<think>\n", not self.opened_by_template
            yield f"{message.reasoning}\n</think>\n\n", True

        yield message.spoken() + IM_END, True
        yield "\n", False

    @staticmethod
    def _tool_response(messages: tuple[Message, ...], index: int) -> str:
        is_first = messages[index - 1].role != "tool"
        is_last = index + 1 == len(messages) or messages[index + 1].role != "tool"
        head = f"{IM_START}user" if is_first else ""
        tail = f"{IM_END}\n" if is_last else ""
        return f"{head}\n<tool_response>\n{messages[index].content}\n</tool_response>{tail}"


def user(content: str) -> Message:
    """A user's turn."""
    return Message("user", content)


def assistant(content: str, reasoning: str = "") -> Message:
    """An assistant's turn."""
    return Message("assistant", content, reasoning)
