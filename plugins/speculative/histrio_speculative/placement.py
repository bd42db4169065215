"""Where a drafting model runs: the settings that all such drafters share, and the model brought up there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from histrio.config.settings import SizeSettings
from histrio.config.weights import weight_files
from histrio.contracts.backend import Capability, Probe, StageSpec
from histrio.contracts.drafter import DrafterSpec, DrafterTools
from histrio.contracts.first_contract import current
from histrio.contracts.options import with_options
from histrio.errors import PluginError
from histrio.kit.checkpoint import checkpoint_bytes
from histrio_speculative.model_drafter import ModelDrafter, Vocabularies
from histrio_speculative.model_stage import BLOCK_SIZE, ModelStage
from histrio_speculative.token_chooser import TokenChooser

__all__ = ["PlacementOptions", "bring_up", "check_backend"]

_MOST_STEP_TOKENS = 512
"""Tokens that all sequences together catch up with in one round: others wait for it."""
_CACHE_SHARE = 0.1
"""Share of the device's memory for the cache; the served model needs the rest."""
_FEW_BYTES = 4 * 2**20
"""Bytes of weights below which one thread is faster than several: the threads would meet at each short operation."""


class PlacementOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """Where and how a drafting model runs."""

    backend: str = "torch"
    """Name of a stage backend."""
    device: str | None = None
    """Device of the draft model; None: that of the first stage, as with `dtype`."""
    dtype: str | None = None
    threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Compute threads on a CPU; None: one for a very small model, and those of the first stage for another."""
    num_cache_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Tokens of all sequences together that it remembers; None: 512 for each sequence that can run, if they fit."""


def check_backend(name: str, tools: DrafterTools) -> Probe:
    """Whether the backend may run in the engine process beside batching and kv; imports nothing."""
    try:
        factory = tools.stage_backend(name)
    except PluginError as error:
        return Probe(False, str(error), "name another one as drafter-options.backend")

    if {Capability.OWN_PROCESS, Capability.ONE_STAGE_PER_PROCESS} & set(factory.traits.capabilities):
        reason = f"the backend {name!r} shares its process with nothing else, and a drafter runs in the engine process"
        return Probe(False, reason, "name another one as drafter-options.backend")
    return Probe(available=True)


def bring_up(
    model: str, num_layers: int, draft_vocab: int, options: PlacementOptions, spec: DrafterSpec, tools: DrafterTools
) -> ModelDrafter:
    """A drafter with the model in folder `model`, loaded. Raises `ModelError`, `BackendError`, `PluginError`."""
    stage_spec = StageSpec(
        model=model,
        first_layer=0,
        last_layer=num_layers,
        num_layers=num_layers,
        device=options.device or spec.device,
        dtype=options.dtype or spec.dtype,
        max_sequence_length=spec.max_sequence_length,
        sizes=SizeSettings(
            max_batch_size=spec.max_batch_size,
            max_num_tokens_per_batch=max(_MOST_STEP_TOKENS, spec.max_batch_size),
            kv_block_size=BLOCK_SIZE,
            num_cache_blocks=options.num_cache_tokens and -(-options.num_cache_tokens // BLOCK_SIZE),
        ),
        block_mem_ratio=_CACHE_SHARE,
        threads=options.threads or (1 if checkpoint_bytes(weight_files(Path(model))) < _FEW_BYTES else spec.threads),
    )
    factory = tools.stage_backend(options.backend)
    stage_spec = with_options(stage_spec, factory, "options")
    stage = ModelStage(current(factory), stage_spec, options.num_cache_tokens)
    max_slots = stage.size.max_slots
    chooser = TokenChooser(tools.make_chain(max_slots), stage.xp, max_slots)
    return ModelDrafter(stage, chooser, Vocabularies(spec.vocab_size, draft_vocab))
