"""The hook implementation that offers these samplers."""

from __future__ import annotations

from collections.abc import Callable

from histrio.hooks import hookimpl
from histrio.sampling import Sampler
from histrio_samplers.temperature import Temperature
from histrio_samplers.top_k import TopK
from histrio_samplers.top_p import TopP

__all__ = ["register_samplers"]


@hookimpl
def register_samplers(register: Callable[[type[Sampler]], None]) -> None:
    """Offer temperature, top-k and top-p."""
    for sampler in (Temperature, TopK, TopP):
        register(sampler)
