"""Backends with one known defect each, chosen by `--backend-option defect=NAME`; without one they are healthy.

The stage is the toy with its step written anew, so that a defect can sit anywhere in it. `variant` gives healthy ones
of other kinds: `own-ids` has blocks and rows that do not begin at 0, `limited` declares less and refuses the
rest, `single` runs one sequence at a time.
`DEFECTS` says which test of the kit has to find which defect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import (
    BackendFactory,
    Capability,
    OpenedStage,
    Probe,
    Progress,
    ReplicaSize,
    StageCapacity,
    StageOutput,
    StageSpec,
    StepBatch,
    Traits,
)
from histrio.contracts.hooks import hookimpl
from histrio.errors import BackendError, DoesNotFit
from histrio.kit.memory import memory_bytes
from histrio.messages import Tensor
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.testing import toy
from histrio.testing.models import MODELS

DEFECTS = {
    "argmax-from-the-end": "array_functions_mean_what_they_mean_on_numpy",
    "accepts-any-model": "a_foreign_architecture_is_refused_with_the_reason",
    "accepts-bad-ranges": "wrong_layer_ranges_are_refused",
    "accepts-unknown-options": "an_unknown_option_is_refused_by_name",
    "capacity-of-nothing": "capacity_is_sane",
    "clears-shared-blocks": "full_blocks_of_a_sequence_that_left_serve_another",
    "close-wipes-another": "closing_a_slot_leaves_the_others_alone",
    "closes-once": "closing_twice_is_safe",
    "copy-does-nothing": "a_copied_block_goes_its_own_way",
    "counts-layers-from-0": "every_split_equals_the_whole",
    "depends-on-batch-size": "ragged_rows_equal_single_rows",
    "epoch-keeps-copies": "a_start_on_a_living_stage_forgets_everything",
    "epoch-keeps-slots": "a_new_epoch_forgets_everything_and_computes_the_same",
    "epoch-keeps-tables": "a_start_on_a_living_stage_forgets_everything",
    "forgets-rewind": "rewound_tokens_leave_no_trace",
    "foretells-too-much": "supports_foretells_no_more_than_the_opened_stage_has",
    "foretells-other-weights": "supports_foretells_no_more_than_the_opened_stage_has",
    "ignores-starts": "chunked_prefill_equals_one_step",
    "ignores-its-share": "weights_beyond_their_share_of_memory_are_refused",
    "keeps-old-block-size": "every_block_size_on_offer_works",
    "lies-about-blocks": "more_blocks_than_memory_holds_are_refused",
    "logits-for-no-row": "what_is_not_sampled_gives_no_logits",
    "logits-in-wrong-order": "logits_come_for_sampled_rows_alone_and_in_order",
    "looks-at-decoding-first": "prefill_and_decode_share_a_step",
    "mixes-rows": "rows_join_and_leave_at_any_step",
    "one-position-only": "several_positions_of_a_row_give_logits",
    "one-row-per-block": "running_rows_share_their_first_blocks",
    "block-offset-off-by-one": "greedy_tokens_equal_the_reference",
    "positions-start-anew": "greedy_tokens_equal_the_reference",
    "progress-goes-back": "progress_goes_from_nothing_to_one",
    "reads-beyond-length": "greedy_tokens_equal_the_reference",
    "rejects-evenly": "rows_reject_their_drafts_unevenly",
    "remembers-one-step": "two_micro_batches_in_flight_keep_apart",
    "reuses-buffer": "what_a_step_returned_is_left_alone_by_the_next",
    "sampled-off-by-one": "several_positions_of_a_row_give_logits",
    "short-tables": "a_sequence_may_be_as_long_as_asked_for",
    "slot-state-stays": "reused_blocks_and_slots_show_nothing_of_their_past",
    "sorts-rows": "the_order_of_rows_does_not_matter",
    "stale-blocks-visible": "reused_blocks_and_slots_show_nothing_of_their_past",
    "states-for-no-row": "a_step_that_wants_none_gives_no_states",
    "states-in-wrong-order": "states_of_a_batch_equal_those_alone",
    "states-know-chunks": "states_of_chunks_equal_those_of_one_step",
    "states-know-cuts": "states_of_every_split_equal_the_whole",
    "state-named-wrongly": "the_hidden_state_is_one_dense_tensor_per_token",
    "table-of-next-row": "ragged_rows_equal_single_rows",
}
"""Defect → a test that finds it."""

DEFECTS_OF_THE_SINGLE = {
    "slot-state-stays": "one_sequence_after_the_other_needs_no_batch",
}
"""The same, on the variant that runs one sequence at a time."""

DEFECTS_OF_THE_LIMITED = {
    "refuses-nothing": "several_positions_are_refused_where_not_declared",
    "refuses-too-late": "a_rewind_is_refused_where_not_declared",
}
"""And on the variant that can neither rewind nor give several positions."""

DEFECTS_IN_PROCESSES = {
    "argmax-from-the-end": "array_functions_mean_what_they_mean_on_numpy",
    "progress-goes-back": "progress_goes_from_nothing_to_one",
    "reuses-buffer": "two_micro_batches_in_flight_keep_apart",
}
"""And where every stage has a process of its own."""

_Ints = npt.NDArray[np.int64]
_PARAM_BYTES = 8


class BrokenFactory:
    """Not registered: `--backend broken_backend:BrokenFactory`."""

    name = "broken"
    traits = Traits(contract=2)

    def probe(self) -> Probe:
        return toy.ToyFactory().probe()

    def supports(self, spec: StageSpec) -> Probe:
        probe = msgspec.structs.replace(toy.ToyFactory().supports(spec), capabilities=[])
        model = Path(spec.model).name
        match spec.options.get("defect"):
            case "accepts-bad-ranges" if model == "toy":
                return Probe(available=True)
            case "accepts-any-model" if model not in MODELS:
                return Probe(available=True)
            case "foretells-too-much":
                return msgspec.structs.replace(probe, capabilities=[Capability.ADAPTERS])
            case "foretells-other-weights":
                return msgspec.structs.replace(probe, weight_bytes=_PARAM_BYTES + 1)
            case _:
                return probe

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        return BrokenStage(spec, progress)


class BoastfulFactory(BrokenFactory):
    """Claims in its traits what only an opened stage can know."""

    traits = Traits(contract=2, capabilities=[Capability.REWIND])


class RegisteredFactory(BrokenFactory):
    """For processes that find backends by their entry points."""

    name = "broken-registered"


class SeparateFactory(BrokenFactory):
    """Healthy, and every stage needs a process of its own."""

    traits = Traits(contract=2, capabilities=[Capability.ONE_STAGE_PER_PROCESS])


class FromTheEnd(NumpyArrays):
    """Counts from the wrong end."""

    def argmax(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return super().argmax(array[:, ::-1])


class BrokenStage(toy.ToyStage):
    """The toy stage with the chosen defect."""

    latest_slots: ClassVar[list[int]] = []
    """Of the step that a first stage computed last."""

    def __init__(self, spec: StageSpec, progress: Progress) -> None:
        options = dict(spec.options)
        self.defect = options.pop("defect", None)
        self.variant = options.pop("variant", None)
        if self.defect == "accepts-unknown-options":
            options = {}
        if self.defect == "progress-goes-back":
            progress(0.9, "nearly there")
            progress(0.1, "or not")
        if spec.memory.param_mem_ratio * memory_bytes() < _PARAM_BYTES and self.defect != "ignores-its-share":
            raise DoesNotFit("the weights of the broken backend")
        self.num_closed = 0
        self.buffer = np.zeros(4096, np.int64)
        self.sums: dict[int, int] = {}
        self.longest: dict[int, int] = {}
        self.tables: dict[int, list[int]] = {}
        self.copies: list[tuple[list[int], list[int]]] = []
        self.owners: dict[int, int] = {}
        self.first = 3 if self.variant == "own-ids" else 0
        super().__init__(msgspec.structs.replace(spec, options=options), progress)
        if self.defect == "argmax-from-the-end":
            self.xp = FromTheEnd()
        self.capacity = msgspec.structs.replace(self.capacity, **self._changed_capacity(spec, self.capacity))

    def allocate(self, size: ReplicaSize) -> Self:
        if self.defect == "keeps-old-block-size" and self._blocks.size:
            return self

        super().allocate(msgspec.structs.replace(size, num_blocks=size.num_blocks + self.first))
        self.longest, self.owners = {}, {}
        if self.defect != "epoch-keeps-tables":
            self.tables = {}
        if self.defect != "epoch-keeps-copies":
            self.copies = []
        if self.defect != "epoch-keeps-slots":
            self.sums = {}
        if self.defect == "stale-blocks-visible":
            self._blocks[:] = 0
        return self

    def step(self, batch: StepBatch) -> StageOutput:
        self._refuse(batch)
        for src, dst in self.copies:
            super().copy(src, dst)
        self.copies = []
        self._count_sequences(batch)
        told, batch = batch, self._changed_batch(batch)
        self.longest |= dict(zip(told.slots.tolist(), (told.starts + told.num_tokens).tolist(), strict=True))
        states = self._states(batch)
        if not self._spec.is_last:
            return StageOutput([self._tensor(states)])

        sampled, pooled = self._sampled_tokens(batch), self._pooled(batch, states)
        if len(sampled) == 0 and self.defect != "logits-for-no-row":
            return StageOutput([], states=pooled)

        logits = toy.logits_of(states[sampled], self._vocab_size)
        return StageOutput([], logits[::-1] if self.defect == "logits-in-wrong-order" else logits, pooled)

    def copy(self, src: list[int], dst: list[int]) -> None:
        """With the next step."""
        if self.defect != "copy-does-nothing":
            self.copies.append((src, dst))

    def close_slot(self, slot: int) -> None:
        if self.defect == "close-wipes-another":
            self._blocks[:, self.tables.get(slot + 1, [])] = 0
        if self.defect != "slot-state-stays":
            self.sums.pop(slot, None)
        self.longest.pop(slot, None)
        self.tables.pop(slot, None)

    def close(self) -> None:
        self.num_closed += 1
        if self.defect == "closes-once" and self.num_closed > 1:
            raise RuntimeError("closed already")
        super().close()

    def _changed_capacity(self, spec: StageSpec, capacity: StageCapacity) -> dict[str, Any]:
        changes: dict[str, Any] = {"param_bytes": _PARAM_BYTES}
        if self.variant == "own-ids":
            changes |= {"first_block_id": self.first, "first_slot": 2}
        if self.variant == "single":
            changes |= {"capabilities": []}
        if self.variant == "limited":
            changes |= {"capabilities": [Capability.BATCH]}
        if self.defect == "lies-about-blocks" and spec.sizes.num_cache_blocks is not None:
            changes |= {"max_blocks": dict.fromkeys(capacity.max_blocks, spec.sizes.num_cache_blocks)}
        if self.defect == "capacity-of-nothing":
            changes |= {"param_bytes": -1}
        return changes

    def _pooled(self, batch: StepBatch, states: _Ints) -> npt.NDArray[np.float32] | None:
        if batch.num_pooled is None:
            return toy.states_of(states) if self.defect == "states-for-no-row" else None

        starts = np.repeat(batch.starts, batch.num_tokens)
        pooled = toy.trailing(batch, batch.num_pooled)
        match self.defect:
            case "states-in-wrong-order":
                pooled = pooled[::-1]
            case "states-know-chunks":
                states = states + starts
            case "states-know-cuts" if not self._spec.is_first:
                states = states + 1
        return toy.states_of(states[pooled])

    def _refuse(self, batch: StepBatch) -> None:
        """The variants that can do less keep lengths, to see a rewind."""
        if self.variant not in ("limited", "single"):
            return

        rewinds = any(0 < start < self.longest.get(slot, 0) for slot, start in _rows(batch))
        if (rewinds or batch.num_sampled.max() > 1) and self.defect != "refuses-nothing":
            if self.defect == "refuses-too-late":
                self._states(batch)
            raise BackendError("neither rewinds nor several positions")

    def _count_sequences(self, batch: StepBatch) -> None:
        """What a slot that is never reset would bring into its next sequence."""
        self.past = np.zeros(batch.num_rows, np.int64)
        for row, (slot, start) in enumerate(_rows(batch)):
            if start == 0 and self.defect in ("slot-state-stays", "epoch-keeps-slots"):
                self.past[row] = self.sums.get(slot, 0)
                self.sums[slot] = self.sums.get(slot, 0) + 1

    def _changed_batch(self, batch: StepBatch) -> StepBatch:
        """What the stage believes it was told."""
        starts, tables, within = batch.starts, batch.block_tables, np.repeat(batch.starts, batch.num_tokens)
        match self.defect:
            case "ignores-starts":
                return replace(batch, starts=np.zeros_like(starts), positions=batch.positions - within)
            case "table-of-next-row":
                return replace(batch, block_tables=np.roll(tables, -1, axis=0))
            case "epoch-keeps-tables":
                return replace(batch, block_tables=self._known_tables(batch))
            case "short-tables":
                return replace(batch, block_tables=np.where(np.arange(tables.shape[1]) < 48, tables, tables[:, :1]))
            case "forgets-rewind":
                return self._ahead(batch, [self._rewound(slot, start) for slot, start in _rows(batch)])
            case "rejects-evenly":
                back = [self._rewound(slot, start) for slot, start in _rows(batch)]
                return self._ahead(batch, [each - min(back) for each in back])
            case _:
                return batch

    def _known_tables(self, batch: StepBatch) -> npt.NDArray[np.int32]:
        """[rows, blocks] of slots that go on, the blocks they had when they began; the others as they are told."""
        tables = batch.block_tables.copy()
        for row, (slot, start) in enumerate(_rows(batch)):
            known = self.tables.get(slot, []) if start else []
            tables[row, : len(known)] = known[: tables.shape[1]]
        return tables

    def _rewound(self, slot: int, start: int) -> int:
        """By how many tokens a row goes back."""
        return max(0, self.longest.get(slot, 0) - start) if start else 0

    def _ahead(self, batch: StepBatch, num_tokens: list[int]) -> StepBatch:
        """Each row so many positions further than it was told."""
        most = batch.block_tables.shape[1] * self._blocks.shape[2] - 1
        return replace(batch, positions=np.minimum(batch.positions + np.repeat(num_tokens, batch.num_tokens), most))

    def _states(self, batch: StepBatch) -> _Ints:
        positions = batch.positions
        if batch.token_ids is not None:
            BrokenStage.latest_slots = batch.slots.tolist()
            states = toy.embed(batch.token_ids, positions % 16 if self.defect == "positions-start-anew" else positions)
        else:
            states = np.frombuffer(batch.hidden[0].data, np.int64).reshape(batch.hidden[0].shape)[:, 0]
            if self.defect == "remembers-one-step" and batch.slots.tolist() != self.latest_slots:
                states = states + 1
        for layer in range(self._spec.first_layer, self._spec.last_layer):
            states = self._broken_layer(layer, states, batch)
        return states

    def _broken_layer(self, layer: int, states: _Ints, batch: StepBatch) -> _Ints:
        blocks = self._blocks[layer - self._spec.first_layer]
        named = layer - self._spec.first_layer if self.defect == "counts-layers-from-0" else layer
        result = np.empty_like(states)
        sources = np.argsort(batch.slots) if self.defect == "sorts-rows" else np.arange(batch.num_rows)
        for row, source in zip(range(batch.num_rows), sources, strict=True):
            own = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
            positions, table = batch.positions[own], batch.block_tables[row]
            self._touch(batch, row, blocks, table)
            blocks[table[positions // blocks.shape[1]], positions % blocks.shape[1]] = states[own]
            cached = self._read(blocks, batch.block_tables[source], int(positions[-1]) + 1)
            result[own] = toy.mix(named, states[own], cached, np.minimum(positions, len(cached) - 1))
            result[own] += self._leak(batch, row, states)
        return result

    def _touch(self, batch: StepBatch, row: int, blocks: _Ints, table: npt.NDArray[np.int32]) -> None:
        """What some do to blocks before they are written."""
        slot, start = int(batch.slots[row]), int(batch.starts[row])
        used = table[: -(-(start + int(batch.num_tokens[row])) // blocks.shape[1])].tolist()
        if self.defect == "clears-shared-blocks" and start > 0 and slot not in self.tables:
            blocks[used] = 0
        if self.defect == "one-row-per-block":
            taken = [block for block in used if self.owners.get(block, slot) != slot and start > 0]
            blocks[taken] = 0
            self.owners |= dict.fromkeys(used, slot)
        if start == 0 or slot not in self.tables:
            self.tables[slot] = used

    def _read(self, blocks: _Ints, table: npt.NDArray[np.int32], length: int) -> _Ints:
        """[length] what the row has in its blocks."""
        block_size = blocks.shape[1]
        positions = np.arange(length)
        if self.defect == "reads-beyond-length" and length % block_size:
            positions = np.append(positions[:-1], length)
        if self.defect == "block-offset-off-by-one":
            moved: _Ints = blocks[table[positions // block_size], (positions + 1) % block_size]
            return moved
        cached: _Ints = blocks[table[positions // block_size], positions % block_size]
        if self.defect == "stale-blocks-visible":
            cached = cached.copy()
            cached[-1] += blocks[table[(length - 1) // block_size], (length - 1) % block_size + 1 :].sum()
        return cached

    def _leak(self, batch: StepBatch, row: int, states: _Ints) -> int:
        """What gets into a row that is not its own."""
        match self.defect:
            case "mixes-rows":
                return int(states[0]) if row > 0 else 0
            case "depends-on-batch-size":
                return 1 if batch.num_rows > 4 else 0
            case "looks-at-decoding-first":
                return 1 if batch.num_tokens[row] == 1 < batch.num_tokens.max() else 0
            case _:
                return int(self.past[row])

    def _sampled_tokens(self, batch: StepBatch) -> _Ints:
        """Indices of the sampled tokens."""
        counts = batch.num_sampled
        off = 1 if self.defect == "sampled-off-by-one" else 0
        if self.defect == "one-position-only":
            repeated = [np.full(count, end - 1) for end, count in zip(batch.offsets[1:], counts, strict=True)]
            return np.concatenate(repeated).astype(np.int64)
        spans = [
            np.arange(end - count, end) - (off if count > 1 else 0)
            for end, count in zip(batch.offsets[1:], counts, strict=True)
        ]
        return np.concatenate(spans).astype(np.int64)

    def _tensor(self, states: _Ints) -> Tensor:
        if self.defect == "reuses-buffer":
            self.buffer[: len(states)] = states
            states = self.buffer[: len(states)]
        name = "states" if self.defect == "state-named-wrongly" else ""
        return Tensor("int64", (len(states), 1), np.ascontiguousarray(states).data, name)


def _rows(batch: StepBatch) -> list[tuple[int, int]]:
    """Slot and start of each row."""
    return list(zip(batch.slots.tolist(), batch.starts.tolist(), strict=True))


@hookimpl
def register_backends(register: Callable[[BackendFactory], None]) -> None:
    register(RegisteredFactory())
