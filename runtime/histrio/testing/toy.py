"""A deterministic toy backend: exact integer arithmetic in place of a network, with real blocks and block tables.

Every layer mixes a token's state with a position-weighted sum over all states its row has in its blocks. A swapped row,
a lost block, a wrong position or a stale slot therefore changes every token that follows, while the right result is the
same on every machine. `toy_continuation` computes it without blocks, batches or stages.
"""

from __future__ import annotations

import json
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import (
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
from histrio.contracts.options import as_options
from histrio.errors import BackendError, TopologyError, UnsupportedModel
from histrio.kit.memory import memory_bytes
from histrio.messages import Tensor
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.testing.models import EOS_ID, VOCAB_SIZE, write_tokenizer

__all__ = [
    "TOY_WIDTH",
    "ToyFactory",
    "ToyStage",
    "embed",
    "logits_of",
    "mix",
    "read_toy_config",
    "states_of",
    "toy_continuation",
    "toy_logits",
    "toy_states",
    "trailing",
    "write_toy_model",
]

TOY_WIDTH = 16
"""Numbers of a hidden state where it is pooled; between stages it is one."""
_PRIME = 2**31 - 1
_CAPABILITIES = [
    Capability.BATCH,
    Capability.REWIND,
    Capability.PREFIX_SHARE,
    Capability.COPY_BLOCKS,
    Capability.ALL_POSITION_LOGITS,
    Capability.HIDDEN_STATES,
]
_Ints = npt.NDArray[np.int64]
_WEIGHTS = np.arange(4096) % 97 + 3
"""Of a token's place in its sequence, as far as most sequences go."""


class ToyOptions(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """`options` of a toy stage."""

    step_s: float = 0.0
    """Seconds every step sleeps, in place of a device that computes."""
    token_s: float = 0.0
    """Seconds it sleeps for every token more: a device that is bound by computing."""
    fail_at_step: int = 0
    """The step in which the backend raises; 0 for never."""
    fail_times: int = 0
    """How many of the stages made in this process fail in that step, from the first on; 0 for all."""
    open_s: float = 0.0
    """Seconds that loading takes."""
    hang_folder: str = ""
    """A file `open`, `step` or `close-slot` in this folder makes the next such call remove it and never return."""


class ToyFactory:
    """Registers as `toy`."""

    name = "toy"
    traits = Traits(contract=2)
    options = ToyOptions

    def probe(self) -> Probe:
        """Runs everywhere."""
        return Probe(available=True, devices=["cpu"])

    def supports(self, spec: StageSpec) -> Probe:
        """Only models written by `write_toy_model`."""
        config = read_toy_config(spec.model)
        if config.get("model_type") != "toy":
            return Probe(False, f"the toy backend cannot run {config.get('model_type')!r}", "use the torch backend")

        count = config["num_hidden_layers"]
        if not 0 <= spec.first_layer < spec.last_layer <= count:
            reason = f"layers {spec.first_layer}:{spec.last_layer} are not a range of the model's {count} layers"
            return Probe(False, reason, f"choose a range within 0:{count}")
        return Probe(available=True, capabilities=_CAPABILITIES)

    def __init__(self) -> None:
        self._num_made = 0

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """Read the vocabulary's size; there are no weights."""
        self._num_made += 1
        return ToyStage(spec, progress, self._num_made)


class _LaidOut(NamedTuple):
    """Where a step's row is: in the step, in its sequence, and in the blocks of a layer, all in one line."""

    tokens: slice
    positions: _Ints
    read: _Ints
    """Of every token from the first on."""
    written: _Ints


class ToyStage:
    """A stage on numpy integers, opened and running in one: before `allocate` it has blocks for no token."""

    def __init__(self, spec: StageSpec, progress: Progress, number: int = 1) -> None:
        """`number` counts those made."""
        self._number = number
        self.xp = NumpyArrays()
        self._blocks = np.zeros((0, 0, 0), np.int64)
        self._num_steps = 0
        config = read_toy_config(spec.model)
        if config.get("model_type") != "toy":
            raise UnsupportedModel(f"the toy backend cannot run {config.get('model_type')!r}")
        try:
            self._options = as_options(spec.options, ToyOptions, "options")
        except TopologyError as error:
            raise BackendError(str(error)) from None
        self._spec = spec
        self._vocab_size = int(config["vocab_size"])
        time.sleep(self._options.open_s)
        self._maybe_hang("open")
        progress(1.0, "toy weights")
        bytes_per_token = 8 * (spec.last_layer - spec.first_layer)
        fitting = int(memory_bytes() * spec.block_mem_ratio) // bytes_per_token
        num_tokens = min(fitting, (spec.sizes.num_cache_blocks or 4096) * 16)
        self.capacity = StageCapacity(
            max_blocks={size: num_tokens // size for size in (4, 8, 16, 32)},
            max_slots=spec.sizes.max_batch_size,
            max_step_tokens=spec.sizes.max_num_tokens_per_batch,
            dtype="int64",
            param_bytes=0,
            block_bytes_per_token=bytes_per_token,
            capabilities=list(_CAPABILITIES),
        )

    def allocate(self, size: ReplicaSize) -> Self:
        """Blocks [layers, blocks, block_size]; filled with garbage that would show."""
        num_layers = self._spec.last_layer - self._spec.first_layer
        self._blocks = np.full((num_layers, size.num_blocks, size.block_size), 123_456_789, np.int64)
        return self

    def step(self, batch: StepBatch) -> StageOutput:
        """Run all rows through the range."""
        self._num_steps += 1
        can_fail = self._number <= (self._options.fail_times or self._number)
        if self._num_steps == self._options.fail_at_step and can_fail:
            raise RuntimeError("the toy device failed, as it was told to")
        self._maybe_hang("step")
        time.sleep(self._options.step_s + self._options.token_s * batch.total_tokens)
        if batch.token_ids is not None:
            state = embed(batch.token_ids, batch.positions)
        else:
            state = np.frombuffer(batch.hidden[0].data, np.int64).reshape(batch.hidden[0].shape)[:, 0]
        laid_out = self._lay_out(batch)
        for layer in range(self._spec.first_layer, self._spec.last_layer):
            state = self._layer(layer, state, laid_out)
        if not self._spec.is_last:
            return StageOutput([Tensor("int64", (len(state), 1), np.ascontiguousarray(state).data)])

        rows = trailing(batch, batch.num_sampled)
        logits = logits_of(state[rows], self._vocab_size) if len(rows) else None
        return StageOutput(
            [], logits, None if batch.num_pooled is None else states_of(state[trailing(batch, batch.num_pooled)])
        )

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks in all layers."""
        self._blocks[:, dst] = self._blocks[:, src]

    def close_slot(self, slot: int) -> None:
        """Nothing is kept per slot."""
        self._maybe_hang("close-slot")

    def close(self) -> None:
        """Drop the blocks."""
        self._blocks = np.zeros((0, 0, 0), np.int64)

    def _maybe_hang(self, call: str) -> None:
        if self._options.hang_folder:
            try:
                (Path(self._options.hang_folder) / call).unlink()
            except FileNotFoundError:
                return
            threading.Event().wait()

    def _layer(self, layer: int, state: _Ints, rows: list[_LaidOut]) -> _Ints:
        blocks = self._blocks[layer - self._spec.first_layer].reshape(-1)
        result = np.empty_like(state)
        for row in rows:
            blocks[row.written] = state[row.tokens]
            result[row.tokens] = mix(layer, state[row.tokens], blocks[row.read], row.positions)
        return result

    def _lay_out(self, batch: StepBatch) -> list[_LaidOut]:
        """The same in all layers."""
        block_size = self._blocks.shape[2]
        laid_out = []
        for row in range(batch.num_rows):
            tokens = slice(batch.offsets[row], batch.offsets[row + 1])
            positions = batch.positions[tokens]
            everything = np.arange(positions[-1] + 1)
            read = batch.block_tables[row][everything // block_size] * np.int64(block_size) + everything % block_size
            laid_out.append(_LaidOut(tokens, positions, read, read[positions]))
        return laid_out


def toy_continuation(ids: list[int], num_tokens: int, *, num_layers: int, vocab_size: int) -> list[int]:
    """The greedy continuation of `ids`, computed plainly."""
    ids = list(ids)
    for _ in range(num_tokens):
        ids.append(int(np.argmax(toy_logits(ids, num_layers=num_layers, vocab_size=vocab_size))))
    return ids[-num_tokens:]


def toy_states(ids: list[int], *, num_layers: int) -> npt.NDArray[np.float32]:
    """[tokens, TOY_WIDTH] what is pooled of `ids`, computed plainly."""
    return states_of(_after_layers(ids, num_layers))


def toy_logits(ids: list[int], *, num_layers: int, vocab_size: int) -> npt.NDArray[np.float32]:
    """[vocab] after the last of `ids`, computed plainly."""
    logits: npt.NDArray[np.float32] = logits_of(_after_layers(ids, num_layers)[-1:], vocab_size)[0]
    return logits


def _after_layers(ids: list[int], num_layers: int) -> _Ints:
    positions = np.arange(len(ids))
    state = embed(np.array(ids, np.int64), positions)
    for layer in range(num_layers):
        state = mix(layer, state, state, positions)
    return state


def write_toy_model(folder: Path, *, num_layers: int = 4, max_sequence_length: int = 1024) -> Path:
    """A folder that is a toy model: configuration, byte-level tokenizer, chat template. Returns the folder."""
    write_tokenizer(folder)
    config = {
        "architectures": ["ToyForCausalLM"],
        "model_type": "toy",
        "num_hidden_layers": num_layers,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": max_sequence_length,
        "eos_token_id": EOS_ID,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # no tensors, but a valid file
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    return folder


def embed(token_ids: _Ints, positions: _Ints) -> _Ints:
    """[tokens] the state before the first layer."""
    return (token_ids * 1_000_003 + positions * 7_919 + 17) % _PRIME


def mix(layer: int, state: _Ints, cached: _Ints, positions: _Ints) -> _Ints:
    """A token's state after the layer: itself and everything its row has at or before its position."""
    num_known = len(cached)
    weights = _WEIGHTS[:num_known] if num_known <= len(_WEIGHTS) else np.arange(num_known) % 97 + 3
    weighted: _Ints = (cached * weights).cumsum()
    mixed: _Ints = (state * (31 + layer) + weighted[positions] + layer) % _PRIME
    return mixed


def logits_of(state: _Ints, vocab_size: int) -> npt.NDArray[np.float32]:
    """[rows, vocab], spread evenly over 0 … 8."""
    mixed = (state[:, None] + 1) * _factors(vocab_size) % _PRIME
    return (mixed * 48_271 % _PRIME * (8.0 / _PRIME)).astype(np.float32)


@lru_cache(1)
def _factors(vocab_size: int) -> _Ints:
    factors: _Ints = np.arange(vocab_size) * 2_654_435_761 % _PRIME + 1
    return factors


def states_of(state: _Ints) -> npt.NDArray[np.float32]:
    """[rows, TOY_WIDTH] hidden states, spread evenly over -1 … 1."""
    mixed = (state[:, None] + 7) * (np.arange(TOY_WIDTH) * 40_503 + 1) % _PRIME
    return (mixed * (2.0 / _PRIME) - 1.0).astype(np.float32)


def trailing(batch: StepBatch, counts: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Indices, among the step's tokens, of the last `counts[r]` of each row."""
    return np.concatenate([np.arange(end - count, end) for end, count in zip(batch.offsets[1:], counts, strict=True)])


def read_toy_config(model: str) -> dict[str, Any]:
    """The model's config.json."""
    config: dict[str, Any] = json.loads((Path(model) / "config.json").read_text())
    return config
