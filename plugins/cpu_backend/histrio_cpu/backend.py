"""A stage on the native library: a step is one call, on arrays that are handed over where they lie."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import Progress, ReplicaSize, StageOutput, StageSpec, StepBatch
from histrio.kit.memory import main_memory
from histrio.messages import StageCapacity
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio_cpu.abi import Batch
from histrio_cpu.library import NativeStage, load_library
from histrio_cpu.loader import StagePlan, load_stage, plan_stage
from histrio_cpu.traits import BLOCK_SIZES, CAPABILITIES
from histrio_cpu.wire import from_wire, to_wire

__all__ = ["CpuStage", "RunningCpuStage", "open_stage"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
_OWN_REFERENCES = 2
"""To an array that only its attribute holds, with the one that counts them."""


class CpuStage:
    """Implements `histrio.contracts.backend.OpenedStage`; all calls from one thread."""

    def __init__(self, plan: StagePlan, native: NativeStage) -> None:
        """Raises `DoesNotFit` where no blocks fit beside the weights."""
        spec = plan.spec
        self.xp = NumpyArrays()
        self.capacity = StageCapacity(
            max_blocks=main_memory().max_blocks(native.kv_bytes_per_token, spec, BLOCK_SIZES),
            max_slots=spec.sizes.max_batch_size,
            max_step_tokens=spec.sizes.max_num_tokens_per_batch,
            dtype=plan.dtype,
            param_bytes=native.weight_bytes + plan.mapped_bytes,
            block_bytes_per_token=native.kv_bytes_per_token,
            capabilities=list(CAPABILITIES),
        )
        self._native = native
        self._running = RunningCpuStage(plan, native)

    def allocate(self, size: ReplicaSize) -> RunningCpuStage:
        """Make the pool of blocks; the same sizes again keep it."""
        self._native.allocate(size.num_blocks, size.block_size)
        return self._running

    def close(self) -> None:
        """Free weights and blocks. Safe to call twice."""
        self._native.close()


class RunningCpuStage:
    """Implements `histrio.contracts.backend.RunningStage`: fills one prepared argument, step after step."""

    def __init__(self, plan: StagePlan, native: NativeStage) -> None:
        self._native = native
        self._hidden = plan.model.hidden
        self._vocab = plan.model.vocab
        self._is_last = plan.spec.is_last
        self._batch = Batch(struct_bytes=ctypes.sizeof(Batch))
        self._logits = np.empty((plan.spec.sizes.max_batch_size, self._vocab if self._is_last else 0), np.float32)
        """Used again and again; memory that is never written is never there."""

    def step(self, batch: StepBatch) -> StageOutput:
        """Run the rows; the library reads the batch's own arrays."""
        argument = self._batch
        starts, offsets, tables = _dense(batch.starts), _dense(batch.offsets), _dense(batch.block_tables)
        argument.num_rows, argument.num_tokens = batch.num_rows, batch.total_tokens
        argument.table_width = tables.shape[1]
        argument.starts, argument.offsets = _address(starts), _address(offsets)
        argument.block_tables = _address(tables)
        inputs = from_wire(batch.hidden[0]) if batch.token_ids is None else np.ascontiguousarray(batch.token_ids)
        argument.token_ids, argument.hidden_in = None, None
        if batch.token_ids is None:
            argument.hidden_in = _address(inputs)
        else:
            argument.token_ids = _address(inputs)
        return self._answer(batch) if self._is_last else self._hand_on()

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks in all layers."""
        self._native.copy_blocks(np.asarray(src, np.int32), np.asarray(dst, np.int32))

    def close_slot(self, slot: int) -> None:
        """Nothing is kept per slot."""

    def _hand_on(self) -> StageOutput:
        """Of a stage that others follow. Its result may be read after later steps, so it has memory of its own."""
        hidden = np.empty((self._batch.num_tokens, self._hidden), np.float32)
        self._batch.hidden_out = _address(hidden)
        self._native.step(self._batch)
        return StageOutput(hidden=[to_wire(hidden)])

    def _answer(self, batch: StepBatch) -> StageOutput:
        """Of the last stage."""
        argument = self._batch
        sampled = _trailing(batch, batch.num_sampled)
        logits = self._room_for_logits(len(sampled))
        argument.num_logits, argument.logit_tokens = len(sampled), _address(sampled)
        argument.logits = _address(logits)
        states, pooled = None, None
        argument.num_pooled = 0
        if batch.num_pooled is not None:
            pooled = _trailing(batch, batch.num_pooled)
            states = np.empty((len(pooled), self._hidden), np.float32)
            argument.num_pooled, argument.pooled_tokens = len(pooled), _address(pooled)
            argument.states = _address(states)
        self._native.step(argument)
        return StageOutput(hidden=[], logits=logits if len(sampled) else None, states=states)

    def _room_for_logits(self, num_positions: int) -> Floats:
        """The memory of the last step's logits, unless they are too small or still held; fresh memory costs more than
        the head, for each of its pages has to be cleared."""
        if num_positions <= len(self._logits) and sys.getrefcount(self._logits) <= _OWN_REFERENCES:
            return self._logits[:num_positions]

        return np.empty((num_positions, self._vocab), np.float32)


def open_stage(spec: StageSpec, progress: Progress) -> CpuStage:
    """Load the stage. Raises `BackendError` for settings, `ModelError` for the model, with nothing kept."""
    plan = plan_stage(spec)
    native = load_stage(plan, load_library(), progress)
    try:
        return CpuStage(plan, native)
    except BaseException:
        native.close()
        raise


def _trailing(batch: StepBatch, counts: Ints) -> Ints:
    return batch.trailing_tokens(counts).astype(np.int32)


def _dense(values: Ints) -> Ints:
    return np.ascontiguousarray(values, np.int32)


def _address(values: npt.NDArray[np.generic]) -> int:
    address: int = values.__array_interface__["data"][0]
    return address
