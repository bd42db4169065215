"""A backend for Llama models in one file that knows nothing but numpy, as a stranger would write it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

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
from histrio.contracts.first_contract import FirstBackendFactory, StageBackend
from histrio.contracts.hooks import hookimpl
from histrio.errors import BackendError, DoesNotFit
from histrio.kit.memory import memory_bytes
from histrio.messages import Tensor
from histrio.stage.sampling.numpy_arrays import NumpyArrays

Floats = npt.NDArray[np.float32]

CAPABILITIES = [
    Capability.BATCH,
    Capability.REWIND,
    Capability.PREFIX_SHARE,
    Capability.COPY_BLOCKS,
    Capability.ALL_POSITION_LOGITS,
]
BLOCK_SIZES = (8, 16, 32)
CACHE_TOKENS = 16_384


class LlamaStage:
    """A range of Llama layers on one CPU core."""

    def __init__(self) -> None:
        self.xp = NumpyArrays()

    def open(self, spec: StageSpec, progress: Progress) -> StageCapacity:
        """Read the range's weights, all as float32."""
        if spec.options:
            raise BackendError(f"there is no option {min(spec.options)!r}; this backend has none")

        self._spec, self._config = spec, _read_config(spec.model)
        self._weights = {name: array.astype(np.float32) for name, array in load_file(_weights_file(spec.model)).items()}
        heads, kv_heads = self._config["num_attention_heads"], self._config["num_key_value_heads"]
        self._head_dim = self._config.get("head_dim") or self._config["hidden_size"] // heads
        self._kv_shape = (2, spec.last_layer - spec.first_layer, kv_heads * self._head_dim)
        param_bytes = sum(array.nbytes for array in self._weights.values())
        if param_bytes > memory_bytes() * spec.memory.param_mem_ratio:
            raise DoesNotFit(f"the weights need {param_bytes} bytes, more than param-mem-ratio allows; raise it")

        token_bytes = 4 * int(np.prod(self._kv_shape))
        num_tokens = min(CACHE_TOKENS, int(memory_bytes() * spec.block_mem_ratio) // token_bytes)
        progress(1.0, "read")
        return StageCapacity(
            max_blocks={size: num_tokens // size for size in BLOCK_SIZES},
            max_slots=spec.sizes.max_batch_size,
            max_step_tokens=spec.sizes.max_num_tokens_per_batch,
            dtype="float32",
            param_bytes=param_bytes,
            block_bytes_per_token=token_bytes,
            first_block_id=1,  # as engines have it that keep block 0 for padding
            first_slot=1,
            capabilities=list(CAPABILITIES),
        )

    def allocate(self, size: ReplicaSize) -> None:
        """[keys and values, layers, tokens of all blocks, kv heads x head size]; block 0 stays NaN."""
        both, num_layers, width = self._kv_shape
        self._block_size = size.block_size
        self._kv = np.full((both, num_layers, (size.num_blocks + 1) * size.block_size, width), np.nan, np.float32)

    def step(self, batch: StepBatch) -> StageOutput:
        """All rows through the range, one row after the other where they must not meet."""
        if batch.token_ids is None:
            hidden = np.frombuffer(batch.hidden[0].data, np.float32).reshape(batch.hidden[0].shape)
        else:
            hidden = self._weights["model.embed_tokens.weight"][batch.token_ids]
        for layer in range(self._spec.first_layer, self._spec.last_layer):
            hidden = hidden + self._attention(layer, self._norm(hidden, f"layers.{layer}.input_layernorm"), batch)
            hidden = hidden + self._mlp(layer, self._norm(hidden, f"layers.{layer}.post_attention_layernorm"))
        if not self._spec.is_last:
            return StageOutput([Tensor("float32", hidden.shape, np.ascontiguousarray(hidden))])

        ends = zip(batch.offsets[1:], batch.num_sampled, strict=True)
        sampled = np.concatenate([np.arange(end - count, end) for end, count in ends])
        head = self._weights.get("lm_head.weight", self._weights["model.embed_tokens.weight"])
        return StageOutput([], self._norm(hidden[sampled], "norm") @ head.T if len(sampled) else None)

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Copy blocks in all layers."""
        blocks = self._kv.reshape(*self._kv.shape[:2], -1, self._block_size, self._kv.shape[3])
        blocks[:, :, dst] = blocks[:, :, src]

    def close_slot(self, slot: int) -> None:
        """Nothing is kept per slot."""

    def close(self) -> None:
        """Drop weights and blocks."""
        self._weights, self._kv = {}, np.zeros((0, 0, 0, 0), np.float32)

    def _linear(self, hidden: Floats, name: str) -> Floats:
        product: Floats = hidden @ self._weights[f"model.layers.{name}.weight"].T
        return product

    def _norm(self, hidden: Floats, name: str) -> Floats:
        scale = np.sqrt(np.mean(hidden**2, axis=-1, keepdims=True) + np.float32(self._config["rms_norm_eps"]))
        normed: Floats = hidden / scale * self._weights[f"model.{name}.weight"]
        return normed

    def _mlp(self, layer: int, hidden: Floats) -> Floats:
        gate = self._linear(hidden, f"{layer}.mlp.gate_proj")
        return self._linear(
            gate / (1 + np.exp(-gate)) * self._linear(hidden, f"{layer}.mlp.up_proj"), f"{layer}.mlp.down_proj"
        )

    def _attention(self, layer: int, hidden: Floats, batch: StepBatch) -> Floats:
        query, key, value = (self._linear(hidden, f"{layer}.self_attn.{part}_proj") for part in "qkv")
        query, key = self._rotate(query, batch.positions), self._rotate(key, batch.positions)
        keys, values = self._kv[:, layer - self._spec.first_layer]
        mixed = np.empty_like(query)
        for row in range(batch.num_rows):
            new = slice(batch.offsets[row], batch.offsets[row + 1])
            known = np.arange(batch.starts[row] + batch.num_tokens[row])
            cells = batch.block_tables[row, known // self._block_size] * self._block_size + known % self._block_size
            keys[cells[batch.starts[row] :]], values[cells[batch.starts[row] :]] = key[new], value[new]
            mixed[new] = self._mix(query[new], keys[cells], values[cells], batch.positions[new])
        return self._linear(mixed, f"{layer}.self_attn.o_proj")

    def _mix(self, query: Floats, keys: Floats, values: Floats, positions: npt.NDArray[np.int64]) -> Floats:
        """Grouped-query attention of one row: [new tokens, heads x head size] over its [known tokens, kv heads x …]."""
        heads, known = query.shape[1] // self._head_dim, len(keys)
        share = heads // (keys.shape[1] // self._head_dim)
        q = query.reshape(-1, heads, self._head_dim).transpose(1, 0, 2)
        k, v = (each.reshape(known, -1, self._head_dim).transpose(1, 0, 2).repeat(share, 0) for each in (keys, values))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(np.float32(self._head_dim))
        scores = np.where(np.arange(known) <= positions[:, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed: Floats = (weights / weights.sum(-1, keepdims=True)) @ v
        return mixed.transpose(1, 0, 2).reshape(query.shape)

    def _rotate(self, states: Floats, positions: npt.NDArray[np.int64]) -> Floats:
        theta = self._config.get("rope_parameters", self._config)["rope_theta"]
        angles = np.asarray(positions[:, None] * theta ** -(np.arange(0, self._head_dim, 2) / self._head_dim))
        cos, sin = (np.concatenate([part, part], -1)[:, None].astype(np.float32) for part in _cos_sin(angles))
        heads = states.reshape(len(states), -1, self._head_dim)
        first, second = np.split(heads, 2, axis=-1)
        rotated = heads * cos + np.concatenate([-second, first], -1) * sin
        return rotated.reshape(states.shape).astype(np.float32)


class LlamaFactory:
    """Registers as `numpy-llama`."""

    name = "numpy-llama"
    traits = Traits(contract=1)

    def probe(self) -> Probe:
        """Runs everywhere."""
        return Probe(available=True, devices=["cpu"])

    def supports(self, spec: StageSpec) -> Probe:
        """Llama only."""
        config = _read_config(spec.model)
        if config.get("model_type") != "llama":
            return Probe(False, "this backend knows Llama models only", "use the torch backend")
        if not 0 <= spec.first_layer < spec.last_layer <= config["num_hidden_layers"]:
            return Probe(False, "these are not layers of the model", f"choose from {config['num_hidden_layers']}")

        return Probe(available=True, capabilities=CAPABILITIES)

    def create(self) -> StageBackend:
        """A stage that is not open yet."""
        return LlamaStage()


def _cos_sin(angles: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return np.cos(angles), np.sin(angles)


def _read_config(model: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((Path(model) / "config.json").read_text())
    return config


def _weights_file(model: str) -> Path:
    return Path(model) / "model.safetensors"


@hookimpl
def register_backends(register: Callable[[FirstBackendFactory], None]) -> None:
    """Called once at start-up."""
    register(LlamaFactory())
