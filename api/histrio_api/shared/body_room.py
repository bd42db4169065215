"""The memory that bodies of requests may take together while they are read."""

from __future__ import annotations

from histrio.errors import Overloaded

__all__ = ["BodyRoom"]


class BodyRoom:
    """How many bytes of bodies may be here at the same time."""

    def __init__(self, num_bytes: int) -> None:
        self._num_left = num_bytes

    @property
    def num_left(self) -> int:
        """Bytes that may still come."""
        return self._num_left

    def take(self, num_bytes: int) -> None:
        """Take room. Raises `Overloaded` if there is not so much."""
        if num_bytes > self._num_left:
            raise Overloaded("too many large requests are on their way; try again soon")
        self._num_left -= num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Give it back."""
        self._num_left += num_bytes
