"""From a checked request to token ids, and how many tokens may follow them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from histrio.contracts.gateway import ServedModel
from histrio.errors import ContextLengthExceeded, RequestError
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.completions import CompletionRequest
from histrio_api.schemas.messages import ChatMessage
from histrio_api.schemas.tools import ToolDefinition
from histrio_api.shared.edge import Edge
from histrio_api.text.messages import to_template_messages
from histrio_api.text.template import ChatTemplate
from histrio_api.text.tokenizer import TooManyTokens

__all__ = ["Prompt", "chat_prompt", "check_messages", "completion_prompts", "num_new_tokens", "render_messages"]

CONTINUE_MARK = "\u241ehistrio continues here\u241e"
"""Put behind the final message to find where it ends in the rendered prompt."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a request."""

    ids: list[int]
    text: str = ""
    """As the client gave it, or what its ids mean where it is echoed."""
    starts: list[int] = field(default_factory=list)
    """Where in the text each token begins, in characters, where it is echoed."""


def render_messages(edge: Edge, messages: list[ChatMessage], *, add_generation_prompt: bool) -> str:
    """The text that plain messages become."""
    template = _template_of(edge)
    check_messages(edge, messages)
    converted = to_template_messages(messages, knows_developer=template.knows_developer)
    return template.render(converted, add_generation_prompt=add_generation_prompt)


def _template_of(edge: Edge) -> ChatTemplate:
    """The model's chat template; a 400 that says so if it has none."""
    if edge.template is None:
        raise RequestError(
            "this model has no chat template; use /v1/completions, or add chat_template.jinja to the model's folder",
            param="messages",
            code="no_chat_template",
        )
    return edge.template


def chat_prompt(edge: Edge, request: ChatRequest) -> Prompt:
    """Render the messages and encode the result; the template writes BOS itself, so none is added."""
    check_messages(edge, request.messages)
    _require_at_most("tools", "tools are accepted", len(request.tools), edge.settings.max_tools)
    text = _render(_template_of(edge), request)
    limit = edge.gateway.model.max_sequence_length
    try:
        ids = edge.tokenizer.encode(text, add_special=request.add_special_tokens, max_tokens=limit)
    except TooManyTokens as error:
        raise _too_long(limit, error, "messages") from None
    return Prompt(_checked(edge, ids, "messages"), text)


def check_messages(edge: Edge, messages: list[ChatMessage]) -> None:
    """Raise `RequestError` for none, or for more of them, or of what is in them, than is accepted."""
    if not messages:
        raise RequestError("messages: at least one message is needed", param="messages")

    settings = edge.settings
    num_parts = sum(len(each.content) for each in messages if isinstance(each.content, list))
    num_calls = sum(len(each.tool_calls or ()) for each in messages)
    _require_at_most("messages", "messages are accepted", len(messages), settings.max_messages)
    _require_at_most("messages", "parts of content, together, are accepted", num_parts, settings.max_content_parts)
    _require_at_most("messages", "tool calls, together, are accepted", num_calls, settings.max_tool_calls)


def completion_prompts(edge: Edge, request: CompletionRequest) -> list[Prompt]:
    """One prompt for a string or a list of ids, several for a list of strings or of lists."""
    given = request.prompt
    if isinstance(given, str):
        return [_text_prompt(edge, given, request)]
    if not given:
        raise RequestError("prompt: must not be empty", param="prompt")
    if all(isinstance(entry, int) for entry in given):
        return [_ids_prompt(edge, [entry for entry in given if isinstance(entry, int)], request, "prompt")]
    _require_at_most("prompt", "prompts are accepted", len(given), edge.settings.max_prompts)
    prompts = []
    for at, entry in enumerate(given):
        if isinstance(entry, int):
            raise RequestError("prompt: token ids and texts cannot be mixed in one list", param="prompt")
        if isinstance(entry, str):
            prompts.append(_text_prompt(edge, entry, request))
        else:
            prompts.append(_ids_prompt(edge, entry, request, f"prompt[{at}]"))
    return prompts


def num_new_tokens(model: ServedModel, prompt: Prompt, wanted: int | None, param: str) -> int:
    """How many tokens may be generated: what is wanted, by default all that fit. Raises `ContextLengthExceeded`."""
    limit, num_prompt_tokens = model.max_sequence_length, len(prompt.ids)
    room = limit - num_prompt_tokens
    if room < 1:
        raise _too_long(limit, TooManyTokens(num_prompt_tokens, is_exact=True), param)
    if wanted is None:
        return room
    if wanted > room:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {limit} tokens, but {num_prompt_tokens + wanted} were requested: "
            f"{num_prompt_tokens} in the prompt and {wanted} for the answer. Ask for at most {room}, or shorten the "
            "prompt.",
            param="max_tokens",
        )
    return wanted


def _render(template: ChatTemplate, request: ChatRequest) -> str:
    variables = _template_variables(template, request.chat_template_kwargs)
    messages = to_template_messages(request.messages, knows_developer=template.knows_developer)
    tools = _template_tools(template, request.tools) if request.tool_choice != "none" else None
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


def _template_variables(template: ChatTemplate, given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in template.variables:
            known = ", ".join(sorted(template.variables)) or "none"
            raise RequestError(
                f"chat_template_kwargs: the model's chat template has no such variable; it has: {known}",
                param="chat_template_kwargs",
            )
    return given


def _template_tools(template: ChatTemplate, tools: Iterable[ToolDefinition]) -> list[dict[str, Any]] | None:
    definitions = [_tool_definition(tool) for tool in tools]
    if not definitions:
        return None
    if not template.has_hermes_calls:
        raise RequestError(
            "tools: this model's chat template does not write calls as JSON between <tool_call> and </tool_call> "
            "(Hermes format), and no other form is supported",
            param="tools",
            code="unsupported_parameter",
        )
    return definitions


def _tool_definition(tool: ToolDefinition) -> dict[str, Any]:
    given = msgspec.structs.asdict(tool.function).items()
    function = {name: value for name, value in given if value is not None and name != "strict"}
    return {"type": tool.type, "function": function}


def _text_prompt(edge: Edge, text: str, request: CompletionRequest) -> Prompt:
    limit, add_special = edge.gateway.model.max_sequence_length, request.add_special_tokens
    try:
        if not request.echo:
            ids = edge.tokenizer.encode(text, add_special=add_special, max_tokens=limit)
            return Prompt(_checked(edge, ids, "prompt"), text)

        ids, starts = edge.tokenizer.encode_placed(text, add_special=add_special, max_tokens=limit)
    except TooManyTokens as error:
        raise _too_long(limit, error, "prompt") from None
    return Prompt(_checked(edge, ids, "prompt"), text, starts)


def _ids_prompt(edge: Edge, ids: list[int], request: CompletionRequest, param: str) -> Prompt:
    model = edge.gateway.model
    vocab_size, limit = model.vocab_size, model.max_sequence_length
    if len(ids) > limit:
        raise _too_long(limit, TooManyTokens(len(ids), is_exact=True), param)
    if ids and max(ids) >= vocab_size:
        raise RequestError(f"{param}: token ids must be below {vocab_size}", param=param)

    return Prompt(_checked(edge, ids, param), *(edge.tokenizer.decode_placed(ids) if request.echo else ()))


def _too_long(limit: int, found: TooManyTokens, param: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"This model's maximum context length is {limit} tokens, but the prompt has "
        f"{'' if found.is_exact else 'more than '}{found.num_tokens} tokens, which leaves no room for an answer. "
        "Shorten the prompt.",
        param=param,
    )


def _require_at_most(param: str, what: str, found: int, limit: int) -> None:
    if found > limit:
        raise RequestError(f"{param}: at most {limit} {what}", param=param)


def _checked(edge: Edge, ids: list[int], param: str) -> list[int]:
    """Ids that the model can take; a tokenizer may know added tokens that the model has no row for."""
    if not ids:
        raise RequestError(f"{param}: must not be empty", param=param)
    if max(ids) >= edge.gateway.model.vocab_size:
        text = f"{param}: the text has a token that the tokenizer knows and the model does not"
        raise RequestError(text, param=param)

    return ids
