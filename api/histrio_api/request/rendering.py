"""From the messages of a chat to its prompt, through the model's chat template."""

from __future__ import annotations

from typing import Any

import msgspec

from histrio.errors import RequestError
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.prompts import Prompt, chat_text_prompt, prompt_cut, require_at_most
from histrio_api.request.template_variables import template_variables
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.messages import ChatMessage
from histrio_api.schemas.tools import ToolDefinition
from histrio_api.shared.edge import Edge
from histrio_api.text.literals import ChatText
from histrio_api.text.messages import to_template_messages
from histrio_api.text.template import ChatTemplate, Message

__all__ = ["chat_prompt", "chat_text", "render_messages"]

CONTINUE_MARK = "\u241ehistrio continues here\u241e"
"""Put behind the final message to find where it ends in the rendered prompt."""


def chat_prompt(edge: Edge, request: ChatRequest, ignored: IgnoredFields) -> Prompt:
    """Render the messages and encode the result; the template writes BOS itself, so none is added."""
    text = chat_text(edge, request, ignored)
    num_wanted = request.max_tokens or request.max_completion_tokens
    cut = prompt_cut(edge, request.truncate_prompt_tokens, request.truncation_side, num_wanted)
    return chat_text_prompt(edge, text, add_special=request.add_special_tokens, cut=cut)


def chat_text(edge: Edge, request: ChatRequest, ignored: IgnoredFields) -> ChatText:
    """What the messages become; `ignored` takes the fields for which the template has no use. Raises `RequestError`."""
    _check_messages(edge, request.messages)
    require_at_most("tools", "tools are accepted", len(request.tools), edge.settings.max_tools)
    template = _template_of(edge)
    if request.tools and request.tool_choice != "none":
        _require_tools(edge)
    messages, cut = _without_special(edge, to_template_messages(request.messages, template.takes_role))
    return _cut(_render(template, request, messages, ignored), cut)


def render_messages(edge: Edge, messages: list[ChatMessage], *, add_generation_prompt: bool) -> ChatText:
    """The text that plain messages become."""
    template = _template_of(edge)
    _check_messages(edge, messages)
    converted, cut = _without_special(edge, to_template_messages(messages, template.takes_role))
    return _cut(template.render(converted, add_generation_prompt=add_generation_prompt), cut)


def _check_messages(edge: Edge, messages: list[ChatMessage]) -> None:
    """Raise `RequestError` for none, or for more of them, or of what is in them, than is accepted."""
    if not messages:
        raise RequestError("messages: at least one message is needed", param="messages")

    settings = edge.settings
    num_parts = sum(len(each.content) for each in messages if isinstance(each.content, list))
    num_calls = sum(len(each.tool_calls or ()) for each in messages)
    require_at_most("messages", "messages are accepted", len(messages), settings.max_messages)
    require_at_most("messages", "parts of content, together, are accepted", num_parts, settings.max_content_parts)
    require_at_most("messages", "tool calls, together, are accepted", num_calls, settings.max_tool_calls)


def _template_of(edge: Edge) -> ChatTemplate:
    """The model's chat template; a 400 that says so if it has none."""
    if edge.template is None:
        raise RequestError(
            "this model has no chat template; use /v1/completions, or add chat_template.jinja to the model's folder",
            param="messages",
            code="no_chat_template",
        )
    return edge.template


def _without_special(edge: Edge, messages: list[Message]) -> tuple[list[Message], str]:
    """The messages with a mark in every special token that is written there, and the mark."""
    if edge.settings.parse_special:
        return messages, ""
    marks = edge.reasoning_marks
    return edge.tokenizer.literals.mark(messages, () if marks is None else (marks.open, marks.close))


def _cut(text: str, mark: str) -> ChatText:
    return ChatText(text.split(mark) if mark else [text])


def _render(template: ChatTemplate, request: ChatRequest, messages: list[Message], ignored: IgnoredFields) -> str:
    variables = template_variables(template.variables, request, ignored)
    tools = None if request.tool_choice == "none" else [_tool_definition(tool) for tool in request.tools] or None
    if not request.continue_final_message:
        return template.render(messages, tools=tools, add_generation_prompt=request.add_generation_prompt, **variables)

    _check_continuable(request.messages, request.add_generation_prompt)
    messages[-1]["content"] = _marked(messages[-1]["content"])
    text, mark, _ = template.render(messages, tools=tools, add_generation_prompt=False, **variables).rpartition(
        CONTINUE_MARK
    )
    if not mark:
        raise RequestError(
            "continue_final_message: the model's chat template does not write the final message as it is",
            param="continue_final_message",
        )
    return text


def _marked(content: str | list[dict[str, str]] | None) -> str | list[dict[str, str]]:
    if isinstance(content, list) and content:
        return [*content[:-1], content[-1] | {"text": content[-1]["text"] + CONTINUE_MARK}]
    return f"{content or ''}{CONTINUE_MARK}"


def _check_continuable(messages: list[ChatMessage], add_generation_prompt: bool) -> None:
    if add_generation_prompt:
        raise RequestError(
            "continue_final_message: needs add_generation_prompt to be false", param="continue_final_message"
        )
    if messages[-1].role != "assistant":
        raise RequestError(
            "continue_final_message: the last message must be the assistant's", param="continue_final_message"
        )


def _require_tools(edge: Edge) -> None:
    if edge.tool_format is None:
        text = (
            "tools: the model's chat template does not write tools and calls of them in a form that is known here; set "
            "tool-parser in [api] to the form in which the model calls them"
        )
        raise RequestError(text, param="tools", code="unsupported_parameter")


def _tool_definition(tool: ToolDefinition) -> dict[str, Any]:
    given = msgspec.structs.asdict(tool.function).items()
    function = {name: value for name, value in given if value is not None and name != "strict"}
    return {"type": "function", "function": function}
