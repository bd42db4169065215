"""Stages of one model behind each other in one process, and the bookkeeping of pages that batching does elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histrio.backend import ReplicaSize, StageSpec, StepBatch
from histrio.messages import Tensor
from histrio_torch.backend import TorchStage

__all__ = ["ChainRow", "StageChain"]


@dataclass(frozen=True)
class ChainRow:
    """New tokens of one sequence in a step; the last `num_sampled` positions give logits."""

    slot: int
    ids: Sequence[int]
    num_sampled: int = 1


class StageChain:
    """`cuts` are the layers at which the model is split; no cut is one stage.

    Each slot's pages are taken from a shuffled pool, so that neighbouring pages belong to different sequences.
    """

    def __init__(self, model: str, num_layers: int, cuts: Sequence[int] = (), **settings: Any) -> None:
        bounds = [0, *cuts, num_layers]
        self.page_size = int(settings.pop("page_size", 16))
        self.num_pages = int(settings.pop("num_pages", 64))
        self.stages = [TorchStage() for _ in bounds[1:]]
        self.capacities = []
        for stage, first, last in zip(self.stages, bounds[:-1], bounds[1:], strict=True):
            spec = StageSpec(model, first, last, num_layers, **{"device": "cpu", "dtype": "float32", **settings})
            self.capacities.append(stage.open(spec, _no_progress))
            stage.allocate(ReplicaSize(self.num_pages, self.page_size, 64, 4096, 4096))
        self.disturb: Callable[[Tensor], Tensor] | None = None
        """Applied to what goes from stage to stage, for controls."""
        self._free = np.random.default_rng(0).permutation(self.num_pages).tolist()
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}

    def step(self, rows: Sequence[ChainRow]) -> Any:
        """Logits [sampled positions, vocab] of the last stage, or None where nothing is sampled."""
        batch = self._plan(rows)
        for stage in self.stages[:-1]:
            hidden = stage.step(batch).hidden
            batch.hidden = [self.disturb(tensor) for tensor in hidden] if self.disturb else hidden
            batch.token_ids = None
        return self.stages[-1].step(batch).logits

    def greedy(self, ids: Sequence[int], num_tokens: int, slot: int = 0) -> list[int]:
        """Continue one prompt by `num_tokens` most likely tokens, then leave the slot."""
        row = ChainRow(slot, ids)
        tokens: list[int] = []
        while len(tokens) < num_tokens:
            tokens.append(int(self.step([row])[0].argmax()))
            row = ChainRow(slot, [tokens[-1]])
        self.leave(slot)
        return tokens

    def leave(self, slot: int) -> None:
        """Give the slot's pages back."""
        self._free.extend(self._tables.pop(slot, []))
        self._lengths.pop(slot, None)

    def rewind(self, slot: int, length: int) -> None:
        """Forget the tokens behind `length`; their pages stay with the slot."""
        self._lengths[slot] = length

    def close(self) -> None:
        """Close all stages."""
        for stage in self.stages:
            stage.close()

    def _plan(self, rows: Sequence[ChainRow]) -> StepBatch:
        counts = np.array([len(row.ids) for row in rows], np.int32)
        starts = np.array([self._lengths.get(row.slot, 0) for row in rows], np.int32)
        for row, start in zip(rows, starts.tolist(), strict=True):
            self._grow(row.slot, start + len(row.ids))
        tables = [self._tables[row.slot] for row in rows]
        block_tables = np.zeros((len(rows), max(map(len, tables))), np.int32)
        for index, table in enumerate(tables):
            block_tables[index, : len(table)] = table
        return StepBatch(
            slots=np.array([row.slot for row in rows], np.int32),
            starts=starts,
            num_tokens=counts,
            num_sampled=np.array([row.num_sampled for row in rows], np.int32),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            block_tables=block_tables,
            positions=np.concatenate([np.arange(s, s + c) for s, c in zip(starts, counts, strict=True)]).astype(
                np.int64
            ),
            token_ids=np.concatenate([np.asarray(row.ids) for row in rows]).astype(np.int64),
            hidden=[],
        )

    def _grow(self, slot: int, length: int) -> None:
        table = self._tables.setdefault(slot, [])
        while len(table) * self.page_size < length:
            table.append(self._free.pop())
        self._lengths[slot] = length


def _no_progress(fraction: float, text: str) -> None:
    return None
