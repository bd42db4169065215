"""The hook implementation that offers these samplers."""

from __future__ import annotations

from collections.abc import Callable

from histrio.contracts.hooks import hookimpl
from histrio.contracts.sampler import Sampler
from histrio_samplers.allowed_token_ids import AllowedTokenIds
from histrio_samplers.bad_words import BadWords
from histrio_samplers.dry import Dry
from histrio_samplers.logit_bias import LogitBias
from histrio_samplers.min_p import MinP
from histrio_samplers.min_tokens import MinTokens
from histrio_samplers.mirostat import Mirostat
from histrio_samplers.occurrence_penalties import OccurrencePenalties
from histrio_samplers.repetition_penalty import RepetitionPenalty
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_n_sigma import TopNSigma
from histrio_samplers.top_p import TopP
from histrio_samplers.typical_p import TypicalP
from histrio_samplers.xtc import Xtc

__all__ = ["SAMPLERS", "register_samplers"]

SAMPLERS: tuple[type[Sampler], ...] = (
    AllowedTokenIds,
    BadWords,
    MinTokens,
    LogitBias,
    RepetitionPenalty,
    OccurrencePenalties,
    Dry,
    Temperature,
    TopNSigma,
    TopK,
    TopP,
    MinP,
    TypicalP,
    Xtc,
    Mirostat,
)
"""Offer all samplers, in the order in which they run."""


@hookimpl
def register_samplers(register: Callable[[type[Sampler]], None]) -> None:
    """Offer all of them."""
    for sampler in SAMPLERS:
        register(sampler)
