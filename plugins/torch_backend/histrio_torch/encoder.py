"""A stage on torch that is a whole encoder: texts are padded to similar lengths and computed by transformers' own code.

Nothing of a text outlives its step, so blocks take no memory here, and a step is nothing but its rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from histrio.contracts.backend import Progress, ReplicaSize, StageOutput, StageSpec, StepBatch
from histrio.errors import BackendError, UnsupportedModel
from histrio.kit.checkpoint import read_config, stage_dtype
from histrio.messages import StageCapacity
from histrio_torch.arrays import TorchArrays
from histrio_torch.devices import choose_device, measure
from histrio_torch.encoder_families import kind_of
from histrio_torch.linear import pack_linears
from histrio_torch.loader import count_weights, described, loading, read_weights
from histrio_torch.traits import BLOCK_SIZES, capabilities_of

__all__ = ["EncoderStage", "RunningEncoder", "make_encoder", "open_encoder", "require_encoder_weights"]

LEAST_FILL = 0.8
"""A text joins a group when it has at least this share of the tokens of the group's longest text."""
_UNUSED = "pooler."
"""Computes what only a head that is not there would take."""
_TYPES = "token_type_ids"

Ints = npt.NDArray[np.int32]


class EncoderStage:
    """Implements `histrio.contracts.backend.OpenedStage`; all calls from one thread."""

    def __init__(self, spec: StageSpec, model: Any, device: torch.device, param_bytes: int) -> None:
        self.xp = TorchArrays(device)
        config = read_config(Path(spec.model))
        self.capacity = StageCapacity(
            max_blocks=measure(device).max_blocks(0, spec, BLOCK_SIZES),
            max_slots=spec.sizes.max_batch_size,
            max_step_tokens=spec.sizes.max_num_tokens_per_batch,
            dtype=stage_dtype(spec, on_cpu=device.type == "cpu"),
            param_bytes=param_bytes,
            block_bytes_per_token=0,
            capabilities=list(capabilities_of(config)),
        )
        self._running = RunningEncoder(model, device, scores=kind_of(config) == "score")
        self._device = device

    def allocate(self, size: ReplicaSize) -> RunningEncoder:
        """Blocks hold nothing."""
        return self._running

    def close(self) -> None:
        """Drop the weights. Safe to call twice."""
        for module in list(self._running.model.modules()):
            vars(module).clear()
        self._running.model = torch.nn.Module()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class RunningEncoder:
    """Implements `histrio.contracts.backend.RunningStage`."""

    def __init__(self, model: Any, device: torch.device, *, scores: bool) -> None:
        self.model = model
        self._device = device
        self._scores = scores
        self._pad_id = _pad_id(model.config)
        # The only argument that not all of them have; where there is one type, it is what they take without.
        has_types = _TYPES in inspect.signature(model.forward).parameters
        self._has_types = has_types and getattr(model.config, "type_vocab_size", 0) > 1

    def step(self, batch: StepBatch) -> StageOutput:
        """States of the pooled positions, or scores of the texts. Raises `BackendError` for parts of texts."""
        if batch.starts.any() or batch.num_sampled.any():
            raise BackendError("an encoder computes whole texts, and draws no tokens")

        counts = np.zeros_like(batch.num_tokens) if batch.num_pooled is None else batch.num_pooled
        found: list[torch.Tensor] = [torch.empty(0)] * batch.num_rows
        with torch.inference_mode():
            for rows in similar_lengths(batch.num_tokens):
                for row, states in zip(rows, self._compute(batch, rows), strict=True):
                    end, count = int(batch.num_tokens[row]), int(counts[row])
                    found[row] = states[:count] if self._scores else states[end - count : end]
            return StageOutput(hidden=[], states=torch.cat(found) if counts.any() else None)

    def copy(self, src: list[int], dst: list[int]) -> None:
        """Never asked for: blocks hold nothing."""

    def close_slot(self, slot: int) -> None:
        """Nothing is kept per slot."""

    def _compute(self, batch: StepBatch, rows: list[int]) -> torch.Tensor:
        """[rows, longest, hidden], or of a model that scores [rows, 1, labels]."""
        longest = int(batch.num_tokens[rows].max())
        ids = np.full((len(rows), longest), self._pad_id, np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids)
        assert batch.token_ids is not None, "the only stage is the first one"
        for at, row in enumerate(rows):
            own = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
            num_tokens = own.stop - own.start
            ids[at, :num_tokens] = batch.token_ids[own]
            mask[at, :num_tokens] = 1
            if batch.token_types is not None:
                types[at, :num_tokens] = batch.token_types[own]
        arguments = {"input_ids": self._tensor(ids), "attention_mask": self._tensor(mask)}
        if self._has_types:
            arguments[_TYPES] = self._tensor(types)
        output = self.model(**arguments)
        states: torch.Tensor = output.logits[:, None] if self._scores else output.last_hidden_state
        return states

    def _tensor(self, values: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)


def similar_lengths(num_tokens: Ints) -> Iterator[list[int]]:
    """The rows in groups, the longest first, so that padding takes a fifth of a group at most."""
    group: list[int] = []
    for row in np.argsort(-num_tokens, kind="stable").tolist():
        if group and num_tokens[row] < LEAST_FILL * num_tokens[group[0]]:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def open_encoder(spec: StageSpec, progress: Progress) -> EncoderStage:
    """Load the model. Raises `BackendError` for settings, `ModelError` for the model, with nothing kept."""
    device = choose_device(spec.device)
    folder = Path(spec.model)
    dtype: torch.dtype = getattr(torch, stage_dtype(spec, on_cpu=device.type == "cpu"))
    num_bytes = count_weights(make_encoder(folder)) * dtype.itemsize
    measure(device).check_weights(num_bytes, spec)
    model_class, config = _model_class(folder)
    progress(0.0, "weights")
    with loading():
        model = read_weights(model_class, folder, config, dtype, None, unused=_UNUSED)
    model.requires_grad_(False).eval().to(device)
    if device.type == "cpu":
        pack_linears(model)
    progress(1.0, "ready")
    return EncoderStage(spec, model, device, num_bytes)


def require_encoder_weights(folder: Path) -> None:
    """Load the model without reading a weight. What else than a missing weight is wrong with it is left to the start.

    Raises `ModelError`.
    """
    model_class, config = _model_class(folder)
    with loading(), suppress(UnsupportedModel):
        read_weights(described(model_class), folder, config, torch.float32, None, unused=_UNUSED)


def make_encoder(folder: Path) -> Any:
    """The model without memory, on torch's meta device. Raises `UnsupportedModel`."""
    model_class, config = _model_class(folder)
    with loading(), torch.device("meta"):
        try:
            return model_class(config)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedModel(f"{folder}: transformers can't make this model: {error!r}") from error


def _model_class(folder: Path) -> tuple[Any, Any]:
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING, AutoConfig

    scores = kind_of(read_config(folder)) == "score"
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        mapping = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if scores else MODEL_MAPPING
        return mapping[type(config)], config
    except (KeyError, ValueError) as error:
        raise UnsupportedModel(f"{folder}: transformers can't make this model: {error}") from None


def _pad_id(config: Any) -> int:
    """Any id would do, but positions of some models are counted without this one."""
    return int(getattr(config, "pad_token_id", None) or 0)
