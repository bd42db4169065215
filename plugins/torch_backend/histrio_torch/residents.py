"""Rows that decode step after step keep a copy of their keys and values in order, beside their pages.

Gathering the pages of a decode step writes and reads all of them once more than the products do: a quarter of the step
at 16 rows. When the same rows run again, only their new tokens are added to the copy. The pages stay the truth: a copy
is dropped as soon as one of its pages is written by anything but its own rows, and rebuilt from pages when
rows join, leave or outgrow it. All copies live in one arena of fixed size; rows without room there gather as before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histrio.backend import StepBatch
from histrio_torch.row_groups import MOST_SHARED_TOKENS, RowGroup

__all__ = ["Arena", "ResidentRows", "Residents"]

MOST_SETS = 8
"""Sets of rows remembered at once, the longest unused one is dropped; pipelines alternate between a few."""

IndexArray = npt.NDArray[np.int64]


class Arena:
    """Memory of a fixed size, touched once and then reused, so that no step waits for the system's pages."""

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
    """One set of rows that ran together."""

    pages: IndexArray
    """[rows, pages]"""
    num_pages: IndexArray
    ends: IndexArray
    """[rows] tokens that are in the copies."""
    capacity: int
    """Pages of each row in the copies; 0 until the set has run twice."""
    step: int = 0
    copies: dict[int, _Copy] = field(default_factory=dict)

    def continues(self, group: RowGroup, starts: IndexArray) -> bool:
        """Whether the group is the same rows, at most as far as the copies know them."""
        if len(self.ends) != group.num_rows or (starts > self.ends).any() or self.pages.shape[1] > group.pages.shape[1]:
            return False

        known = np.arange(self.pages.shape[1]) < self.num_pages[:, None]
        return bool((~known | (self.pages == group.pages[:, : self.pages.shape[1]])).all())


class Residents:
    """The sets of rows, the last used one first."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._sets: list[ResidentRows] = []
        self._num_running = 0

    def begin(self, batch: StepBatch, groups: list[RowGroup], written: IndexArray) -> list[ResidentRows | None]:
        """For each group its set, or None where it runs for the first time. `written`: [tokens] page of each token."""
        found: list[ResidentRows | None] = []
        for group in groups:
            found.append(self._find(batch, group, found))
        for known in list(self._sets):
            foreign = np.ones(len(written), np.bool_)
            if known in found:
                foreign[groups[found.index(known)].tokens] = False
            if np.isin(written[foreign], known.pages).any():
                self._drop(known)

        result = []
        for group, resident in zip(groups, found, strict=True):
            result.append(self._continue(batch, group, resident if resident in self._sets else None))
        self._num_running = len(groups)
        for known in self._sets[max(MOST_SETS, len(groups)) :]:
            self._drop(known)

        return result

    def forget(self, pages: list[int]) -> None:
        """The contents of these pages have changed."""
        for known in list(self._sets):
            if np.isin(pages, known.pages).any():
                self._drop(known)

    def copy_of(self, resident: ResidentRows, layer_index: int, num_values: int) -> tuple[Tensor, bool] | None:
        """Memory for a layer of the set, and whether it lacks only this step's tokens; None: no room.

        Makes room by dropping sets that don't run in this step.
        """
        known = resident.copies.get(layer_index)
        if known is not None:
            is_current = known.step == resident.step - 1
            known.step = resident.step
            return known.memory, is_current

        memory = self._arena.take(num_values)
        while memory is None and len(self._sets) > self._num_running:
            self._drop(self._sets[-1])
            memory = self._arena.take(num_values)
        if memory is None:
            return None

        resident.copies[layer_index] = _Copy(memory, resident.step)
        return memory, False

    def _find(self, batch: StepBatch, group: RowGroup, taken: list[ResidentRows | None]) -> ResidentRows | None:
        if group.num_queries > MOST_SHARED_TOKENS:
            return None

        starts = batch.starts[group.rows].astype(np.int64)
        return next((known for known in self._sets if known not in taken and known.continues(group, starts)), None)

    def _continue(self, batch: StepBatch, group: RowGroup, resident: ResidentRows | None) -> ResidentRows | None:
        if group.num_queries > MOST_SHARED_TOKENS:
            return None

        most_pages = group.pages.shape[1]
        is_known = resident is not None
        if resident is None:
            resident = ResidentRows(group.pages, group.num_pages, batch.starts[group.rows].astype(np.int64), 0)
        elif most_pages > resident.capacity:
            self._free(resident)
            resident.capacity = most_pages + max(1, most_pages // 16)

        resident.pages, resident.num_pages = group.pages, group.num_pages
        resident.ends = batch.starts[group.rows].astype(np.int64) + group.num_queries
        resident.step += 1
        self._sets = [resident, *(known for known in self._sets if known is not resident)]
        return resident if is_known else None

    def _drop(self, resident: ResidentRows) -> None:
        self._free(resident)
        self._sets.remove(resident)

    def _free(self, resident: ResidentRows) -> None:
        for known in resident.copies.values():
            self._arena.give_back(known.memory)
        resident.copies.clear()
