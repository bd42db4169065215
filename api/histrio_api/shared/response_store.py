"""Answered responses that later requests refer to, in the front's memory.

A response keeps its own items alone and names the one before it: a conversation is a chain of them. Using a response
uses its whole chain, so what leaves first, where the bounds are reached, are conversations that no client continues.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

__all__ = ["KeptResponse", "ResponseStore"]

_ENTRY_BYTES = 1024
"""About what a response takes beside its texts."""

Kept = tuple[str, str]
"""The name of an API key, and an id: no client finds what was answered to another one's key."""


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """One of them."""

    id: str
    body: bytes
    """As it was answered, in JSON."""
    input_items: list[tuple[str, bytes]]
    """What was asked, behind the response before it: ids and JSON."""
    output_items: list[tuple[str, bytes]]
    previous_id: str = ""

    @property
    def items(self) -> list[tuple[str, bytes]]:
        """What it adds to its conversation."""
        return self.input_items + self.output_items

    @property
    def num_bytes(self) -> int:
        """About how much memory it takes."""
        return _ENTRY_BYTES + len(self.body) + sum(len(item_id) + len(item) for item_id, item in self.items)


class ResponseStore:
    """The last of them, within a number and a number of bytes. Safe to use from several threads."""

    def __init__(self, max_responses: int, max_bytes: int) -> None:
        self.is_open = max_responses > 0
        """False: nothing is kept."""
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[Kept, KeptResponse] = OrderedDict()
        """Least recently used first."""
        self._holders: dict[Kept, KeptResponse] = {}
        """Item → the last response that has it."""
        self._lock = Lock()

    def keep(self, key: str, response: KeptResponse) -> None:
        """Keep it, unless it alone is larger than the bounds; others may have to leave."""
        if not self.is_open or response.num_bytes > self._max_bytes:
            return

        with self._lock:
            self._kept[key, response.id] = response
            self._num_bytes += response.num_bytes
            for item_id, _ in response.items:
                self._holders[key, item_id] = response
            while len(self._kept) > self._max_responses or self._num_bytes > self._max_bytes:
                self._forget(next(iter(self._kept)))

    def find(self, key: str, response_id: str) -> KeptResponse | None:
        """One response."""
        with self._lock:
            return next(self._chain(key, response_id), None)

    def forget(self, key: str, response_id: str) -> bool:
        """Delete one; False if there is none."""
        with self._lock:
            is_there = (key, response_id) in self._kept
            if is_there:
                self._forget((key, response_id))
            return is_there

    def conversation(self, key: str, response_id: str) -> list[KeptResponse] | None:
        """All that led to a response and the response itself, the oldest first; None if one of them is gone."""
        with self._lock:
            chain = list(self._chain(key, response_id))
        is_whole = bool(chain) and not chain[-1].previous_id
        return chain[::-1] if is_whole else None

    def num_conversation_bytes(self, key: str, response_id: str) -> int:
        """How long a conversation is that ends with this response, as far as it is here."""
        with self._lock:
            return sum(each.num_bytes for each in self._chain(key, response_id))

    def find_item(self, key: str, item_id: str) -> bytes | None:
        """An item that was asked or answered."""
        with self._lock:
            response = self._holders.get((key, item_id))
        return None if response is None else dict(response.items)[item_id]

    def _chain(self, key: str, response_id: str) -> Iterator[KeptResponse]:
        """The response, the one before it and so on, as far as they are here; all of them were used now."""
        while (found := self._kept.get((key, response_id))) is not None:
            self._kept.move_to_end((key, response_id))
            yield found
            response_id = found.previous_id

    def _forget(self, kept: Kept) -> None:
        response = self._kept.pop(kept)
        self._num_bytes -= response.num_bytes
        for item_id, _ in response.items:
            if self._holders.get((kept[0], item_id)) is response:
                del self._holders[kept[0], item_id]
