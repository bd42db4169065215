"""The contract between the core and whatever computes: a *stage backend* runs a contiguous layer range.

A backend is dumb on purpose. It infers nothing: which rows run, where they start, which blocks they own, all comes with
each `StepBatch`. It runs on one thread that opens, computes and closes. The core never imports an array library; what
samplers need is offered by the backend as an `ArrayNamespace`. Engines with a scheduler of their own implement
`histrio.contracts.engine_backend` instead. `docs/backends.md` gives the reasons, and
`histrio.testing.conformance` checks a backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.config.settings import MemorySettings, SizeSettings
from histrio.contracts.options import NoOptions
from histrio.messages import Probe, ReplicaSize, StageCapacity, Tensor

__all__ = [
    "CONTRACT",
    "OLDEST_CONTRACT",
    "Array",
    "ArrayNamespace",
    "BackendFactory",
    "Capability",
    "GivesBack",
    "NoOptions",
    "OpenedStage",
    "Probe",
    "Progress",
    "ReplicaSize",
    "RunningStage",
    "StageCapacity",
    "StageOutput",
    "StageSpec",
    "StepBatch",
    "TakesOptions",
    "Traits",
]

CONTRACT = 2
"""The version of this contract. Within one version, capabilities and fields with defaults may be added; no meaning
changes. A plugin names the version it was written for, and is refused by name where that is newer, or older than
`OLDEST_CONTRACT`."""
OLDEST_CONTRACT = 1
"""Backends of this version still run: `histrio.contracts.first_contract`."""

Array: TypeAlias = Any
"""An array of the backend's own library, on its device."""

IntArray: TypeAlias = npt.NDArray[np.int32]
Progress: TypeAlias = Callable[[float, str], None]
"""Called with the fraction done and a short text while weights load."""


class Capability(StrEnum):
    """Abilities of a backend beyond the least, and its needs. A replica has what all of its stages have."""

    BATCH = "batch"
    """Several rows in one step; without it a replica runs one sequence at a time. Of an opened stage."""
    REWIND = "rewind"
    """A row may start again at an earlier position, whatever it computed beyond. Of an opened stage."""
    PREFIX_SHARE = "prefix_share"
    """Rows may have blocks in common. Of an opened stage."""
    COPY_BLOCKS = "copy_blocks"
    """`copy` works. Of an opened stage."""
    ALL_POSITION_LOGITS = "all_position_logits"
    """`num_sampled` may be above 1: logits of several trailing positions of a row, up to all of them. Of an opened
    stage."""
    HIDDEN_STATES = "hidden_states"
    """`StepBatch.num_pooled` may be given: the last stage answers `StageOutput.states`. Of an opened stage."""
    SCORES = "scores"
    """The same of a model whose head classifies: `StageOutput.states` are what the head makes of the text up to the
    position, and no logits are asked for. Of an opened stage."""
    WHOLE_TEXTS = "whole_texts"
    """A need: each row is a whole text, from start 0 to its end, because tokens attend to those behind them. Nothing
    stays in blocks, and no logits are asked for. Of an opened stage."""
    LOGPROBS = "logprobs"
    """Requests whose sampling has `logprobs: true` get `Extras.logprobs`. Of an opened engine."""
    ADAPTERS = "adapters"
    """`StageSpec.adapter` is honoured; without it, a topology that names one is refused. In `Traits`."""
    INT8_KV = "int8_kv"
    """`StageSpec.memory.kv_cache_dtype` may be `int8`; without it, a topology that says so is refused. In `Traits`."""
    OWN_PROCESS = "own_process"
    """Shares no process with other actors, whatever the topology leaves open. In `Traits`."""
    ONE_STAGE_PER_PROCESS = "one_stage_per_process"
    """Two stages of this backend need two processes. In `Traits`."""


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """The properties that a backend has wherever it runs, known before anything is loaded."""

    contract: int
    """The `CONTRACT` it was written for, as a number."""
    level: Literal["stage", "engine"] = "stage"
    """`engine`: it implements `histrio.contracts.engine_backend`."""
    capabilities: list[Capability] = []


class StageSpec(msgspec.Struct, frozen=True):
    """The layers that a stage holds, and its limits. Decoded from the topology, so plain data."""

    model: str
    """Folder with config.json and weights."""
    first_layer: int
    last_layer: int
    """The layer after the last one of the stage."""
    num_layers: int
    """Layers of the whole model: stage 0 has `first_layer == 0`, the last stage `last_layer == num_layers`."""
    device: str = "auto"
    dtype: str = "auto"
    """One of auto, float32, bfloat16, float16. Auto is the checkpoint's; on a CPU, float32 for weights below 128 MB."""
    max_sequence_length: int = 4096
    sizes: SizeSettings = SizeSettings()
    """What is asked for: slots, tokens of a step, the number of blocks, and for backends that settle it when they
    open the block size."""
    memory: MemorySettings = MemorySettings()
    """`kv_cache_dtype` is `auto` unless the backend has `Capability.INT8_KV`."""
    block_mem_ratio: float = 0.25
    """Share of the device's memory for blocks of this stage: stages on one device divide it by their layers."""
    threads: int | None = None
    """Compute threads on a CPU; None: the backend's choice. A backend that cannot choose says so in the log."""
    options: Any = {}
    """Settings of one backend: an instance of the struct that its factory declares (`TakesOptions`), else a table."""
    adapter: str | None = None
    """Folder of a LoRA-like adapter to apply to the weights; only with `Capability.ADAPTERS`."""
    has_weights: bool = True
    """False: the folder has the configuration only, because nothing but `supports` is asked."""

    @property
    def is_first(self) -> bool:
        """Whether this stage embeds token ids."""
        return self.first_layer == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage computes logits."""
        return self.last_layer == self.num_layers


@dataclass(slots=True)
class StepBatch:
    """One step's rows, ragged: row r owns tokens `offsets[r]:offsets[r+1]` of all flat arrays."""

    slots: IntArray
    """[rows] ids `first_slot` … `first_slot + max_slots - 1` of this stage's own `StageCapacity`."""
    starts: IntArray
    """[rows] tokens of the row already in its blocks."""
    num_tokens: IntArray
    """[rows] new tokens of the row in this step, >= 1."""
    num_sampled: IntArray
    """[rows] trailing positions whose logits the step returns, 0 for none; above 1 only with `ALL_POSITION_LOGITS`."""
    offsets: IntArray
    """[rows + 1] prefix sum of `num_tokens`."""
    block_tables: IntArray
    """[rows, most blocks of a row] block ids `first_block_id` … `first_block_id + num_blocks - 1` of this stage's own
    `StageCapacity`; `first_block_id` beyond the row's own. Each step's table is the truth: the first blocks of a new
    sequence may hold tokens that another one computed."""
    positions: npt.NDArray[np.int64]
    """[tokens]"""
    token_ids: npt.NDArray[np.int64] | None
    """[tokens] on the first stage, None elsewhere."""
    hidden: list[Tensor]
    """[tokens, hidden] the summed residual stream of the stage before, then its named parts; empty on the first."""
    num_pooled: IntArray | None = None
    """[rows] trailing positions whose hidden states the last stage answers; None where no row asks for any, and
    always without `HIDDEN_STATES` and `SCORES`; with the latter at most 1. A row asks for these or logits, never
    both."""
    token_types: IntArray | None = None
    """[tokens] 1 for those of the second text of a pair, 0 for all others; None where all are 0."""

    @property
    def num_rows(self) -> int:
        """How many sequences take part."""
        return len(self.slots)

    @property
    def total_tokens(self) -> int:
        """Sum of `num_tokens`."""
        return int(self.offsets[-1])

    def trailing_tokens(self, counts: IntArray) -> npt.NDArray[np.int64]:
        """Indices, among the step's tokens, of the last `counts[r]` of each row, in row order."""
        ends = self.offsets[1:].astype(np.int64)
        each = counts.astype(np.int64)
        within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        indices: npt.NDArray[np.int64] = np.repeat(ends - each, each) + within
        return indices

    def row(self, index: int) -> StepBatch:
        """A step of this one row alone, on the same arrays."""
        rows = slice(index, index + 1)
        first, last = int(self.offsets[index]), int(self.offsets[index + 1])
        return StepBatch(
            slots=self.slots[rows],
            starts=self.starts[rows],
            num_tokens=self.num_tokens[rows],
            num_sampled=self.num_sampled[rows],
            offsets=self.offsets[index : index + 2] - self.offsets[index],
            block_tables=self.block_tables[rows],
            positions=self.positions[first:last],
            token_ids=None if self.token_ids is None else self.token_ids[first:last],
            hidden=[tensor.rows(first, last) for tensor in self.hidden],
            num_pooled=None if self.num_pooled is None else self.num_pooled[rows],
            token_types=None if self.token_types is None else self.token_types[first:last],
        )


@dataclass(slots=True)
class StageOutput:
    """The result of a step: `hidden` for the next stage, or on the last one `logits` and `states`.

    `hidden` is the residual stream, summed up and unnamed, so that stages of different backends can follow each other;
    models whose layers hand on more add named parts. Its buffers are left alone from then on: the next step may begin
    before they are sent. `logits` is a float array [sum(num_sampled), vocab] of the backend's library in row order, or
    None where no row samples. `states` is a float array [sum(num_pooled), hidden] of the same library in row order:
    what the model's head would get, behind the final norm; with `SCORES` it is [sum(num_pooled), labels], what the
    head gives. It is None where no row asks for any.
    """

    hidden: list[Tensor]
    logits: Array | None = None
    states: Array | None = None


class ArrayNamespace(Protocol):
    """The array functions that samplers may use; they mean the same on numpy, torch and mlx.

    Arrays are [rows, vocab] float32 unless said otherwise; `axis` is always the last one.
    """

    name: str
    chunk_values: int
    """Best number of values to work on at once: on a CPU as many as the cache holds, elsewhere many."""

    def asarray(self, values: npt.NDArray[Any]) -> Array:
        """Host array → device array of the same dtype."""

    def to_host(self, array: Array) -> npt.NDArray[Any]:
        """Device array → numpy; waits for the device."""

    def float32(self, array: Array) -> Array:
        """Convert to float32 (no copy if it is)."""

    def take_rows(self, array: Array, rows: npt.NDArray[np.intp]) -> Array:
        """The rows given by host indices."""

    def put_rows(self, array: Array, rows: npt.NDArray[np.intp], values: Array) -> Array:
        """`array` with these rows replaced; may work in place."""

    def argmax(self, array: Array) -> Array:
        """Index of the largest value of each row, the first one of equals."""

    def topk(self, array: Array, k: int) -> tuple[Array, Array]:
        """The k largest values of each row in descending order, and their indices."""

    def sorted_values(self, array: Array) -> Array:
        """All values of each row in descending order; much cheaper than `topk` of all."""

    def softmax(self, array: Array) -> Array:
        """Over the last axis; -inf becomes 0, a row of nothing else NaN."""

    def log_softmax(self, array: Array) -> Array:
        """Over the last axis; -inf stays, a row of nothing else becomes NaN."""

    def cumsum(self, array: Array) -> Array:
        """Over the last axis."""

    def where(self, condition: Array, yes: Array | float, no: Array | float) -> Array:
        """Elementwise choice."""

    def take_along(self, array: Array, indices: Array) -> Array:
        """`array[r, indices[r, j]]`."""

    def put_along(self, array: Array, indices: Array, values: Array) -> Array:
        """`array` with `array[r, indices[r, j]] = values[r, j]`; may work in place.

        An index that comes twice in a row must come with the same value.
        """

    def max(self, array: Array) -> Array:
        """Largest of each row, kept as size 1."""

    def sum(self, array: Array) -> Array:
        """Over the last axis, kept as size 1; of a condition, how often it holds."""

    def block_sums(self, array: Array, width: int) -> Array:
        """[rows, blocks]: sums of `width` columns after the other; the last block may be narrower."""

    def arange(self, length: int) -> Array:
        """Indices 0 … length-1 as integers."""


class OpenedStage(Protocol):
    """A layer range with its weights on one device. All calls, and those of its running stage, come from one thread."""

    @property
    def capacity(self) -> StageCapacity:
        """What fits beside the weights."""

    @property
    def xp(self) -> ArrayNamespace:
        """The array functions for its logits."""

    def allocate(self, size: ReplicaSize) -> RunningStage:
        """Make room for `size.num_blocks` blocks and `size.max_slots` slots, besides those that it keeps for itself.

        Called again with a new epoch, when nothing uses the running stage before it any more: same sizes may keep the
        memory, its contents are garbage then.
        """

    def close(self) -> None:
        """Free everything, the running stage too, down to the device's memory: after a failure the same process opens
        another stage. Safe to call twice."""


class RunningStage(Protocol):
    """An opened stage with its blocks: it may step."""

    def step(self, batch: StepBatch) -> StageOutput:
        """Run all rows through the layers, writing their keys and values into their blocks.

        A row with `starts[r] == 0` is a new sequence, whatever its slot held before. Raises `BackendError` before
        anything is written for what it cannot do, such as a rewind or several sampled positions that it did not
        declare. Logits are read before the next call; hidden states may be read later.
        """

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks, `src[i]` to `dst[i]`; only with `COPY_BLOCKS`."""

    def close_slot(self, slot: int) -> None:
        """The sequence in this slot is gone (for backends that keep a state per slot)."""


@runtime_checkable
class GivesBack(Protocol):
    """A running stage that holds more memory than its weights and blocks, which it can do without for a while."""

    def give_back(self) -> None:
        """Free what later steps can make anew. Called in quiet moments, between steps, with sequences perhaps open."""


@runtime_checkable
class TakesOptions(Protocol):
    """A factory, of backends of either kind, with settings of its own: the keys of `options` of a `[[stage]]`.

    `StageSpec.options` is an instance of the struct wherever the factory or its backend gets a spec. A factory that is
    not this gets the plain table, and has to refuse by name what it does not know.
    """

    options: type[Any]
    """A msgspec struct with `rename="kebab"`, bounds as `msgspec.Meta`, and defaults; `NoOptions` for none."""


class BackendFactory(Protocol):
    """What a plugin registers under a name; cheap to import, heavy only when a backend is made."""

    name: str
    traits: Traits

    def probe(self) -> Probe:
        """Whether this machine can run the backend, without loading a model. What depends on options is asked of
        `supports`."""

    def supports(self, spec: StageSpec) -> Probe:
        """Whether it can hold this placement of the model, and what comes of it: dtype, bytes, capabilities. Reads
        configuration and headers only.

        Asked twice: in a process that imports no array library, and behind `probe()`, where the stage would run, with
        `spec.device` as one of the probe's devices. A check and a start go by the second answer alike."""

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """Load the weights of the range. Imports what is heavy. Raises `ModelError`, `BackendError`, with everything
        freed."""
