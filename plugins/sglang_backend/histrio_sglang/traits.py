"""What every stage on SGLang is capable of."""

from __future__ import annotations

from histrio.contracts.backend import Capability

__all__ = ["CAPABILITIES"]

CAPABILITIES = (
    Capability.BATCH,
    Capability.REWIND,
    Capability.PREFIX_SHARE,
    Capability.COPY_BLOCKS,
    Capability.ALL_POSITION_LOGITS,
)
"""Of every stage, whatever the model."""
