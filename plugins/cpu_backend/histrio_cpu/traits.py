"""What every CPU stage is capable of, and its settings."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from histrio.contracts.backend import Capability

__all__ = ["BLOCK_SIZES", "CAPABILITIES", "CpuOptions"]

CAPABILITIES = (
    Capability.BATCH,
    Capability.REWIND,
    Capability.PREFIX_SHARE,
    Capability.COPY_BLOCKS,
    Capability.ALL_POSITION_LOGITS,
    Capability.HIDDEN_STATES,
)
"""Of every CPU stage, whatever the model."""
BLOCK_SIZES = (16, 32, 64, 128)
"""Tokens per block that the attention can do."""


class CpuOptions(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """`options` of a stage on the CPU backend."""

    arch: Literal["auto", "amx", "avx512-bf16", "avx512", "avx2", "neon", "plain"] = "auto"
    """The kernels: auto is the fastest that the processor runs, plain is the reference that the others are tested
    with."""
    numa: Annotated[int, msgspec.Meta(ge=0, lt=1024)] | Literal["off", "distribute"] = "off"
    """Threads and memory of one NUMA node, by its number, or distributed over all of them; off: as the system does."""
    quantization: Literal["none", "q8", "q4"] = "none"
    """Round the weights of linear layers as they load, to 8 or 4 bits in groups of 32."""
    flash_tile_size: Annotated[int, msgspec.Meta(ge=64, le=65_536, multiple_of=64)] = 512
    """Keys that attention takes at a time, a multiple of 64; threads share the tiles of a long context."""
    flash_attention: bool = True
    """Attention in tiles; false keeps the scores of a whole context in memory, to check the tiles with."""
    packed_cache_gib: Annotated[float, msgspec.Meta(ge=0, le=65_536)] = 16.0
    """Most GiB that packed weights of all models take in the user's cache, for faster starts; 0: none are kept."""
