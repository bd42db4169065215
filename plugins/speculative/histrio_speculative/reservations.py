"""What sequences have reserved in the draft model: slots and blocks. Those drafted for longest ago lose them first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from histrio.messages import ReplicaSize

__all__ = ["Reservation", "Reservations"]

_IDLE_ROUNDS = 8
"""A sequence keeps its reservation for so many rounds after it was last drafted for: where there is not enough for all,
some sequences are drafted for and the others wait, instead of pushing each other out step after step."""


@dataclass(slots=True, eq=False)
class Reservation:
    """Where the draft model keeps one sequence."""

    slot: int
    block_ids: list[int] = field(default_factory=list)
    new_block_ids: list[int] = field(default_factory=list)
    """Blocks that no row has carried yet."""
    num_computed_tokens: int = 0
    last_round: int = 0

    def take_new_blocks(self) -> list[int]:
        """The blocks that the next row has to carry; they are carried once."""
        taken, self.new_block_ids = self.new_block_ids, []
        return taken


class Reservations:
    """All slots and blocks of the draft model. `freed` is told each slot that lost its sequence."""

    def __init__(self, size: ReplicaSize, freed: Callable[[int], None]) -> None:
        self._size = size
        self._freed = freed
        self._free_slots = list(range(size.max_slots - 1, -1, -1))
        self._free_blocks = list(range(size.num_blocks - 1, -1, -1))
        self._reservations: dict[int, Reservation] = {}
        """Request → its reservation, the longest unused one first."""
        self._round = 0

    def begin_round(self) -> None:
        """A round of drafting begins; sequences that were not drafted for in the last rounds may lose theirs."""
        self._round += 1

    def get(self, request: int) -> Reservation | None:
        """The reservation of the request, if it has one."""
        return self._reservations.get(request)

    def reserve(self, request: int, num_tokens: int) -> Reservation | None:
        """A reservation of so many tokens; None if sequences that are drafted for now need the rest."""
        reservation = self._reservations.get(request)
        num_held = len(reservation.block_ids) if reservation is not None else 0
        num_blocks = max(-(-num_tokens // self._size.block_size) - num_held, 0)
        if not self._make_room(request, 1 if reservation is None else 0, num_blocks):
            return None

        reservation = self._reservations.pop(request, None) or Reservation(self._free_slots.pop())
        self._reservations[request] = reservation
        reservation.last_round = self._round
        for _ in range(num_blocks):
            reservation.block_ids.append(self._free_blocks.pop())
        reservation.new_block_ids += reservation.block_ids[num_held:]
        return reservation

    def release(self, request: int) -> None:
        """Free what the request has reserved, if anything."""
        reservation = self._reservations.pop(request, None)
        if reservation is None:
            return

        self._free_slots.append(reservation.slot)
        self._free_blocks += reservation.block_ids
        self._freed(reservation.slot)

    def check_integrity(self) -> None:
        """Raise AssertionError if slots or blocks were lost or given twice."""
        slots = [reservation.slot for reservation in self._reservations.values()]
        blocks = [block for reservation in self._reservations.values() for block in reservation.block_ids]
        assert sorted(slots + self._free_slots) == list(range(self._size.max_slots)), "slots were lost or doubled"
        assert sorted(blocks + self._free_blocks) == list(range(self._size.num_blocks)), "blocks were lost or doubled"

    def _make_room(self, request: int, num_slots: int, num_blocks: int) -> bool:
        """Release the longest unused ones, unless even all that may be released are not enough."""
        num_slots -= len(self._free_slots)
        num_blocks -= len(self._free_blocks)
        victims = []
        for other, reservation in self._reservations.items():
            if num_slots <= 0 and num_blocks <= 0:
                break
            if other != request and reservation.last_round < self._round - _IDLE_ROUNDS:
                victims.append(other)
                num_slots -= 1
                num_blocks -= len(reservation.block_ids)
        if num_slots > 0 or num_blocks > 0:
            return False

        for victim in victims:
            self.release(victim)
        return True
