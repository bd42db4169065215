"""Places of sequences in the draft model: a slot and blocks, which a sequence loses that was not drafted for lately."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from histrio.messages import ReplicaSize

__all__ = ["Place", "Places"]

_IDLE_ROUNDS = 8
"""A place is safe for so many rounds after its last one: where there is not enough for all, some are drafted for and
the others wait, instead of pushing each other out step after step."""


@dataclass(slots=True, eq=False)
class Place:
    """Where the draft model keeps one sequence."""

    slot: int
    block_ids: list[int] = field(default_factory=list)
    new_block_ids: list[int] = field(default_factory=list)
    """Blocks that no row has carried yet."""
    num_computed_tokens: int = 0
    last_round: int = 0

    def take_new_blocks(self) -> list[int]:
        """For the next row."""
        taken, self.new_block_ids = self.new_block_ids, []
        return taken


class Places:
    """All slots and blocks of the draft model. `freed` is told each slot that lost its sequence."""

    def __init__(self, size: ReplicaSize, freed: Callable[[int], None]) -> None:
        self._size = size
        self._freed = freed
        self._free_slots = list(range(size.max_rows - 1, -1, -1))
        self._free_blocks = list(range(size.num_blocks - 1, -1, -1))
        self._places: dict[int, Place] = {}
        """By request, the longest unused one first."""
        self._round = 0

    def begin_round(self) -> None:
        """A round of drafting begins; sequences that were not drafted for in the last rounds may lose their places."""
        self._round += 1

    def get(self, request: int) -> Place | None:
        """The place of the request, if it has one."""
        return self._places.get(request)

    def reserve(self, request: int, num_tokens: int) -> Place | None:
        """A place with room for so many tokens; None if sequences that are drafted for now need the rest."""
        place = self._places.get(request)
        num_held = len(place.block_ids) if place is not None else 0
        num_blocks = max(-(-num_tokens // self._size.block_size) - num_held, 0)
        if not self._make_room(request, 1 if place is None else 0, num_blocks):
            return None

        place = self._places.pop(request, None) or Place(self._free_slots.pop())
        self._places[request] = place
        place.last_round = self._round
        for _ in range(num_blocks):
            place.block_ids.append(self._free_blocks.pop())
        place.new_block_ids += place.block_ids[num_held:]
        return place

    def give_up(self, request: int) -> None:
        """The request needs no place any more; it may have none."""
        place = self._places.pop(request, None)
        if place is None:
            return

        self._free_slots.append(place.slot)
        self._free_blocks += place.block_ids
        self._freed(place.slot)

    def check_integrity(self) -> None:
        """Raise AssertionError if slots or blocks were lost or given twice."""
        slots = [place.slot for place in self._places.values()]
        blocks = [block for place in self._places.values() for block in place.block_ids]
        assert sorted(slots + self._free_slots) == list(range(self._size.max_rows)), "slots were lost or doubled"
        assert sorted(blocks + self._free_blocks) == list(range(self._size.num_blocks)), "blocks were lost or doubled"

    def _make_room(self, request: int, num_slots: int, num_blocks: int) -> bool:
        """Take places from the longest unused on, unless all that may be taken would not do."""
        num_slots -= len(self._free_slots)
        num_blocks -= len(self._free_blocks)
        victims = []
        for other, place in self._places.items():
            if num_slots <= 0 and num_blocks <= 0:
                break
            if other != request and place.last_round < self._round - _IDLE_ROUNDS:
                victims.append(other)
                num_slots -= 1
                num_blocks -= len(place.block_ids)
        if num_slots > 0 or num_blocks > 0:
            return False

        for victim in victims:
            self.give_up(victim)
        return True
