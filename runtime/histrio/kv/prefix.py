"""Names for what blocks hold: a hash chain over full blocks, so that equal prefixes have equal names.

A block's name covers its own tokens and, through the name of the block before, everything that its keys and values
depend on. SHA-256, because a collision would hand one request the context of another.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["BlockName", "block_names", "root_name"]

BlockName = bytes
"""32 bytes."""
_NUM_KEPT_ROOTS = 64


@lru_cache(_NUM_KEPT_ROOTS)
def root_name(salt: str) -> BlockName:
    """The name before the first block. Requests with another salt get other names, so they share no blocks."""
    return hashlib.sha256(salt.encode()).digest()


def block_names(parent: BlockName, ids: Sequence[int], block_size: int) -> list[BlockName]:
    """Names of the full blocks that `ids` fill after `parent`; a rest of fewer than `block_size` ids has no name."""
    names = []
    for end in range(block_size, len(ids) + 1, block_size):
        tokens = array("q", ids[end - block_size : end]).tobytes()
        parent = hashlib.sha256(parent + tokens).digest()
        names.append(parent)
    return names
