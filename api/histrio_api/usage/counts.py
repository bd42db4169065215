"""What is counted of requests, and the questions that may be asked of it."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import msgspec

__all__ = ["GROUPS", "Counts", "Group", "Place", "Question"]

Group: TypeAlias = Literal["day", "key", "model"]
GROUPS: tuple[Group, ...] = get_args(Group)


class Place(NamedTuple):
    """Where counts are added up."""

    day: str
    """`2026-01-31`, in UTC."""
    key: str
    """The key's name; empty for requests without one."""
    model: str


class Counts(msgspec.Struct):
    """Sums over requests; the names are columns of the file and fields of answers."""

    requests: int = 0
    """That were taken: tokens were generated for them, or would have been."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens, those from the prefix cache."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the answers' tokens, those with which models reasoned."""
    errors: int = 0
    """Answers that were an error, and streams that ended in one."""

    def add(self, other: Counts) -> None:
        """Add each of the other's sums."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Question(NamedTuple):
    """Which counts are wanted, and how they are added up."""

    start: str
    """First day."""
    end: str
    """Last day, which is included."""
    key: str | None
    """Of this key alone; None for all."""
    groups: tuple[Group, ...]
    """A row for each combination of these."""
