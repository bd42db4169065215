"""A draft model: a small model of the same family says what the large one is likely to say.

Leviathan, Kalman, Matias 2023, "Fast Inference from Transformers via Speculative Decoding". It pays where the small
model costs a small part of the large one and agrees with it often. Both must mean the same by a token id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from histrio.config.locate import locate_model
from histrio.config.model_config import read_model_config
from histrio.contracts.backend import Probe
from histrio.contracts.drafter import DrafterSpec, DrafterTools
from histrio.contracts.options import as_options
from histrio.errors import ModelError
from histrio_speculative.model_drafter import ModelDrafter
from histrio_speculative.placement import PlacementOptions, bring_up, check_backend
from histrio_speculative.vocabulary import difference, read_vocabulary

__all__ = ["DraftModelFactory", "DraftModelOptions"]

_ANOTHER = "name another model as drafter-options.model"


class DraftModelOptions(PlacementOptions, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """`[engine.drafter-options]` of `draft-model`."""

    model: str
    """A folder, an id of the hub, or `demo-draft`."""
    revision: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    """Branch, tag or commit on the hub."""


class DraftModelFactory:
    """Registers as `draft-model`."""

    name = "draft-model"
    options = DraftModelOptions

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        """Whether the draft model has the same tokens and is long enough."""
        options = _options(spec)
        answer = check_backend(options.backend, tools)
        if not answer.available:
            return answer
        try:
            folder = _locate(options, spec, weights=False)
            config = read_model_config(folder)
            differing = difference(read_vocabulary(Path(spec.model)), read_vocabulary(folder))
        except ModelError as error:
            return Probe(False, f"the draft model cannot be used: {error}", _ANOTHER)

        if differing:
            reason = f"the draft model {options.model} has other tokens than the model it drafts for: {differing}"
            return Probe(False, reason, f"{_ANOTHER}, one of the same family")
        if config.max_positions < spec.max_sequence_length:
            reason = f"the draft model {options.model} ends at {config.max_positions} tokens"
            return Probe(False, reason, f"set max-sequence-length to at most that (it is {spec.max_sequence_length})")
        if Path(options.model).is_dir() and not any(folder.glob("*.safetensors")):
            return Probe(False, f"{folder} has no *.safetensors, and nothing else is read", _ANOTHER)
        return Probe(available=True)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> ModelDrafter:
        """Load the draft model. Raises `ModelError`, `BackendError`."""
        options = _options(spec)
        folder = _locate(options, spec)
        config = read_model_config(folder)
        return bring_up(str(folder), config.num_layers, config.vocab_size, options, spec, tools)


def _locate(options: DraftModelOptions, spec: DrafterSpec, *, weights: bool = True) -> Path:
    return locate_model(options.model, revision=options.revision, offline=spec.offline, weights=weights)


def _options(spec: DrafterSpec) -> DraftModelOptions:
    return as_options(spec.options, DraftModelOptions, "engine.drafter-options")
