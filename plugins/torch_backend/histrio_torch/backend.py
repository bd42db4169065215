"""A stage on torch: a range of a transformers model's layers over a pool of blocks."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from histrio.contracts.backend import Progress, ReplicaSize, StageOutput, StageSpec, StepBatch
from histrio.errors import BackendError, UnsupportedModel
from histrio.kit.checkpoint import read_config
from histrio.kit.cores import num_cores
from histrio.messages import StageCapacity
from histrio_torch.arrays import TorchArrays
from histrio_torch.blocks import PagedCache
from histrio_torch.calls import hidden_arguments, kept_states, run_layers, scored, token_arguments
from histrio_torch.devices import choose_device, measure
from histrio_torch.dry_run import attending_modules
from histrio_torch.families import kv_cache_refusal
from histrio_torch.loader import StageModel, load_stage
from histrio_torch.traits import BLOCK_SIZES, KV_CACHE_REMEDY, capabilities_of
from histrio_torch.trial import trial_step
from histrio_torch.wire import from_wire, to_wire

__all__ = ["RunningTorchStage", "TorchStage", "open_stage"]

Ints = npt.NDArray[np.int32]


class TorchStage:
    """Implements `histrio.contracts.backend.OpenedStage`; all calls from one thread."""

    def __init__(self, spec: StageSpec, stage: StageModel, cache: PagedCache) -> None:
        """Raises `DoesNotFit` where no blocks fit beside the weights."""
        self.xp = TorchArrays(stage.device)
        self.capacity = StageCapacity(
            max_blocks=measure(stage.device).max_blocks(cache.reserved_bytes_per_token, spec, BLOCK_SIZES),
            max_slots=spec.sizes.max_batch_size,
            max_step_tokens=spec.sizes.max_num_tokens_per_batch,
            dtype=str(stage.dtype).removeprefix("torch."),
            param_bytes=stage.param_bytes,
            block_bytes_per_token=cache.bytes_per_token,
            capabilities=list(capabilities_of(read_config(Path(spec.model)))),
        )
        self._running = RunningTorchStage(spec, stage, cache)
        self._is_open = True

    def allocate(self, size: ReplicaSize) -> RunningTorchStage:
        """Make the pool of blocks; the same sizes again keep it."""
        self._running.cache.allocate(size.num_blocks, size.block_size)
        return self._running

    def close(self) -> None:
        """Drop weights and blocks. Safe to call twice."""
        if not self._is_open:
            return

        self._is_open = False
        stage = self._running.stage
        _take_apart(stage)
        self._running.cache.free()
        if stage.device.type == "cuda":
            torch.cuda.empty_cache()


class RunningTorchStage:
    """Implements `histrio.contracts.backend.RunningStage`: the layers over the pool of blocks."""

    def __init__(self, spec: StageSpec, stage: StageModel, cache: PagedCache) -> None:
        self.stage = stage
        self.cache = cache
        self._is_last = spec.is_last
        self._num_threads = _usual_threads() if spec.threads is None else spec.threads

    def step(self, batch: StepBatch) -> StageOutput:
        """Run the rows as one sequence [1, tokens]; attention tells them apart by their blocks."""
        torch.set_num_threads(self._num_threads)  # another stage of this thread may have its own
        with torch.inference_mode():
            self.cache.begin(batch)
            inputs = self._inputs(batch)
            if not self._is_last:
                return StageOutput(hidden=[to_wire(run_layers(self.stage, inputs))])

            return self._answer(inputs, batch)

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks in all layers."""
        self.cache.copy(src, dst)

    def close_slot(self, slot: int) -> None:
        """Nothing is kept per slot."""

    def give_back(self) -> None:
        """Free the copies of rows that ran."""
        self.cache.give_back()

    def _inputs(self, batch: StepBatch) -> dict[str, Any]:
        stage = self.stage
        positions = torch.from_numpy(batch.positions)[None].to(stage.device)
        if batch.token_ids is not None:
            return token_arguments(torch.from_numpy(batch.token_ids)[None].to(stage.device), positions)

        return hidden_arguments(stage, from_wire(batch.hidden[0], stage.dtype, stage.device)[None], positions)

    def _answer(self, inputs: dict[str, Any], batch: StepBatch) -> StageOutput:
        """Of the last stage: the head is not computed where no row samples."""
        sampled = self._trailing(batch, batch.num_sampled)
        with kept_states(self.stage, is_asked=batch.num_pooled is not None) as kept:
            logits = self.stage.model(**inputs, logits_to_keep=sampled).logits[0] if len(sampled) else None
            if logits is None:
                kept.append(run_layers(self.stage, inputs))
        if batch.num_pooled is None:
            return StageOutput(hidden=[], logits=logits)

        states = kept[0][self._trailing(batch, batch.num_pooled)]
        return StageOutput(hidden=[], logits=logits, states=scored(self.stage, states))

    def _trailing(self, batch: StepBatch, counts: Ints) -> torch.Tensor:
        return torch.from_numpy(batch.trailing_tokens(counts)).to(self.stage.device)


def open_stage(spec: StageSpec, progress: Progress) -> TorchStage:
    """Load the stage's weights. Raises `BackendError` for settings, `ModelError` for the model, with nothing kept."""
    refusal = kv_cache_refusal(read_config(Path(spec.model)), spec.memory.kv_cache_dtype)
    if refusal is not None:
        raise BackendError(f"{refusal}; {KV_CACHE_REMEDY}")

    usual = _usual_threads()
    torch.set_num_threads(usual if spec.threads is None else spec.threads)
    stage = load_stage(spec, choose_device(spec.device), progress)
    try:
        return TorchStage(spec, stage, _make_cache(stage, spec))
    except BaseException:
        _take_apart(stage)
        raise


def _make_cache(stage: StageModel, spec: StageSpec) -> PagedCache:
    try:
        shapes = trial_step(stage, spec)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UnsupportedModel(f"{type(stage.model).__name__} fails in a trial step: {error}") from error

    cache = PagedCache(shapes, stage.dtype, stage.device, is_int8=spec.memory.kv_cache_dtype == "int8")
    for module in attending_modules(stage.model):
        vars(module)["histrio_cache"] = cache
    return cache


def _take_apart(stage: StageModel) -> None:
    """Models are full of cycles; taking the modules apart frees the weights now, not at some later collection."""
    for module in list(stage.model.modules()):
        vars(module).clear()


@cache
def _usual_threads() -> int:
    """What torch uses in a process in which no stage has asked for another number yet; torch knows nothing of a
    container's share of the processor."""
    usual = torch.get_num_threads()
    return usual if "OMP_NUM_THREADS" in os.environ else min(usual, num_cores())
