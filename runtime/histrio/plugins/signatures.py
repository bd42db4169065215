"""Whether a method takes what the contract will call it with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any

__all__ = ["signature_fault"]

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def signature_fault(item: Any, name: str, contract: Callable[..., Any]) -> str:
    """What is wrong with the method `name` of an object or of a class, with the remedy; empty if nothing is."""
    expected = list(inspect.signature(contract).parameters.values())[1:]
    call = f"{name}({', '.join(each.name for each in expected)})"
    method = _method(item, name)
    if method is None:
        return f"has no method {call}: write one"
    if not callable(method):
        return f"has a {name} that cannot be called: make it a method {call}"
    if _is_awaited(method) and not _gives_a_coroutine(contract):
        return f"has a {name} that is called without await: write it as a plain def {call}"
    if _gives_a_coroutine(contract) and not inspect.iscoroutinefunction(method):
        return f"has a {name} that is no coroutine: write it as async def {call}"

    try:
        given = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return ""  # written in another language, which tells nothing
    given = given[1:] if _has_self(item, name) else given
    if _accepts(given, expected):
        return ""
    return f"has the method {name}{_shown(given)}, which is called as {call}: give it these parameters"


def _method(item: Any, name: str) -> Any:
    """The attribute; the constructor that every class inherits is none of its own."""
    if name == "__init__" and item.__init__ is object.__init__:
        return None
    return getattr(item, name, None)


def _is_awaited(method: Any) -> bool:
    return inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def _gives_a_coroutine(contract: Callable[..., Any]) -> bool:
    return "Coroutine" in str(inspect.signature(contract).return_annotation)


def _has_self(item: Any, name: str) -> bool:
    """Whether the attribute, read from a class, is a plain method, whose first parameter is the object."""
    if not isinstance(item, type):
        return False
    return not isinstance(inspect.getattr_static(item, name, None), staticmethod | classmethod)


def _accepts(given: Sequence[Parameter], expected: Sequence[Parameter]) -> bool:
    """Whether it can be called by position and by name; a leading underscore says that a name is not used."""
    positional = [each for each in given if each.kind in _POSITIONAL]
    takes_any = any(each.kind is Parameter.VAR_POSITIONAL for each in given)
    if len(positional) < len(expected) and not takes_any:
        return False
    same = all(
        mine.kind is Parameter.POSITIONAL_ONLY or mine.name.strip("_") == theirs.name
        for mine, theirs in zip(positional, expected, strict=False)
    )
    rest = positional[len(expected) :] + [each for each in given if each.kind is Parameter.KEYWORD_ONLY]
    return same and all(each.default is not Parameter.empty for each in rest)


def _shown(parameters: Sequence[Parameter]) -> str:
    plain = [each.replace(annotation=Parameter.empty, default=Parameter.empty) for each in parameters]
    return str(inspect.Signature(plain))
