"""What every torch stage is capable of, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histrio.contracts.backend import Capability
from histrio_torch.encoder_families import is_encoder, kind_of

__all__ = ["BLOCK_SIZES", "KV_CACHE_REMEDY", "capabilities_of"]

_OF_DECODERS = (Capability.BATCH, Capability.REWIND, Capability.PREFIX_SHARE, Capability.COPY_BLOCKS)
_OF_ENCODERS = (Capability.BATCH, Capability.WHOLE_TEXTS)
BLOCK_SIZES = (16, 32, 64, 128)
"""Tokens per block that the attention can do."""
KV_CACHE_REMEDY = 'set kv-cache-dtype = "auto"'


def capabilities_of(config: Mapping[str, Any]) -> list[Capability]:
    """Of a stage of this model."""
    found = _OF_ENCODERS if is_encoder(config) else _OF_DECODERS
    match kind_of(config):
        case "generate":
            return [*found, Capability.ALL_POSITION_LOGITS, Capability.HIDDEN_STATES]
        case "embed":
            return [*found, Capability.HIDDEN_STATES]
        case "score":
            return [*found, Capability.SCORES]
