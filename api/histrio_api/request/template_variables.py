"""What a chat says to the variables of its template: whether to reason, how hard, and whatever else the template reads.

Clients say the first two in many ways; each becomes the variable that the template has. One that it has not is a hint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from histrio.errors import RequestError
from histrio_api.request.ignored import IgnoredFields
from histrio_api.schemas.chat import ChatRequest, Thinking

__all__ = ["template_variables"]

_EFFORT = "reasoning_effort"
_SWITCHES = ("enable_thinking", "thinking")
"""Variables that turn reasoning on and off; a template has one of them at most."""
_NO_EFFORT = "none"


def template_variables(known: Collection[str], chat: ChatRequest, ignored: IgnoredFields) -> dict[str, Any]:
    """The variables that are set, all of them `known` to the template; `ignored` takes the fields that set none.

    Raises `RequestError` where two fields contradict each other.
    """
    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, name, value in _wishes(known, chat):
        if name not in known:
            ignored.add(source, source)
        elif found.setdefault(name, value) != value:
            raise RequestError(f"{source}: differs from {sources[name]}; give one of them", param=source)
        else:
            sources.setdefault(name, source)
    return found


def _wishes(known: Collection[str], chat: ChatRequest) -> Iterator[tuple[str, str, Any]]:
    """The field, the variable that it is for, and what that is to be."""
    for name, value in chat.chat_template_kwargs.items():
        yield f"chat_template_kwargs.{name}", name, value

    switch = next((each for each in _SWITCHES if each in known), _SWITCHES[0])
    for source, effort in _efforts(chat):
        if effort == _NO_EFFORT and _EFFORT not in known:
            yield source, switch, False
        else:
            yield source, _EFFORT, effort
    for source, is_on in _switches(chat):
        yield source, switch if is_on is not None else "", is_on


def _efforts(chat: ChatRequest) -> Iterator[tuple[str, str]]:
    if chat.reasoning_effort is not None:
        yield "reasoning_effort", chat.reasoning_effort
    if isinstance(chat.think, str):
        yield "think", chat.think
    if chat.reasoning is not None and chat.reasoning.effort is not None:
        yield "reasoning.effort", chat.reasoning.effort


def _switches(chat: ChatRequest) -> Iterator[tuple[str, bool | None]]:
    """None for what is neither on nor off."""
    if chat.enable_thinking is not None:
        yield "enable_thinking", chat.enable_thinking
    if isinstance(chat.thinking, Thinking):
        yield "thinking", {"enabled": True, "disabled": False}.get(chat.thinking.type)
    elif chat.thinking is not None:
        yield "thinking", chat.thinking
    if isinstance(chat.think, bool):
        yield "think", chat.think
    if chat.reasoning is not None and chat.reasoning.enabled is not None:
        yield "reasoning.enabled", chat.reasoning.enabled
