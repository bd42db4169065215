"""In which form a chat template takes messages, and what it makes of tool calls: learned from what it renders.

Templates are programs; their text says little of what they do. So each is given short conversations in one form after
the other, and the first form in which all that was said comes out again is the one that it takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from histrio.contracts.reasoning_format import WrittenAnswer
from histrio.contracts.tool_format import WrittenCall
from histrio.errors import UnsupportedModel

__all__ = [
    "PLAIN",
    "PROBE_TOOLS",
    "ROLES",
    "WRAPPING",
    "Message",
    "TemplateForm",
    "learn_form",
    "writes_role",
    "written_answer",
    "written_call",
]

Message = dict[str, Any]
"""A chat message as templates see it: plain JSON values only."""

Render = Callable[[Sequence[Message]], str]
"""Renders messages, and lets every error out."""

ROLES = frozenset({"system", "user", "assistant", "tool"})
"""What messages of these roles become, a template may say as it likes."""

_FIRST, _SECOND = "the first that is said", "the second that is said"
_CALLED, _OFFERED, _KEY, _VALUE = "called_probe", "offered_probe", "probe_key", "a probed value"
_ARGUMENTS = {_KEY: _VALUE}
_PARTS = [{"type": "text", "text": _FIRST}, {"type": "text", "text": _SECOND}]
_WRITTEN_OUT = ("{'type': 'text'", '{"type": "text"')
_QUESTION = "a question that is asked"
_ASKED = {"role": "user", "content": _QUESTION}
_ANSWER = "an answer that is given"
_CALL_ID = "probe1234"
"""Some templates want nine letters and digits."""


def _tool(name: str) -> Mapping[str, Any]:
    parameters = {"type": "object", "properties": {_KEY: {"type": "string"}}, "required": [_KEY]}
    return {"type": "function", "function": {"name": name, "description": "A probe.", "parameters": parameters}}


PROBE_TOOLS = [_tool(_OFFERED), _tool(_CALLED)]
"""What is offered where it matters whether a conversation has tools."""


class TemplateForm(msgspec.Struct, frozen=True):
    """What a template takes, where messages may be given in several ways."""

    roles_with_parts: frozenset[str] = frozenset()
    """Roles whose content may be a list of parts; of others the texts are joined."""
    takes_only_parts: bool = False
    """A text as content is lost."""
    takes_null: bool = False
    """The content of a message that only calls may be none."""
    takes_text_arguments: bool = False
    """Arguments are a text of JSON, not an object."""
    wraps_text_arguments: bool = False
    """Arguments that are no JSON object become one, with the text in it."""

    def fit(self, message: Message) -> Message:
        """The message in this form."""
        fitted = message | {"content": self._content(message["role"], message.get("content"))}
        if calls := message.get("tool_calls"):
            fitted["tool_calls"] = [self._call(call) for call in calls]
        return fitted

    def _content(self, role: str, content: Any) -> Any:
        match content:
            case None:
                return None if self.takes_null else ""
            case str():
                return [{"type": "text", "text": content}] if self.takes_only_parts else content
            case _ if role in self.roles_with_parts:
                return content
            case _:
                return "\n".join(part["text"] for part in content)

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        arguments = function["arguments"]
        arguments = _as_text(arguments) if self.takes_text_arguments else _as_object(arguments)
        if self.wraps_text_arguments and isinstance(arguments, str):
            arguments = {"arguments": arguments}
        return {**call, "function": {**function, "arguments": arguments}}


PLAIN = TemplateForm()
"""Texts as content, objects as arguments: what nearly all templates take."""

WRAPPING = TemplateForm(wraps_text_arguments=True)
"""For templates that go through arguments by name."""


def learn_form(render: Render) -> TemplateForm:
    """What a template takes that `render` renders."""
    roles = frozenset(role for role in ("system", "developer", "user", "assistant", "tool") if _has_parts(render, role))
    takes_only_parts = "user" in roles and _FIRST not in _rendered(render, [{"role": "user", "content": _FIRST}])
    calls = next((form for form in _call_forms() if _writes_calls(render, form)), PLAIN)
    return msgspec.structs.replace(calls, roles_with_parts=roles, takes_only_parts=takes_only_parts)


def written_call(render: Render, form: TemplateForm, source: str) -> WrittenCall | None:
    """What is made of a call, where `render` offers tools; None if they are not written into the prompt."""
    text = _rendered(render, [_ASKED, form.fit(_calling()), *_results()])
    if _OFFERED not in text:
        return None
    behind = text.rpartition(_QUESTION)[2] if _VALUE in text else ""
    return WrittenCall(behind, source, _CALLED, _ARGUMENTS)


def written_answer(render: Render, source: str) -> WrittenAnswer:
    """What is made of an answer."""
    text = _rendered(render, [_ASKED, {"role": "assistant", "content": _ANSWER}, _ASKED])
    return WrittenAnswer(text, source, _ANSWER)


def writes_role(render: Render, role: str) -> bool:
    """Whether what is said in a role of this name is written."""
    message = {"role": role, "content": _FIRST}
    return any(_FIRST in _rendered(render, messages) for messages in ([message, _ASKED], [_ASKED, message]))


def _has_parts(render: Render, role: str) -> bool:
    text = _rendered(render, list(_conversation({"role": role, "content": _PARTS})))
    return _FIRST in text and _SECOND in text and not any(each in text for each in _WRITTEN_OUT)


def _conversation(message: Message) -> Iterator[Message]:
    """A short one with this message in it."""
    match message["role"]:
        case "user":
            yield message
        case "assistant":
            yield from (_ASKED, message, _ASKED)
        case "tool":
            yield from (_ASKED, PLAIN.fit(_calling()), message | _results()[0] | {"content": message["content"]})
        case _:
            yield from (message, _ASKED)


def _call_forms() -> Iterator[TemplateForm]:
    for takes_text_arguments in (False, True):
        for takes_null in (True, False):
            yield TemplateForm(takes_null=takes_null, takes_text_arguments=takes_text_arguments)


def _writes_calls(render: Render, form: TemplateForm) -> bool:
    text = _rendered(render, [_ASKED, form.fit(_calling()), *_results()])
    spoken = _rendered(render, [_ASKED, form.fit(_calling() | {"content": ""}), *_results()])
    # A null that is written out, and an object as Python spells it, are no JSON that a model knows.
    is_spelled = f"{{'{_KEY}'" in text or any(text.count(null) > spoken.count(null) for null in ("None", "null"))
    return _VALUE in text and not is_spelled


def _calling() -> Message:
    function = {"name": _CALLED, "arguments": dict(_ARGUMENTS)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": _CALL_ID, "type": "function", "function": function}],
    }


def _results() -> list[Message]:
    return [{"role": "tool", "tool_call_id": _CALL_ID, "name": _CALLED, "content": "a result"}]


def _rendered(render: Render, messages: Sequence[Message]) -> str:
    try:
        return render(messages)
    except UnsupportedModel:  # it takes more than it may
        raise
    except Exception:  # a template is a program of its own; what it cannot take, it does not take
        return ""


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _as_object(arguments: Any) -> Any:
    """Arguments that are no JSON object stay the text that the model wrote."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
