"""A stage backend in one file: its "layers" count how often a token's state has come before in its sequence.

It is no language model, but it does all that a backend has to do: it runs any range of layers on ragged batches, keeps
what later tokens need in blocks, and hands its state to the next stage. `docs/writing-a-backend.md` walks through it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import (
    ArrayNamespace,
    BackendFactory,
    Capability,
    OpenedStage,
    Probe,
    Progress,
    ReplicaSize,
    RunningStage,
    StageCapacity,
    StageOutput,
    StageSpec,
    StepBatch,
    Traits,
)
from histrio.contracts.hooks import hookimpl
from histrio.contracts.options import NoOptions
from histrio.kit.memory import memory_bytes
from histrio.messages import Tensor
from histrio.stage.sampling.numpy_arrays import NumpyArrays

Floats = npt.NDArray[np.float32]

BLOCK_SIZES = (4, 8, 16, 32)
CACHE_TOKENS = 65_536
CAPABILITIES = [
    Capability.BATCH,
    Capability.REWIND,
    Capability.PREFIX_SHARE,
    Capability.COPY_BLOCKS,
    Capability.ALL_POSITION_LOGITS,
]


class CountingStage:
    """One contiguous range of counting layers, opened."""

    def __init__(self, spec: StageSpec, progress: Progress) -> None:
        """Read what the range needs (here, the size of the vocabulary), and say how much fits beside it."""
        self.xp: ArrayNamespace = NumpyArrays()
        self._spec = spec
        self._vocab_size = int(_read_config(spec.model)["vocab_size"])
        self._num_layers = spec.last_layer - spec.first_layer
        num_tokens = min(CACHE_TOKENS, int(memory_bytes() * spec.block_mem_ratio) // (4 * self._num_layers))
        self._running: RunningCountingStage | None = None
        progress(1.0, "nothing to load")
        self.capacity = StageCapacity(
            max_blocks={block_size: num_tokens // block_size for block_size in BLOCK_SIZES},
            max_slots=spec.sizes.max_batch_size,
            max_step_tokens=spec.sizes.max_num_tokens_per_batch,
            dtype="float32",
            param_bytes=0,
            block_bytes_per_token=4 * self._num_layers,
            capabilities=list(CAPABILITIES),
        )

    def allocate(self, size: ReplicaSize) -> RunningStage:
        """Make the pool of blocks, and the stage that steps on it."""
        self._running = RunningCountingStage(self._spec, self._vocab_size, size)
        return self._running

    def close(self) -> None:
        """Free the blocks."""
        self._running = None


class RunningCountingStage:
    """The range with its blocks."""

    def __init__(self, spec: StageSpec, vocab_size: int, size: ReplicaSize) -> None:
        """One float per layer and token; NaN, so that reading what was never written would show."""
        self._spec, self._vocab_size, self._block_size = spec, vocab_size, size.block_size
        num_layers = spec.last_layer - spec.first_layer
        self._blocks: Floats = np.full((num_layers, size.num_blocks * size.block_size), np.nan, np.float32)

    def step(self, batch: StepBatch) -> StageOutput:
        """Run all rows through the range."""
        state = _first_state(batch)
        for blocks in self._blocks:
            for row in range(batch.num_rows):
                self._run_row(blocks, state, batch, row)

        if not self._spec.is_last:
            return StageOutput([Tensor("float32", (len(state), 1), state)])

        sampled = np.concatenate(
            [np.arange(end - count, end) for end, count in zip(batch.offsets[1:], batch.num_sampled, strict=True)]
        )
        return StageOutput([], self._logits(state[sampled]) if len(sampled) > 0 else None)

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks in all layers."""
        blocks = self._blocks.reshape(len(self._blocks), -1, self._block_size)
        blocks[:, dst] = blocks[:, src]

    def close_slot(self, slot: int) -> None:
        """Nothing is kept per slot: the next plan says which row owns a block."""

    def _run_row(self, blocks: Floats, state: Floats, batch: StepBatch, row: int) -> None:
        """One layer, one row: write the new tokens into the row's blocks, then let each look back; changes `state`."""
        new = slice(batch.offsets[row], batch.offsets[row + 1])
        start, length = batch.starts[row], batch.starts[row] + batch.num_tokens[row]
        positions = np.arange(length)
        size = self._block_size
        cells = batch.block_tables[row, positions // size] * size + positions % size

        blocks[cells[start:]] = state[new]
        is_earlier = positions[None, :] < positions[start:, None]
        is_equal = blocks[cells][None, :] == state[new, None]
        state[new] += (is_earlier & is_equal).sum(axis=1)

    def _logits(self, state: Floats) -> Floats:
        """[rows, vocab]: the last digit of the state is the likely token."""
        next_ids = state.astype(np.int64) % 10
        return np.where(np.arange(self._vocab_size) == next_ids[:, None], np.float32(9), np.float32(0))


class CountingFactory:
    """What histrio asks before it makes a backend; importing this file must stay cheap."""

    name = "counting"
    traits = Traits(contract=2)
    options = NoOptions

    def probe(self) -> Probe:
        """Whether this machine will do."""
        return Probe(available=True, devices=["cpu"])

    def supports(self, spec: StageSpec) -> Probe:
        """Whether these layers of the model will do, from its configuration alone."""
        config = _read_config(spec.model)
        if config.get("model_type") != "counting":
            return Probe(False, "this is not a counting model", 'use backend = "torch" for it')
        if not 0 <= spec.first_layer < spec.last_layer <= config["num_hidden_layers"]:
            return Probe(False, "these are not layers of the model", f"it has {config['num_hidden_layers']}")

        return Probe(available=True, capabilities=CAPABILITIES)

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """Load the stage; import heavy libraries here."""
        return CountingStage(spec, progress)


def _first_state(batch: StepBatch) -> Floats:
    """[tokens]: token ids on the first stage, else what the stage before has sent. A copy, for it will be changed."""
    if batch.token_ids is not None:
        return batch.token_ids.astype(np.float32)

    return np.frombuffer(batch.hidden[0].data, np.float32).copy()


def _read_config(model: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((Path(model) / "config.json").read_text())
    return config


@hookimpl
def register_backends(register: Callable[[BackendFactory], None]) -> None:
    """Called once at start-up."""
    register(CountingFactory())
