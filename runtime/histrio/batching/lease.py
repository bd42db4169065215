"""The blocks batching may use without asking: leased from kv ahead of need, one step's worth."""

from __future__ import annotations

from histrio.messages import Release

__all__ = ["BlockLease"]


class BlockLease:
    """Fresh blocks in hand, and which of them sequences took. What kv shares with a sequence is not counted here."""

    def __init__(self) -> None:
        self._in_hand: list[int] = []
        self._used: set[int] = set()
        self._releases: list[Release] = []
        self.num_asked_blocks = 0
        """Blocks that kv was asked for and has not answered for."""
        self.num_blocks_left = 0
        """About how many more kv could grant."""
        self.is_exhausted = False
        """Kv granted less than was asked: only releases or preemption help."""
        self._has_released = False
        """Blocks were released after kv was asked, so its answer does not count them."""

    @property
    def num_blocks_in_hand(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._in_hand)

    @property
    def num_used_blocks(self) -> int:
        """Blocks that sequences took from this lease."""
        return len(self._used)

    def ask(self, num_blocks: int) -> None:
        """kv was asked for `num_blocks` more blocks."""
        self.num_asked_blocks, self._has_released = num_blocks, False

    def add(self, block_ids: list[int], num_left: int = 0) -> None:
        """kv granted these blocks, and could have granted `num_left` more."""
        self._in_hand[:0] = reversed(block_ids)
        self.num_blocks_left = num_left
        self.is_exhausted = len(block_ids) < self.num_asked_blocks and not self._has_released
        self.num_asked_blocks = 0

    def can_allocate(self, num_blocks: int) -> bool:
        """Whether that many are in hand."""
        return len(self._in_hand) >= num_blocks

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks for a sequence; `can_allocate` must hold."""
        assert len(self._in_hand) >= num_blocks, "allocated more than is in hand"
        taken = [self._in_hand.pop() for _ in range(num_blocks)]
        self._used.update(taken)
        return taken

    def release(self, request: int, block_ids: list[int]) -> None:
        """A sequence reads these no more, its own and shared ones; kv hears of it with the next `take_releases`."""
        self._used.difference_update(block_ids)
        self._releases.append(Release(request, block_ids))
        self.is_exhausted = False
        self._has_released = True
        self.num_blocks_left += len(block_ids)

    def take_releases(self) -> list[Release]:
        """What to tell kv."""
        releases, self._releases = self._releases, []
        return releases

    def give_up(self) -> list[int]:
        """All blocks in hand, to be returned to kv: no running sequence could need them."""
        given, self._in_hand = self._in_hand, []
        self.num_blocks_left += len(given)
        return given

    def check_integrity(self, tables: list[list[int]]) -> None:
        """Raise AssertionError unless every block taken from the lease is in a sequence's table."""
        listed = {block_id for table in tables for block_id in table}
        assert self._used <= listed, "a used block is in no table"
        assert listed.isdisjoint(self._in_hand), "a block is used and in hand"
        assert len(set(self._in_hand)) == len(self._in_hand), "a block is in hand twice"
        assert all(len(set(table)) == len(table) for table in tables), "a block is in a table twice"
