"""A stage on torch: a range of a transformers model's layers over a pool of pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histrio.contracts.backend import Progress, ReplicaSize, StageOutput, StageSpec, StepBatch
from histrio.errors import BackendError, UnsupportedModel
from histrio.kit.checkpoint import read_config
from histrio.messages import StageCapacity
from histrio_torch.arrays import TorchArrays
from histrio_torch.calls import hidden_arguments, run_layers, token_arguments
from histrio_torch.devices import choose_device, measure
from histrio_torch.dry_run import attending_modules
from histrio_torch.families import kv_cache_refusal
from histrio_torch.loader import StageModel, load_stage
from histrio_torch.pages import PagedCache
from histrio_torch.traits import CAPABILITIES, KV_CACHE_REMEDY, PAGE_SIZES
from histrio_torch.trial import trial_step
from histrio_torch.wire import from_wire, to_wire

__all__ = ["TorchStage"]


class TorchStage:
    """Implements `histrio.contracts.backend.StageBackend`; all calls from one thread."""

    def __init__(self) -> None:
        self.xp = TorchArrays(torch.device("cpu"))
        self._spec: StageSpec | None = None
        self._num_threads = 1
        self._stage: StageModel | None = None
        self._cache: PagedCache | None = None

    def open(self, spec: StageSpec, progress: Progress) -> StageCapacity:
        """Load the stage's weights. Raises `BackendError` for settings, `ModelError` for the model."""
        refusal = kv_cache_refusal(read_config(Path(spec.model)), spec.kv_cache_dtype)
        if refusal is not None:
            raise BackendError(f"{refusal}; {KV_CACHE_REMEDY}")

        usual = _usual_threads()
        self._num_threads = usual if spec.threads is None else spec.threads
        torch.set_num_threads(self._num_threads)
        device = choose_device(spec.device)
        self._spec, self.xp = spec, TorchArrays(device)
        self._stage = load_stage(spec, device, progress)
        self._cache = self._make_cache(self._stage)
        return StageCapacity(
            max_pages=measure(device).max_pages(self._cache.reserved_bytes_per_token, spec, PAGE_SIZES),
            max_rows=spec.max_rows,
            max_step_tokens=spec.max_step_tokens,
            dtype=str(self._stage.dtype).removeprefix("torch."),
            param_bytes=self._stage.param_bytes,
            page_bytes_per_token=self._cache.bytes_per_token,
            capabilities=list(CAPABILITIES),
        )

    def allocate(self, size: ReplicaSize) -> None:
        """Make the pool of pages; the same sizes again keep it."""
        assert self._cache is not None, "open() comes before allocate()"
        self._cache.allocate(size.num_pages, size.page_size)

    def step(self, batch: StepBatch) -> StageOutput:
        """Run the rows as one sequence [1, tokens]; attention tells them apart by their pages."""
        assert self._stage is not None, "open() comes before step()"
        assert self._cache is not None
        torch.set_num_threads(self._num_threads)  # another stage of this thread may have its own
        with torch.inference_mode():
            self._cache.begin(batch)
            inputs = self._inputs(batch)
            if not self._last:
                return StageOutput(hidden=[to_wire(run_layers(self._stage, inputs))])

            sampled = _sampled_tokens(batch)
            if not len(sampled):
                run_layers(self._stage, inputs)
                return StageOutput(hidden=[])

            return StageOutput(hidden=[], logits=self._run_model(inputs, sampled))

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy pages in all layers."""
        assert self._cache is not None, "open() comes before copy()"
        self._cache.copy(src, dst)

    def close_slot(self, slot: int) -> None:
        """Nothing is kept per slot."""

    def close(self) -> None:
        """Drop weights and pages. Safe to call twice."""
        if self._stage is None:
            return

        # Models are full of cycles; taking the modules apart frees the weights now, not at some later collection.
        for module in list(self._stage.model.modules()):
            vars(module).clear()
        is_cuda = self._stage.device.type == "cuda"
        self._stage = self._cache = None
        if is_cuda:
            torch.cuda.empty_cache()

    @property
    def _last(self) -> bool:
        assert self._spec is not None
        return self._spec.is_last

    def _make_cache(self, stage: StageModel) -> PagedCache:
        assert self._spec is not None
        try:
            shapes = trial_step(stage, self._spec)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UnsupportedModel(f"{type(stage.model).__name__} fails in a trial step: {error}") from error

        cache = PagedCache(shapes, stage.dtype, stage.device, is_int8=self._spec.kv_cache_dtype == "int8")
        for module in attending_modules(stage.model):
            vars(module)["histrio_cache"] = cache
        return cache

    def _inputs(self, batch: StepBatch) -> dict[str, Any]:
        assert self._stage is not None
        stage = self._stage
        positions = torch.from_numpy(batch.positions)[None].to(stage.device)
        if batch.token_ids is not None:
            return token_arguments(torch.from_numpy(batch.token_ids)[None].to(stage.device), positions)

        return hidden_arguments(stage, from_wire(batch.hidden[0], stage.dtype, stage.device)[None], positions)

    def _run_model(self, inputs: dict[str, Any], sampled: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
        assert self._stage is not None
        keep = torch.from_numpy(sampled).to(self._stage.device)
        logits: torch.Tensor = self._stage.model(**inputs, logits_to_keep=keep).logits
        return logits[0]


@cache
def _usual_threads() -> int:
    """What torch uses in a process in which no stage has asked for another number yet."""
    return torch.get_num_threads()


def _sampled_tokens(batch: StepBatch) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices, among the step's tokens, of the trailing positions that are sampled."""
    ends = batch.offsets[1:].astype(np.int64)
    counts = batch.num_sampled.astype(np.int64)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    indices: np.ndarray[tuple[int], np.dtype[np.int64]] = np.repeat(ends - counts, counts) + within
    return indices
