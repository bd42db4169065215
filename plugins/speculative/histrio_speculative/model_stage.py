"""A small model as a whole on one stage backend: rows in, logits out."""

from __future__ import annotations

import msgspec

from histrio.contracts.backend import Array, ArrayNamespace, BackendFactory, Capability, StageSpec
from histrio.errors import BackendError, DoesNotFit
from histrio.messages import ReplicaSize, Row, StageCapacity, Step
from histrio.replica.sizing import SizeLimits, fit
from histrio.stage.slots import SlotTable

__all__ = ["BLOCK_SIZE", "ModelStage"]

BLOCK_SIZE = 16
"""Tokens per block that are asked for."""
_TOKENS_PER_ROW = 512
"""Tokens of the cache for each row, where no option sets its size; a longer sequence takes what others leave."""
_NEEDED = {
    Capability.BATCH: "it runs one sequence at a time",
    Capability.REWIND: "it cannot take back tokens that did not come true",
}


class ModelStage:
    """Opens the backend, which loads the weights. All calls come from one thread.

    Raises `BackendError` for a backend that cannot draft, `DoesNotFit` where `num_cache_tokens` are too many, and what
    the backend raises. The backend is closed then.
    """

    def __init__(self, factory: BackendFactory, spec: StageSpec, num_cache_tokens: int | None) -> None:
        self._stage = factory.open(spec, lambda _share, _text: None)
        capacity = self._stage.capacity
        try:
            self.size = _size(spec, capacity, num_cache_tokens)
            self._running = self._stage.allocate(self.size)
        except BaseException:
            self._stage.close()
            raise
        self._first_slot = capacity.first_slot
        max_blocks = -(-spec.max_sequence_length // self.size.block_size)
        self._table = SlotTable(self.size.max_slots, max_blocks, capacity.first_slot, capacity.first_block_id)
        self._num_steps = 0

    @property
    def xp(self) -> ArrayNamespace:
        """The array functions for its logits."""
        return self._stage.xp

    def open_slot(self, slot: int) -> None:
        """A sequence takes the slot."""
        self._table.open(slot)

    def close_slot(self, slot: int) -> None:
        """The slot is free."""
        self._running.close_slot(slot + self._first_slot)

    def run(self, rows: list[Row], ids: list[int]) -> Array | None:
        """Compute the rows, whose tokens are `ids`; logits [rows that sample, vocab], None where none does."""
        self._num_steps += 1
        return self._running.step(self._table.batch(Step(self._num_steps, 0, rows, ids))).logits

    def close(self) -> None:
        """Free everything. Safe to call twice."""
        self._stage.close()


def _size(spec: StageSpec, capacity: StageCapacity, num_cache_tokens: int | None) -> ReplicaSize:
    """As many blocks as were asked for, or as are useful."""
    for capability, reason in _NEEDED.items():
        if capability not in capacity.capabilities:
            raise BackendError(f"this backend cannot draft with the model {spec.model}: {reason}; choose another one")

    sizes = msgspec.structs.replace(spec.sizes, num_cache_blocks=None)
    most = fit(SizeLimits(sizes, spec.max_sequence_length), [capacity])
    num_tokens = num_cache_tokens or max(_TOKENS_PER_ROW * most.max_slots, spec.max_sequence_length)
    num_blocks = -(-num_tokens // most.block_size)
    num_fitting = capacity.max_blocks[most.block_size]
    if num_cache_tokens is not None and num_blocks > num_fitting:
        raise DoesNotFit(
            f"drafter-options.num-cache-tokens asks for {num_cache_tokens} tokens, and "
            f"{num_fitting * most.block_size} fit beside the weights of {spec.model}"
        )
    return msgspec.structs.replace(most, num_blocks=min(num_blocks, num_fitting))
