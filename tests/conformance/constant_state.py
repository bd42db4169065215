"""A backend for a model whose state is of constant size: one number per layer and row, and no blocks.

It can neither go back nor share a beginning, and does not declare that it could. `judge` says what the model says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.contracts.backend import (
    Capability,
    Probe,
    Progress,
    ReplicaSize,
    StageCapacity,
    StageOutput,
    StageSpec,
    StepBatch,
    Traits,
)
from histrio.contracts.first_contract import StageBackend
from histrio.contracts.options import NoOptions
from histrio.errors import BackendError
from histrio.messages import Tensor
from histrio.stage.sampling.numpy_arrays import NumpyArrays
from histrio.testing.toy import write_toy_model

BLOCK_SIZES = (8, 16)
MODULUS = 65_521
CAPABILITIES = [Capability.BATCH, Capability.ALL_POSITION_LOGITS]


def write_constant_state_model(folder: Path) -> Path:
    """The toy's folder with another type."""
    write_toy_model(folder, num_layers=3)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "constant-state"}))
    return folder


def judge(folder: Path, ids: list[int]) -> npt.NDArray[np.float32]:
    """The logits at every position, by a plain rewrite."""
    config = _config(str(folder))
    states = [0] * config["num_hidden_layers"]
    rows = []
    for token_id in ids:
        value = token_id
        for layer, state in enumerate(states):
            states[layer] = (31 * state + value + layer + 1) % MODULUS
            value = states[layer]
        rows.append(_logits(np.array([value]), config["vocab_size"])[0])
    return np.stack(rows)


def broken_judge(folder: Path, ids: list[int]) -> npt.NDArray[np.float32]:
    """A control: it knows the last token alone."""
    return np.concatenate([judge(folder, [token_id]) for token_id in ids])


def shapeless_judge(folder: Path, ids: list[int]) -> npt.NDArray[np.float32]:
    """A control: of the last position alone."""
    last: npt.NDArray[np.float32] = judge(folder, ids)[-1]
    return last


class ConstantState:
    """One range of layers."""

    def __init__(self) -> None:
        self.xp = NumpyArrays()
        self._states = np.zeros((0, 0), np.int64)

    def open(self, spec: StageSpec, progress: Progress) -> StageCapacity:
        self._spec, self._vocab_size = spec, _config(spec.model)["vocab_size"]
        num_tokens = spec.sizes.max_batch_size * spec.max_sequence_length
        progress(1.0, "nothing to load")
        return StageCapacity(
            max_blocks={size: num_tokens // size for size in BLOCK_SIZES},
            max_slots=spec.sizes.max_batch_size,
            max_step_tokens=spec.sizes.max_num_tokens_per_batch,
            dtype="float32",
            param_bytes=0,
            block_bytes_per_token=0,
            capabilities=[str(each) for each in CAPABILITIES],
        )

    def allocate(self, size: ReplicaSize) -> None:
        num_layers = self._spec.last_layer - self._spec.first_layer
        self._states = np.full((size.max_slots, num_layers), -1, np.int64)
        self._lengths = np.zeros(size.max_slots, np.int64)

    def step(self, batch: StepBatch) -> StageOutput:
        if any(start not in (0, self._lengths[slot]) for slot, start in zip(batch.slots, batch.starts, strict=True)):
            raise BackendError("a state of constant size cannot go back")

        tokens = batch.token_ids
        values = np.frombuffer(batch.hidden[0].data, np.int64).copy() if tokens is None else tokens.copy()
        for row, slot in enumerate(batch.slots):
            if batch.starts[row] == 0:
                self._states[slot] = 0
            for index in range(batch.offsets[row], batch.offsets[row + 1]):
                values[index] = self._advance(slot, int(values[index]))
            self._lengths[slot] = batch.starts[row] + batch.num_tokens[row]
        if not self._spec.is_last:
            return StageOutput([Tensor("int64", (len(values), 1), values)])

        ends = zip(batch.offsets[1:], batch.num_sampled, strict=True)
        sampled = np.concatenate([np.arange(end - count, end) for end, count in ends])
        return StageOutput([], _logits(values[sampled], self._vocab_size) if len(sampled) else None)

    def copy(self, src: list[int], dst: list[int]) -> None:
        raise AssertionError("not declared")

    def close_slot(self, slot: int) -> None:
        self._lengths[slot] = 0

    def close(self) -> None:
        self._states = np.zeros((0, 0), np.int64)

    def _advance(self, slot: int, value: int) -> int:
        for index, layer in enumerate(range(self._spec.first_layer, self._spec.last_layer)):
            value = int((31 * self._states[slot, index] + value + layer + 1) % MODULUS)
            self._states[slot, index] = value
        return value


class ConstantStateFactory:
    """Not registered: `--backend constant_state:ConstantStateFactory`."""

    name = "constant-state"
    traits = Traits(contract=1)
    options = NoOptions

    def probe(self) -> Probe:
        return Probe(available=True, devices=["cpu"])

    def supports(self, spec: StageSpec) -> Probe:
        config = _config(spec.model)
        if config.get("model_type") != "constant-state":
            return Probe(False, "another model", "use another backend")
        if not 0 <= spec.first_layer < spec.last_layer <= config["num_hidden_layers"]:
            return Probe(False, "these are no layers of the model", "choose others")
        return Probe(available=True, capabilities=CAPABILITIES)

    def create(self) -> StageBackend:
        return ConstantState()


def _logits(values: npt.NDArray[np.int64], vocab_size: int) -> npt.NDArray[np.float32]:
    """[rows, vocab]: a hash of the value and each id."""
    mixed = (values[:, None] * 40_503 + np.arange(vocab_size) * 2_654_435_761) % 9973
    return (mixed / 997).astype(np.float32)


def _config(model: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((Path(model) / "config.json").read_text())
    return config
