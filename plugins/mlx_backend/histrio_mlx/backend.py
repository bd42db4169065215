"""A stage on MLX: a range of an mlx-lm model's layers over a pool of blocks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import ArrayNamespace, Progress, ReplicaSize, StageOutput, StageSpec, StepBatch
from histrio.messages import StageCapacity
from histrio_mlx.arrays import MlxArrays
from histrio_mlx.blocks import CallContext
from histrio_mlx.cache import StageCaches
from histrio_mlx.compat import modules_of
from histrio_mlx.devices import choose_device, limit_cache, measure
from histrio_mlx.groups import Group, make_groups
from histrio_mlx.loader import StageModel, load_stage
from histrio_mlx.splice import Parts
from histrio_mlx.traits import BLOCK_SIZES, capabilities, check_placement
from histrio_mlx.trial import DTYPE_NAMES, try_stage
from histrio_mlx.wire import from_wire, to_wire

__all__ = ["MlxStage", "RunningMlxStage", "open_stage"]

log = logging.getLogger(__name__)


class MlxStage:
    """Implements `histrio.contracts.backend.OpenedStage`; all calls from one thread, since MLX ties arrays to it."""

    def __init__(self, spec: StageSpec, loaded: Loaded, device: mx.Device) -> None:
        """Raises `DoesNotFit` where no rows or no blocks fit beside the weights."""
        self.xp: ArrayNamespace = MlxArrays(device)
        self.capacity = _capacity(spec, loaded, device)
        self._is_last = spec.is_last
        self._loaded = loaded
        self._is_open = True

    def allocate(self, size: ReplicaSize) -> RunningMlxStage:
        """Make the pools of blocks and the rows of states; the same sizes again keep them."""
        self._loaded.caches.allocate(size)
        return RunningMlxStage(self._loaded, size.block_size, is_last=self._is_last)

    def close(self) -> None:
        """Drop weights and blocks. Safe to call twice."""
        if self._is_open:
            self._is_open = False
            self._loaded.free()


class RunningMlxStage:
    """Implements `histrio.contracts.backend.RunningStage`: the layers over the pools of blocks."""

    def __init__(self, loaded: Loaded, block_size: int, *, is_last: bool) -> None:
        self._stage, self._caches = loaded.stage, loaded.caches
        self._most_rows = loaded.most_rows
        self._block_size = block_size
        self._is_last = is_last

    def step(self, batch: StepBatch) -> StageOutput:
        """Run the rows, in as few dense calls of the model as their lengths allow; nothing is left to be evaluated."""
        self._caches.reserve(int(batch.block_tables.max()))
        received = self._receive(batch)
        groups = make_groups(batch, self._block_size, self._most_rows)
        results = [self._run(group, received, batch) for group in groups]
        if not self._is_last:
            parts = _in_token_order(groups, results)
            mx.eval(parts, self._caches.arrays)
            return StageOutput([to_wire(part, name) for name, part in parts.items()])

        logits = _in_row_order(batch, groups, results)
        mx.eval([] if logits is None else [logits], self._caches.arrays)
        return StageOutput([], logits)

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks in all layers."""
        self._caches.copy(src, dst)

    def close_slot(self, slot: int) -> None:
        """A state row needs no clearing: a row that starts at 0 never reads it."""

    def _receive(self, batch: StepBatch) -> Parts | None:
        """What the stage before sent, [tokens, …] each; None on the first stage."""
        if batch.token_ids is not None:
            return None

        return {tensor.name: from_wire(tensor, self._stage.dtype) for tensor in batch.hidden}

    def _run(self, group: Group, received: Parts | None, batch: StepBatch) -> Parts | mx.array | None:
        """One call of the model. Lazy; None where its result is not read, but for what it stores."""
        relay = self._stage.relay
        context = CallContext(group, self._block_size)
        views = self._caches.views(context)
        inputs = _inputs(group, received, batch)
        result: Parts | mx.array | None
        if self._is_last and group.num_sampled.any():
            result = relay.run_model(inputs, views, mx.array(group.sampled.astype(np.int32)))
        else:
            parts = relay.run_layers(inputs, views)
            result = None if self._is_last else parts
        self._caches.commit(context, views)
        return result


@dataclass
class Loaded:
    """A range of layers with its weights, and what it stores."""

    stage: StageModel
    caches: StageCaches
    most_rows: int | None
    """Most rows of one call of the model; None for any number."""

    def free(self) -> None:
        """Drop weights and blocks."""
        _take_apart(self.stage)
        self.caches.free()


def open_stage(spec: StageSpec, progress: Progress) -> MlxStage:
    """Load the stage's weights. Raises `BackendError` for settings, `ModelError` for the model, with nothing kept."""
    if spec.threads is not None:
        log.warning("threads = %d has no effect: MLX chooses its threads itself", spec.threads)
    device = choose_device(spec.device)
    mx.set_default_device(device)
    family = check_placement(spec)
    if family is None:
        log.warning("%s: this family was never tested with mlx; it runs unsplit, one row at a time", spec.model)
    limit_cache(measure(device))
    is_splittable = family is not None and family.splittable
    stage = load_stage(spec, device, is_splittable=is_splittable, progress=progress)
    try:
        dry_run, caches = try_stage(stage, spec)
        is_batchable = family is not None and family.batchable and dry_run.can_batch(caches)
        return MlxStage(spec, Loaded(stage, caches, None if is_batchable else 1), device)
    except BaseException:
        _take_apart(stage)
        mx.clear_cache()
        raise


def _capacity(spec: StageSpec, loaded: Loaded, device: mx.Device) -> StageCapacity:
    budget, caches = measure(device), loaded.caches
    max_slots = budget.max_slots(caches.bytes_per_slot, spec)
    state_bytes = max_slots * caches.bytes_per_slot
    return StageCapacity(
        max_blocks=budget.max_blocks(caches.bytes_per_token, spec, BLOCK_SIZES, state_bytes),
        max_slots=max_slots,
        max_step_tokens=spec.sizes.max_num_tokens_per_batch,
        dtype=DTYPE_NAMES[loaded.stage.dtype],
        param_bytes=loaded.stage.param_bytes,
        block_bytes_per_token=caches.bytes_per_token,
        capabilities=list(capabilities(rewindable=not caches.bytes_per_slot)),
    )


def _take_apart(stage: StageModel) -> None:
    for module in modules_of(stage.model):
        module.clear()


def _inputs(group: Group, received: Parts | None, batch: StepBatch) -> mx.array | Parts:
    """Ids [rows, tokens], or received parts [rows, tokens, …], of one group."""
    shape = (group.num_rows, group.num_tokens)
    if received is None:
        assert batch.token_ids is not None
        return mx.array(batch.token_ids[group.tokens].astype(np.int32)).reshape(shape)

    tokens = mx.array(group.tokens.astype(np.int32))
    return {
        name: mx.take(part, tokens, axis=0).reshape(*shape, *part.shape[1:]) if part.size else part
        for name, part in received.items()
    }


def _in_token_order(groups: list[Group], results: list[Any]) -> Parts:
    """The parts [rows, tokens, …] of all groups as [tokens of the step, …]."""
    permutation = np.argsort(np.concatenate([group.tokens for group in groups]))
    return {name: _reorder([result[name] for result in results], permutation) for name in results[0]}


def _reorder(parts: list[mx.array], permutation: npt.NDArray[np.int64]) -> mx.array:
    if not parts[0].size:
        return parts[0]

    flat = mx.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])
    return _take(flat, permutation)


def _in_row_order(batch: StepBatch, groups: list[Group], results: list[Any]) -> mx.array | None:
    """Logits of all groups in the order of the step's rows."""
    sampled = [result for result in results if result is not None]
    if not sampled:
        return None

    firsts = np.cumsum(batch.num_sampled) - batch.num_sampled
    rows = [np.arange(firsts[row], firsts[row] + batch.num_sampled[row]) for group in groups for row in group.rows]
    return _take(mx.concatenate(sampled), np.argsort(np.concatenate(rows)))


def _take(array: mx.array, permutation: npt.NDArray[np.int64]) -> mx.array:
    is_ordered = bool((permutation == np.arange(len(permutation))).all())
    return array if is_ordered else mx.take(array, mx.array(permutation.astype(np.int32)), axis=0)
