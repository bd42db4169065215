"""Bounds for single calls of a template: what grows by more than its arguments is refused before it is done."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from histrio_api.text.sandbox_limits import MAX_VALUE, TemplateLimit, account

__all__ = ["bound_filters", "check_format", "check_method", "check_operator"]

_MOST_PADDING = 1000
_MOST_BITS = 2**14
_PADDING = {
    "center",
    "ljust",
    "rjust",
    "zfill",
    "expandtabs",
    "indent",
    "batch",
    "slice",
    "tojson",
    "round",
    "to_bytes",
}
"""Filters and methods that repeat something as often as an argument says, for each part of their value at most."""
_WHOLE = {"list", "sort", "slice", "unique", "join"}
"""Filters that make a list of their value."""
_MOST_ENTRIES = 2**20
_UNUSED_FILTERS = ("filesizeformat", "pprint", "random", "striptags", "urlize", "wordcount", "wordwrap", "xmlattr")
"""No template of a prompt needs them, and some take time with the square of their text."""
_LARGE_FIELD = re.compile(r"%[^a-zA-Z%]*(?:\*|[0-9]{4})|\{[^{}]*(?:\{|[0-9]{4})")
"""A field of a format whose width is large, or not written in it."""


def bound_filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The same filters within bounds."""
    return {name: _bounded(name, each) for name, each in filters.items() if name not in _UNUSED_FILTERS}


def check_method(name: str, owner: Any, arguments: list[Any]) -> None:
    """Raise `TemplateLimit` for a method of a string, a list … whose result could be too large."""
    for each in arguments:
        account().size(each)  # which refuses what has no size
    if name == "translate":
        raise TemplateLimit("it translates characters by a table")
    if name in _PADDING:
        _check_padding(name, owner, arguments)
    if name == "replace" and len(arguments) > 1:
        _check_replacement(owner, *arguments[:2])
    if name == "join" and arguments and not isinstance(arguments[0], str):
        _check_join(owner, arguments[0])


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raise `TemplateLimit` for what an operator must not compute."""
    if operator == "%" and isinstance(left, str | bytes):
        check_format(str(left))
        account().charge(right)
    if operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(times, int) and not isinstance(value, int | float):
                _check_size(account().size(value) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int):
        bits = {"**": left.bit_length() * abs(right), "*": left.bit_length() + right.bit_length()}
        if bits.get(operator, 0) > _MOST_BITS:
            raise TemplateLimit("it computes numbers that are too large")


def check_format(pattern: str) -> None:
    """Raise `TemplateLimit` for a format that pads."""
    if _LARGE_FIELD.search(pattern):
        raise TemplateLimit("it formats with a large width")


def _bounded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    first = 1 if hasattr(call, "jinja_pass_arg") else 0  # jinja's own argument comes before the value

    @wraps(call)
    def bounded(*arguments: Any, **options: Any) -> Any:
        own = account()
        own.step()
        value, *others = arguments[first:] or (None,)
        if name == "join" and not isinstance(value, str):
            value = list(value)
        _check_filter(name, value, [*others, *options.values()])
        result = call(*arguments[:first], value, *others, **options)
        own.charge(result)
        return result

    return bounded


def _check_filter(name: str, value: Any, others: list[Any]) -> None:
    for each in (value, *others):
        account().size(each)  # which refuses what has no size
    if name in _PADDING:
        _check_padding(name, value, others)
    if name in _WHOLE and isinstance(value, str) and len(value) > _MOST_ENTRIES:
        raise TemplateLimit("it makes a list of all characters of a long text")
    if name == "replace" and len(others) > 1:
        _check_replacement(str(value), str(others[0]), str(others[1]))
    if name == "join" and not isinstance(value, str):
        _check_join(str(others[0]) if others else "", value)
    if name == "sum" and not all(isinstance(each, int | float | str | None) for each in others):
        raise TemplateLimit("it adds up lists")
    if name == "format":
        check_format(str(value))


def _check_padding(name: str, value: Any, others: list[Any]) -> None:
    widths = [len(each) if isinstance(each, str) else abs(each) for each in others if isinstance(each, str | int)]
    width = max(widths, default=0)
    if width > _MOST_PADDING:
        raise TemplateLimit(f"it calls {name} with more than {_MOST_PADDING}")
    _check_size((account().size(value) + 1) * max(width, 1))


def _check_replacement(text: Any, old: Any, new: Any) -> None:
    _check_size(len(text) + text.count(old) * len(new))


def _check_join(separator: Any, items: Any) -> None:
    _check_size(account().size(items) + len(separator) * len(items))


def _check_size(size: int) -> None:
    if size > MAX_VALUE:
        raise TemplateLimit(f"it makes a value of more than {MAX_VALUE} characters")
