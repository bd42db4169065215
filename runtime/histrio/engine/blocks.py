"""Who holds which block: the pool that kv owns, and the part of it that batching has on lease.

    total = free + leased            BlockPool, one per replica
    leased = in hand + used          BlockLease, used ones sit in the tables of sequences

A block is a logical id that is valid on every stage; what a stage keeps there is its own business.
"""

from __future__ import annotations

__all__ = ["BlockLease", "BlockPool"]


class BlockPool:
    """All blocks of a replica.

    The last one freed is handed out first: its memory is warm, and what was never used costs nothing until it is.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._leased: set[int] = set()

    @property
    def num_free_blocks(self) -> int:
        """Blocks nobody has."""
        return len(self._free)

    @property
    def num_leased_blocks(self) -> int:
        """Blocks batching has, used or in hand."""
        return len(self._leased)

    def lease(self, num_blocks: int) -> list[int]:
        """Up to `num_blocks` free blocks; fewer, or none, when the pool runs out."""
        granted = [self._free.pop() for _ in range(min(num_blocks, len(self._free)))]
        self._leased.update(granted)
        return granted

    def give_back(self, block_ids: list[int]) -> None:
        """Leased blocks become free again."""
        for block_id in block_ids:
            self._leased.remove(block_id)
            self._free.append(block_id)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every block is in exactly one place."""
        assert len(self._free) + len(self._leased) == self.num_blocks, "blocks were lost or made"
        assert len(set(self._free)) == len(self._free), "a block is free twice"
        assert self._leased.isdisjoint(self._free), "a block is free and leased"


class BlockLease:
    """The blocks batching may use without asking. `wanted` says how many it missed in the last plan."""

    def __init__(self) -> None:
        self._in_hand: list[int] = []
        self._used: set[int] = set()
        self._returned: list[int] = []
        self.is_exhausted = False
        """Kv granted less than was asked: only returns or preemption help."""

    @property
    def num_blocks_in_hand(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._in_hand)

    @property
    def num_used_blocks(self) -> int:
        """Blocks in the tables of sequences."""
        return len(self._used)

    def add(self, block_ids: list[int]) -> None:
        """Kv granted these."""
        self._in_hand[:0] = reversed(block_ids)

    def can_allocate(self, num_blocks: int) -> bool:
        """Whether that many are in hand."""
        return len(self._in_hand) >= num_blocks

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks for a sequence; `can_allocate` must hold."""
        assert len(self._in_hand) >= num_blocks, "allocated more than is in hand"
        taken = [self._in_hand.pop() for _ in range(num_blocks)]
        self._used.update(taken)
        return taken

    def free(self, block_ids: list[int]) -> None:
        """A sequence gives its blocks up; they go back to kv with the next `take_returned`."""
        self._used.difference_update(block_ids)
        self._returned.extend(block_ids)
        if block_ids:
            self.is_exhausted = False

    def give_up(self) -> None:
        """Return what is in hand as well: nothing is running that could need it."""
        self._returned.extend(self._in_hand)
        self._in_hand.clear()

    def reclaim(self) -> None:
        """Keep the freed blocks in hand instead of returning them (the pool is short)."""
        self._in_hand.extend(self._returned)
        self._returned.clear()

    def take_returned(self) -> list[int]:
        """Blocks to tell kv about; they are no longer part of the lease."""
        returned, self._returned = self._returned, []
        return returned

    def check_integrity(self, tables: list[list[int]]) -> None:
        """Raise AssertionError unless used blocks are exactly those in the sequences' tables."""
        listed = [block_id for table in tables for block_id in table]
        assert len(set(listed)) == len(listed), "a block is in two tables"
        assert set(listed) == self._used, "used blocks and tables differ"
        assert self._used.isdisjoint(self._in_hand), "a block is used and in hand"
        assert len(set(self._in_hand)) == len(self._in_hand), "a block is in hand twice"
