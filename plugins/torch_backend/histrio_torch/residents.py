"""Rows that decode step after step keep a copy of their keys and values in order, beside their blocks.

Gathering the blocks of a decode step writes and reads all of them once more than the products do: a quarter of the step
at 16 rows. So the rows of a group have seats in a set, whose copies the products take as they are. Each row is
recognised by its blocks: a row that continues a seat adds only the new tokens to its copy, however many they are and
also where the row was rewound. A row that joins the group is read from its blocks into a free seat, and a group for
which its set is too short gets a new set. The blocks stay the truth: a copy is distrusted as soon as anything but its
own row writes one of its blocks. All copies live in one arena of fixed size; rows without room there are gathered.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from histrio_torch.row_groups import MOST_SHARED_TOKENS, BoolArray, IndexArray, Rows, are_similar

__all__ = ["Arena", "ResidentRows", "Residents"]

MOST_SETS = 16
"""Sets of rows remembered at once, the longest unused one is dropped; pipelines alternate between a few."""


class Arena:
    """Memory of a fixed size, touched once and then reused, so that no step waits for the system's blocks."""

    def __init__(self, num_values: int, dtype: torch.dtype, device: torch.device) -> None:
        self._memory = torch.empty(num_values, dtype=dtype, device=device)
        self._taken: list[tuple[int, int]] = []

    def take(self, num_values: int) -> Tensor | None:
        """A flat tensor from the first gap that is large enough, None where there is none."""
        start = 0
        for index, (first, end) in enumerate([*self._taken, (len(self._memory), 0)]):
            if first - start >= num_values:
                self._taken.insert(index, (start, start + num_values))
                return self._memory[start : start + num_values]

            start = end
        return None

    def give_back(self, tensor: Tensor) -> None:
        """End the use of a tensor from `take`."""
        first = int(tensor.storage_offset())
        self._taken.remove((first, first + tensor.numel()))


@dataclass(slots=True)
class _Copy:
    memory: Tensor
    step: int
    """Count of the set's steps when it was last complete."""


@dataclass(slots=True, eq=False)
class ResidentRows:
    """A set of rows, each with a seat; those that run have the first ones."""

    first_seat: int
    """Among the seats of all sets."""
    num_seats: int
    capacity: int
    """Blocks of each seat."""
    members: IndexArray
    """[running rows] the rows that have the first seats in the running step."""
    stale: BoolArray
    """[running rows] true where the row's seat must be filled from its blocks."""
    step: int = 0
    copies: dict[int, _Copy] = field(default_factory=dict)

    def is_made_for(self, num_rows: int, num_blocks: int, num_own: int) -> bool:
        """Whether rows of at most `num_blocks` blocks nearly fill the set, and `num_own` is most of its rows."""
        # Else sets that run in turns, each with a part of the rows, would take each other's seats.
        if 2 * num_own <= len(self.members):
            return False

        return num_rows <= self.num_seats and are_similar(num_blocks, self.capacity)


class Residents:
    """The sets of rows, the last used one first, and the rows in their seats."""

    def __init__(self, arena: Arena, num_blocks: int) -> None:
        self._arena = arena
        self._sets: list[ResidentRows] = []
        self._num_running = 0
        self._blocks = np.empty((0, 0), np.int64)
        """[seats, blocks] of the row that sits there, then -1."""
        self._ends = np.empty(0, np.int64)
        """[seats] tokens that are in the copies; -1 where they are not to be trusted."""
        self._home: list[ResidentRows] = []
        """[seats] the set of each."""
        self._writers = np.full(num_blocks + 1, -1)
        """[blocks] which row of the running step writes it, or -1, as at the end for the block -1."""

    def begin(self, rows: Rows, groups: list[IndexArray], written: IndexArray) -> list[ResidentRows | None]:
        """Seat the members of each group; None for those with many new tokens. `written`: [tokens] block of each."""
        seats = self._recognise(rows, written)
        running: list[ResidentRows | None] = []
        for members in groups:
            if rows.count[members[0]] > MOST_SHARED_TOKENS:
                running.append(None)
                continue

            chosen = self._choose(rows, members, seats, running)
            self._arrange(rows, chosen, members, seats)
            running.append(chosen)

        used = [known for known in running if known is not None]
        self._num_running = len(used)
        self._sets = [*used, *(known for known in self._sets if known not in used)]
        for known in self._sets[max(MOST_SETS, len(used)) :]:
            self._drop(known)

        return running

    @property
    def has_copies(self) -> bool:
        """Whether any row has a copy."""
        return any(known.copies for known in self._sets)

    def forget(self, blocks: list[int]) -> None:
        """The contents of these blocks have changed."""
        self._ends[np.isin(self._blocks, blocks).any(axis=1)] = -1

    def copy_of(self, resident: ResidentRows, layer_index: int, num_values: int) -> tuple[Tensor, bool] | None:
        """Memory for a layer of the set, and whether seats that aren't stale lack only this step's tokens.

        None: no room. Makes room by dropping sets that don't run in this step.
        """
        known = resident.copies.get(layer_index)
        if known is not None and known.step == resident.step - 1:
            known.step = resident.step
            return known.memory, True

        # A row that doesn't run now will be missing in this layer.
        first = resident.first_seat
        self._ends[first + len(resident.members) : first + resident.num_seats] = -1
        memory = self._arena.take(num_values) if known is None else known.memory
        while memory is None and len(self._sets) > self._num_running:
            self._drop(self._sets[-1])
            memory = self._arena.take(num_values)
        if memory is None:
            return None

        resident.copies[layer_index] = _Copy(memory, resident.step)
        return memory, False

    def _recognise(self, rows: Rows, written: IndexArray) -> IndexArray:
        """[rows] the seat that each continues, or -1; no seat that is left is trusted if its blocks are written."""
        result = np.full(len(rows.table), -1)
        if not len(self._ends):
            return result

        last_blocks = (rows.start - 1) // rows.block_size
        # The last block of a long row continues nothing: what is before it is written in this step.
        is_short = rows.batch.num_tokens[rows.table] <= MOST_SHARED_TOKENS
        short = is_short & (last_blocks >= 0) & (last_blocks < self._blocks.shape[1])
        waiting = np.flatnonzero(short)
        last_blocks = last_blocks[waiting]
        tables = rows.batch.block_tables[rows.table[waiting]]
        alike = self._blocks[:, last_blocks] == tables[np.arange(len(waiting)), last_blocks]
        seats, found = np.nonzero(alike & (rows.start[waiting] <= self._ends[:, None]))
        width = min(self._blocks.shape[1], tables.shape[1])
        behind = np.arange(width) > last_blocks[found, None]
        same = (behind | (self._blocks[seats, :width] == tables[found, :width])).all(axis=1)
        # Several rows may continue the same prefix: the last one gets the seat.
        owners = np.full(len(self._ends), -1)
        owners[seats[same]] = waiting[found[same]]
        taken = np.flatnonzero(owners >= 0)
        result[owners[taken]] = taken
        # A row rewrites its tokens from `start`. Mark this seat valid only up to there, in case the row moves to
        # another seat and this copy goes stale.
        self._ends[taken] = rows.start[owners[taken]]
        self._distrust(rows, written, owners)
        return result

    def _distrust(self, rows: Rows, written: IndexArray, owners: IndexArray) -> None:
        """Some blocks are written by others than their seats' owners."""
        self._writers[written] = np.repeat(np.arange(rows.batch.num_rows), rows.batch.num_tokens)
        writers = self._writers[self._blocks]
        tables = np.where(owners < 0, -1, rows.table[owners])
        self._ends[((writers >= 0) & (writers != tables[:, None])).any(axis=1)] = -1
        self._writers[written] = -1

    def _choose(
        self, rows: Rows, members: IndexArray, seats: IndexArray, taken: list[ResidentRows | None]
    ) -> ResidentRows:
        """The set where most of the members sit, or a new one."""
        most_blocks = int(rows.num_blocks[members].max())
        sitting: Counter[ResidentRows] = Counter(self._home[seat] for seat in seats[members].tolist() if seat >= 0)
        for known, num_own in sitting.most_common():
            if known not in taken and known.is_made_for(len(members), most_blocks, num_own):
                return known

        # Some seats for rows that come later, and some blocks so that rows may grow for a while.
        return self._add(len(members) + len(members) // 4, most_blocks + max(1, most_blocks // 16))

    def _arrange(self, rows: Rows, known: ResidentRows, members: IndexArray, seats: IndexArray) -> None:
        """Give the set's first seats to the members, where possible their own."""
        own = seats[members] - known.first_seat
        stays = (seats[members] >= 0) & (own >= 0) & (own < len(members))
        seated = np.full(len(members), -1)
        seated[own[stays]] = members[stays]
        is_new = seated < 0
        seated[is_new] = members[~stays]
        here = slice(known.first_seat, known.first_seat + len(members))
        known.members, known.stale = seated, is_new | (self._ends[here] < 0)
        self._blocks[here, : known.capacity] = rows.blocks_of(seated, known.capacity)
        self._ends[here] = rows.start[seated] + rows.count[seated]
        known.step += 1

    def _add(self, num_seats: int, capacity: int) -> ResidentRows:
        empty = np.empty(0, np.int64)
        added = ResidentRows(len(self._ends), num_seats, capacity, empty, empty > 0)
        wider = max(0, capacity - self._blocks.shape[1])
        self._blocks = np.pad(self._blocks, ((0, num_seats), (0, wider)), constant_values=-1)
        self._ends = np.pad(self._ends, (0, num_seats), constant_values=-1)
        self._home += [added] * num_seats
        return added

    def _drop(self, resident: ResidentRows) -> None:
        for copy in resident.copies.values():
            self._arena.give_back(copy.memory)
        resident.copies.clear()
        self._sets.remove(resident)
        gone = slice(resident.first_seat, resident.first_seat + resident.num_seats)
        width = max((known.capacity for known in self._sets), default=0)
        self._blocks = np.delete(self._blocks, gone, axis=0)[:, :width]
        self._ends = np.delete(self._ends, gone)
        del self._home[gone]
        for known in self._sets:
            if known.first_seat > resident.first_seat:
                known.first_seat -= resident.num_seats
