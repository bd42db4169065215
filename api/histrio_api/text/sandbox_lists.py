"""Lists that a chat template may change: those that it made itself, as long as they are part of nothing else.

So what a template is given stays as it is, and no value grows behind the back of one that holds it: whatever is put
together is measured, and what was measured as a part of something is not changed any more.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CHANGES", "TemplateList"]

CHANGES = frozenset({"append", "clear", "extend", "insert", "pop", "remove", "reverse"})
"""Methods that change a list."""


class TemplateList(list[Any]):
    """A list that a template made."""

    __slots__ = ()
