"""The slots of a stage: their lengths and block tables, and the ragged batch made from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import StepBatch
from histrio.messages import FailedRow, Step, StepResult

__all__ = ["DrawnTokens", "SlotTable"]

_Ints = npt.NDArray[np.int32]


class SlotTable:
    """Length and block table of every slot of one stage. Decides nothing: everything comes with the commands.

    Commands count slots and blocks from 0; the batch has the stage's own ids, which begin at `first_slot` and
    `first_block_id`.
    """

    def __init__(self, max_slots: int, max_blocks_per_slot: int, first_slot: int = 0, first_block_id: int = 0) -> None:
        self.lengths = np.zeros(max_slots, np.int32)
        self._num_blocks = np.zeros(max_slots, np.int32)
        self._tables = np.full((max_slots, max_blocks_per_slot), first_block_id, np.int32)
        self._first_slot = first_slot
        self._first_block_id = first_block_id
        self._requests = [0] * max_slots
        self._seconds_at = np.zeros(max_slots, np.int64)

    def open(self, slot: int, num_cached_tokens: int = 0, request: int = 0, second_at: int = 0) -> None:
        """A sequence takes the slot; its first tokens may be in blocks that come with its first row. In a pair of texts
        the second one begins at `second_at`."""
        self._seconds_at[slot] = second_at
        self.lengths[slot] = num_cached_tokens
        self._requests[slot] = request
        self._tables[slot] = self._first_block_id
        self._num_blocks[slot] = 0

    def failed_rows(self, step: Step) -> list[FailedRow]:
        """The rows of the step, in its order: of which request, and at which tokens."""
        return [FailedRow(self._requests[row.slot], row.start, row.start + row.num_tokens) for row in step.rows]

    def batch(self, step: Step) -> StepBatch:
        """The step's rows as flat arrays; lengths and tables move on. Raises AssertionError if a stage has drifted."""
        rows = step.rows
        slots = np.array([row.slot for row in rows], np.int32)
        starts = np.array([row.start for row in rows], np.int32)
        num_tokens = np.array([row.num_tokens for row in rows], np.int32)
        self._check(slots, starts, np.array([row.rewind for row in rows]))
        for row in rows:
            if row.block_ids:
                self._extend(row.slot, row.block_ids)
        self.lengths[slots] = starts + num_tokens
        offsets = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(num_tokens, out=offsets[1:])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], num_tokens)
        positions = np.repeat(starts, num_tokens).astype(np.int64) + within
        return StepBatch(
            slots=slots + np.int32(self._first_slot),
            starts=starts,
            num_tokens=num_tokens,
            num_sampled=np.array([row.num_scored + row.num_sampled for row in rows], np.int32),
            offsets=offsets,
            block_tables=self._tables[slots, : int(self._num_blocks[slots].max())],
            positions=positions,
            token_ids=np.array(step.ids, np.int64) if step.ids else None,
            hidden=step.hidden,
            num_pooled=_num_pooled(step),
            token_types=self._token_types(slots, num_tokens, positions),
        )

    def _token_types(self, slots: _Ints, num_tokens: _Ints, positions: npt.NDArray[np.int64]) -> _Ints | None:
        """As `StepBatch` has it: most steps have no pairs."""
        seconds_at = self._seconds_at[slots]
        if not seconds_at.any():
            return None

        firsts = np.repeat(np.where(seconds_at, seconds_at, np.iinfo(np.int64).max), num_tokens)
        return (positions >= firsts).astype(np.int32)

    def _check(self, slots: _Ints, starts: _Ints, is_rewound: npt.NDArray[np.bool_]) -> None:
        """Each row begins where its slot is, or before that if it is rewound."""
        lengths = self.lengths[slots]
        drifted = np.flatnonzero(np.where(is_rewound, starts > lengths, starts != lengths))
        assert len(drifted) == 0, f"slots {slots[drifted]} are at {lengths[drifted]}, the plan says {starts[drifted]}"

    def _extend(self, slot: int, block_ids: list[int]) -> None:
        old = int(self._num_blocks[slot])
        self._tables[slot, old : old + len(block_ids)] = np.array(block_ids, np.int32) + self._first_block_id
        self._num_blocks[slot] = old + len(block_ids)


def _num_pooled(step: Step) -> _Ints | None:
    """As `StepBatch` has it: most steps pool nothing."""
    counts = [row.num_pooled for row in step.rows]
    return np.array(counts, np.int32) if any(counts) else None


class DrawnTokens:
    """The token drawn last for each slot, on a stage that is the first and the last one: steps of async scheduling
    continue from it."""

    def __init__(self, max_slots: int) -> None:
        self._ids = np.zeros(max_slots, np.int64)

    def fill_in(self, token_ids: npt.NDArray[np.int64], step: Step) -> None:
        """Put them in place of the -1 of rows that wait for one; such a row has one token."""
        unknown = token_ids < 0
        if unknown.any():
            counts = np.array([row.num_tokens for row in step.rows])
            slots = np.repeat(np.array([row.slot for row in step.rows], np.intp), counts)
            token_ids[unknown] = self._ids[slots[unknown]]

    def note(self, step: Step, result: StepResult) -> None:
        """The step was answered. A row that nothing could be drawn for gets no other."""
        slots = [row.slot for row in step.rows if row.num_sampled]
        if not slots:
            return

        ids = np.array(result.ids, np.int64)
        last = np.cumsum(result.num_ids) - 1 if result.num_ids else np.arange(len(slots))
        self._ids[slots] = np.maximum(ids[last], 0)
