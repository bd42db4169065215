r"""Regular expressions with one meaning: what readers of other languages read into them too.

`\w` is ASCII in ECMAScript and Unicode in Python, though not the same Unicode as in Rust. A string that shall satisfy
every reader takes the least of them where it must match, and the complement of all of them where it must not. Classes
are written so that no `[`, `&&` or `~~` in them becomes an operation on sets, which only Rust knows.
"""

from __future__ import annotations

__all__ = ["portable"]

_LEAST = {"d": "0-9", "w": "0-9A-Za-z_", "s": "\\t-\\r "}
"""What every reader counts to the class."""
_MOST = {"d": "\\p{Nd}", "w": "\\p{L}\\p{M}\\p{N}\\p{Pc}", "s": "\\s\\x1c-\\x1f\\x{feff}"}
"""What any reader counts to the class."""
_ANY = "[^\\n\\r\\x{2028}\\x{2029}]"
_LITERAL_IN_CLASS = "[&~"


def portable(expression: str, dot: str = _ANY) -> str:
    """The expression in llguidance's syntax, `dot` for each dot in it. Malformed ones stay malformed."""
    parts: list[str] = []
    at = 0
    while at < len(expression):
        char = expression[at]
        if char == "[":
            text, at = _class(expression, at)
        elif char == "\\":
            text, at = _escape(expression[at + 1 : at + 2], negated=False, within=False), at + 2
        else:
            text, at = dot if char == "." else char, at + 1
        parts.append(text)
    return "".join(parts)


def _class(expression: str, start: int) -> tuple[str, int]:
    """The bracketed class that begins at `start`, and where it ends."""
    at = start + 1
    negated = expression.startswith("^", at)
    at += negated
    parts = ["[^" if negated else "["]
    first = at
    while at < len(expression):
        char = expression[at]
        if char == "]" and at > first:
            return "".join(parts) + "]", at + 1
        if char == "\\":
            parts.append(_escape(expression[at + 1 : at + 2], negated=negated, within=True))
            at += 2
        else:
            parts.append(f"\\{char}" if char in _LITERAL_IN_CLASS or char == "]" else char)
            at += 1
    return "".join(parts), at


def _escape(letter: str, *, negated: bool, within: bool) -> str:
    """One escape: within a negated class, more in it is less that matches."""
    kind = letter.lower()
    if kind not in _LEAST:
        return f"\\{letter}"
    if letter == kind:
        text = (_MOST if negated else _LEAST)[kind]
        return text if within else f"[{text}]"
    return f"[^{(_LEAST if negated else _MOST)[kind]}]"
