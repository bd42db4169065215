"""A stage on SGLang's model runner: a range of a model's layers over SGLang's own pool of pages."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np
import torch

from histrio.contracts.backend import Progress, ReplicaSize, StageCapacity, StageOutput, StageSpec, StepBatch
from histrio.errors import BackendError
from histrio.kit.checkpoint import read_config, stage_dtype
from histrio_sglang.families import check_model
from histrio_sglang.options import DEFAULT_PAGE_SIZE, StageOptions, read_options
from histrio_sglang.traits import CAPABILITIES
from histrio_sglang.versions import check_version
from histrio_sglang.weights import link_model, weight_bytes
from histrio_torch.arrays import TorchArrays
from histrio_torch.devices import choose_device, measure
from histrio_torch.wire import from_wire, to_wire

if TYPE_CHECKING:
    from histrio_sglang.batch import RowTable
    from histrio_sglang.runner import RangeRunner

__all__ = ["RunningSglangStage", "SglangStage", "open_stage"]

_FIRST_ID = 1
"""SGLang keeps page 0 and row 0 for padding."""


class SglangStage:
    """Implements `histrio.contracts.backend.OpenedStage`; all calls from one thread, one stage per process."""

    of_process: ClassVar[SglangStage | None] = None
    """SGLang keeps its configuration and its groups per process."""

    def __init__(self, spec: StageSpec, runner: RangeRunner, device: torch.device, page_size: int) -> None:
        """Raises `DoesNotFit` where no pages fit beside the weights."""
        self.xp = TorchArrays(device)
        self.capacity = StageCapacity(
            max_blocks=measure(device).max_blocks(runner.token_bytes, spec, [page_size]),
            max_slots=spec.sizes.max_batch_size,
            max_step_tokens=spec.sizes.max_num_tokens_per_batch,
            dtype=str(runner.dtype).removeprefix("torch."),
            param_bytes=runner.param_bytes,
            block_bytes_per_token=runner.token_bytes,
            first_block_id=_FIRST_ID,
            first_slot=_FIRST_ID,
            capabilities=list(CAPABILITIES),
        )
        self._spec, self._runner, self._device = spec, runner, device

    def allocate(self, size: ReplicaSize) -> RunningSglangStage:
        """Make the pool of pages; the same sizes again keep it."""
        return RunningSglangStage(self._spec, self._runner, self._runner.allocate(size), self._device)

    def close(self) -> None:
        """Free weights and pages. Safe to call twice."""
        if SglangStage.of_process is self:
            SglangStage.of_process = None
            self._runner.close()


class RunningSglangStage:
    """Implements `histrio.contracts.backend.RunningStage`: the layers over SGLang's pool of pages."""

    def __init__(self, spec: StageSpec, runner: RangeRunner, rows: RowTable, device: torch.device) -> None:
        self._spec, self._runner, self._rows, self._device = spec, runner, rows, device

    def step(self, batch: StepBatch) -> StageOutput:
        """Run all rows through the layers."""
        with torch.no_grad():
            hidden = None
            if not self._spec.is_first:
                hidden = from_wire(batch.hidden[0], self._runner.dtype, self._device)
            output = self._runner.run(self._rows, batch, hidden)
            if not self._spec.is_last:
                return StageOutput([to_wire(_summed(output))])

            return StageOutput([], self._logits(batch, output))

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy pages in all layers."""
        self._runner.copy(src, dst)

    def close_slot(self, slot: int) -> None:
        """Nothing is kept per slot that the next step does not correct."""

    def _logits(self, batch: StepBatch, output: Any) -> torch.Tensor | None:
        """[sum(num_sampled), vocab]. SGLang gives the last position of every row; others go through its head again."""
        if not batch.num_sampled.any():
            return None

        if batch.num_sampled.max() == 1:
            rows = torch.from_numpy(np.flatnonzero(batch.num_sampled)).to(self._device)
            last: torch.Tensor = output.next_token_logits[rows]
            return last

        spans = zip(batch.offsets[1:], batch.num_sampled, strict=True)
        sampled = np.concatenate([np.arange(end - count, end) for end, count in spans])
        return self._runner.head(output.hidden_states[torch.from_numpy(sampled).to(self._device)])


def open_stage(spec: StageSpec, progress: Progress) -> SglangStage:
    """Load the stage's weights. Raises `BackendError` for settings, `ModelError` for the model, with nothing kept."""
    options = read_options(spec.options)
    if options.page_size == 0:
        options = msgspec.structs.replace(options, page_size=spec.sizes.kv_block_size or DEFAULT_PAGE_SIZE)
    check_version(force=options.force_version)
    if spec.adapter is not None:
        raise BackendError("the sglang backend applies no adapters; merge the adapter into the weights")

    if SglangStage.of_process is not None:
        raise BackendError("this process has a stage of the sglang backend already; SGLang has room for one")

    device = choose_device(spec.device)
    runner = _load(spec, options, device, progress)
    try:
        SglangStage.of_process = SglangStage(spec, runner, device, options.page_size)
    except BaseException:
        runner.close()
        raise
    return SglangStage.of_process


def _load(spec: StageSpec, options: StageOptions, device: torch.device, progress: Progress) -> RangeRunner:
    check_model(read_config(Path(spec.model)))
    dtype = stage_dtype(spec, on_cpu=device.type == "cpu")
    measure(device).check_weights(weight_bytes(spec, dtype), spec)
    progress(0.0, "importing SGLang")
    if device.type == "cpu":
        # read while SGLang is imported
        os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    from histrio_sglang.runner import RangeRunner

    progress(0.1, "loading weights")
    with TemporaryDirectory(prefix="histrio-sglang-") as folder:
        runner = RangeRunner(spec, options, link_model(spec, Path(folder)), device, dtype)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    progress(1.0, "weights loaded")
    return runner


def _summed(proxies: Any) -> torch.Tensor:
    """[tokens, hidden] the residual stream, in memory of its own."""
    hidden: torch.Tensor = proxies["hidden_states"]
    residual = proxies.tensors.get("residual")
    return hidden.clone() if residual is None else hidden + residual
