"""Which hooks a plugin implements, and how they are called.

An implementation is a function that is named as a hook and marked with `@hookimpl`. What looks like one and would never
be called, or could not be, is found here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import msgspec

from histrio.contracts import hooks

__all__ = ["Implementation", "find_implementations", "hook_names", "one_line"]


class Implementation(msgspec.Struct, frozen=True):
    """One hook in one plugin."""

    hook: str
    owner: str
    """The plugin, in words."""
    function: Callable[..., Any]
    takes: tuple[str, ...]
    """The parameters of the hook that the implementation takes."""

    def call(self, facts: Mapping[str, Any]) -> Any:
        """Call it with those of the facts that it takes."""
        return self.function(**{name: facts[name] for name in self.takes})


def hook_names() -> list[str]:
    """Every hook of `histrio.contracts.hooks`, in order of definition."""
    return [name for name, value in vars(hooks).items() if hasattr(value, f"{hooks.PROJECT}_spec")]


def find_implementations(plugin: object, owner: str) -> tuple[list[Implementation], list[str]]:
    """The hooks that can be called, and a sentence for everything that is meant as one and cannot be."""
    if isinstance(plugin, type):
        name = plugin.__name__
        return [], [f"the entry point names the class {name}: make an instance in its module, and name that"]

    found: list[Implementation] = []
    faults: list[str] = []
    for name, function in _functions(plugin):
        marker = getattr(function, f"{hooks.PROJECT}_impl", None)
        if not isinstance(marker, dict):
            faults += _unmarked(plugin, name, function)
            continue
        hook = marker.get("specname") or name
        fault = _fault(hook, marker, function)
        if fault:
            faults.append(fault)
        else:
            takes = tuple(each for each in inspect.signature(function).parameters if each in _parameters(hook))
            found.append(Implementation(hook, owner, function, takes))
    known = hook_names()
    return sorted(found, key=lambda each: known.index(each.hook)), faults


def one_line(error: BaseException) -> str:
    """An error as its class and its text, in one line of bounded length."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _functions(plugin: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in dir(plugin):
        if name.startswith("__"):
            continue
        try:
            value = getattr(plugin, name)
        except Exception:
            continue  # a property that raises is no hook
        if inspect.isroutine(value):
            yield name, value


def _parameters(hook: str) -> list[str]:
    return list(inspect.signature(getattr(hooks, hook)).parameters)


def _unmarked(plugin: object, name: str, function: Callable[..., Any]) -> Iterator[str]:
    """What is written as a hook and not marked as one, so that it is never called."""
    if hasattr(function, f"{hooks.PROJECT}_spec"):
        return  # the hook's own definition, imported

    if name in hook_names():
        yield f"{name} is not marked, so it is never called: put @hookimpl of histrio.contracts.hooks above it"
    elif isinstance(plugin, ModuleType) and getattr(function, "__module__", "") == plugin.__name__:
        close = get_close_matches(name, hook_names(), n=1, cutoff=0.85)
        if close:
            yield f"{name} is no hook and is never called: the hook is called {close[0]}, marked with @hookimpl"


def _fault(hook: str, marker: Mapping[str, Any], function: Callable[..., Any]) -> str:
    """Why a marked function cannot be called; empty if it can."""
    known = hook_names()
    if hook not in known:
        close = get_close_matches(hook, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{hook} is no hook: {hint}Hooks are {', '.join(known)}"
    if marker.get("hookwrapper") or marker.get("wrapper"):
        return f"{hook} is marked as a wrapper, and hooks are not wrapped here: use a plain @hookimpl"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return f"{hook} is called without await: write it as a plain def that returns nothing"

    expected = _parameters(hook)
    given = inspect.signature(function).parameters.values()
    needed = [each.name for each in given if each.default is each.empty and each.kind not in _ANY_NUMBER]
    if any(name not in expected for name in needed) or any(each.kind is each.POSITIONAL_ONLY for each in given):
        listed = ", ".join(each.name for each in given)
        return f"{hook}({listed}) is called as {hook}({', '.join(expected)}): give it these names, or fewer of them"
    return ""


_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
