r"""Negative look-ahead at the beginning of an expression, as further expressions that the text has to follow too.

`^(?!\.)(?!.*\.\.)[a-z.]+$`, as generators write it for e-mail addresses, is `^[a-z.]+$` and `^(?:[^.]|$)` and no `..`
anywhere.
"""

from __future__ import annotations

import re

__all__ = ["without_lookahead"]

_HEAD = re.compile(r"\(\?!((?:\\.|\[(?:\\.|[^\]\\])*\]|[^\\()\[])*)\)")
_CHAR = r"(?:\\[^a-zA-Z0-9]|[^\\.\[\](){}*+?|^$])"
_TWICE = re.compile(rf"\.\*({_CHAR})\1")
_ONLY = re.compile(r"\^?\[(?!\^)((?:\\.|[^\]\\])*)\][*+]\$")
_FIRST = re.compile(_CHAR)


def without_lookahead(expression: str) -> list[str] | None:
    """Expressions that a text follows together if it follows this one; None if that is not known."""
    if not expression.startswith("^(?!"):
        return None

    found: list[str] = []
    at = 1
    while head := _HEAD.match(expression, at):
        other = _other(head[1])
        if other is None:
            return None
        found.append(other)
        at = head.end()
    rest = expression[at:]
    # An alternative of its own would go on without the look-ahead.
    if "(?!" in rest or "(?=" in rest or "(?<" in rest or _has_alternatives(rest):
        return None
    return [f"^{rest}", *found]


def _other(body: str) -> str | None:
    """All texts that do not begin so."""
    if _FIRST.fullmatch(body):
        return f"^(?:[^{_in_class(body)}][\\s\\S]*)?$"
    if twice := _TWICE.fullmatch(body):
        char = _in_class(twice[1])
        return f"^(?:[^{char}]|{twice[1]}[^{char}])*(?:{twice[1]})?$"
    if only := _ONLY.fullmatch(body):
        return f"[^{only[1]}]"
    return None


def _in_class(char: str) -> str:
    return char if char.startswith("\\") else f"\\{char}" if char in "-^]" else char


def _has_alternatives(expression: str) -> bool:
    """Whether `|` stands outside of all brackets."""
    plain = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "", expression)
    level = 0
    for char in plain:
        level += (char == "(") - (char == ")")
        if char == "|" and not level:
            return True
    return False
