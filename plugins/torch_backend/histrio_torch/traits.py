"""What every torch stage is capable of, and what to do where it is not."""

from __future__ import annotations

from histrio.contracts.backend import Capability

__all__ = ["BLOCK_SIZES", "CAPABILITIES", "KV_CACHE_REMEDY"]

CAPABILITIES = (
    Capability.BATCH,
    Capability.REWIND,
    Capability.PREFIX_SHARE,
    Capability.COPY_BLOCKS,
    Capability.ALL_POSITION_LOGITS,
    Capability.HIDDEN_STATES,
)
"""Of every torch stage, whatever the model."""
BLOCK_SIZES = (16, 32, 64, 128)
"""Tokens per block that the attention can do."""
KV_CACHE_REMEDY = 'set kv-cache-dtype = "auto"'
