"""The drafter contract: a drafter proposes the next tokens of sequences.

A draft costs a few more tokens in the step: the model computes drafted tokens side by side with the token that it has
to compute anyway, and accepts those that equal its own. So a drafter changes how fast tokens come, never which ones.
(If it gives the probabilities of its drafts, requests without a seed may get other tokens of the same distribution:
see `Draft.draft_probs`.)

All calls come from one thread, that of the engine process, between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from histrio.config.settings import SpeculationSettings
from histrio.contracts.backend import BackendFactory, Probe, StageSpec
from histrio.contracts.sampler import DraftProbs, DraftSampler
from histrio.messages import Generate

__all__ = ["Draft", "Drafter", "DrafterFactory", "DrafterSpec", "DrafterTools"]


@dataclass(slots=True)
class Draft:
    """Tokens that may come next in one sequence."""

    ids: list[int]
    draft_probs: list[DraftProbs] = field(default_factory=list)
    """For each of `ids` the distribution it was drawn from, by numbers that have nothing to do with the request's seed.
    Empty where the ids were not drawn: they are the tokens the drafter finds most likely."""


class Drafter(Protocol):
    """The drafter of one replica. A sequence is known by its request's number."""

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        """A sequence starts to decode, with these tokens so far: prompt and what was generated."""

    def extend(self, request: int, ids: Sequence[int]) -> None:
        """The sequence gained these tokens, whatever was proposed."""

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        """For each request at most so many tokens that may come next; a request without a draft is left out.

        One call for all sequences of a step. Proposed tokens do not count as tokens of a sequence; only those of
        `extend` do.
        """

    def close(self, request: int) -> None:
        """The sequence has ended or was preempted; in the second case it is opened again."""

    def shutdown(self) -> None:
        """Free everything. Safe to call twice."""


class DrafterSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The model that a drafter drafts for, and its settings. Plain data: it travels to the engine process."""

    model: str
    """Folder of the model that is served."""
    num_layers: int
    vocab_size: int
    max_batch_size: int
    """Most sequences open at a time."""
    max_sequence_length: int
    max_draft: int
    """Most tokens asked for at a time."""
    device: str = "auto"
    """Device of the first stage, which is in the same process."""
    dtype: str = "auto"
    threads: int | None = None
    options: Any = {}
    """`[engine.drafter-options]`, an instance of `DrafterFactory.options` wherever the factory gets a spec."""
    offline: bool = False
    """`[model] offline`: use files on this machine only, and never ask the hub."""

    @classmethod
    def of_stage(
        cls,
        stage: StageSpec,
        settings: SpeculationSettings,
        *,
        vocab_size: int,
        options: Any,
        offline: bool = False,
    ) -> DrafterSpec:
        """The spec for the model of `stage`, which is the first stage, in its process."""
        return cls(
            model=stage.model,
            num_layers=stage.num_layers,
            vocab_size=vocab_size,
            max_batch_size=stage.sizes.max_batch_size,
            max_sequence_length=stage.max_sequence_length,
            max_draft=settings.max_draft,
            device=stage.device,
            dtype=stage.dtype,
            threads=stage.threads,
            options=options,
            offline=offline,
        )


@dataclass(frozen=True, slots=True)
class DrafterTools:
    """The backends and samplers that a drafter which computes may use."""

    stage_backend: Callable[[str], BackendFactory]
    """A stage backend by its name. Raises `PluginError`."""
    make_chain: Callable[[int], DraftSampler]
    """The samplers of the last stage, for so many slots."""


class DrafterFactory(Protocol):
    """A plugin registers it under a name; it is cheap to import and to make."""

    name: str
    options: type[Any]
    """The keys of `[engine.drafter-options]`, a struct with `rename="kebab"`; `NoOptions` for none."""

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        """Whether the drafter can draft for this model with these backends; reads configuration files only."""

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> Drafter:
        """Make a drafter that is ready to draft; this may load weights. Raises `ModelError`, `BackendError`."""
